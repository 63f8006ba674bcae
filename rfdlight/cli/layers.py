"""`rfdlight layers`: list the layers of a network and its default insertion points."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any

import torch
from rich import box
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

from rfdlight._io import plain_console
from rfdlight.core.activations import InsertionPoint
from rfdlight.defenses.insertion_points import default_points
from rfdlight.errors import UserError, expect, one_line
from rfdlight.victims.answers import device_of
from rfdlight.victims.arrays import outside_torch
from rfdlight.victims.card import build_network, read_card
from rfdlight.victims.import_path import import_victim, is_import_path
from rfdlight.victims.networks import create_network
from rfdlight.victims.resolve import card_path, load
from rfdlight.victims.schemes import TIMM, place_of, scheme_of

_SIZE = 224
"""Height and width of an image for a network of unknown image size."""


def layers(model: str, depth: int = 2, image_size: int | None = None) -> None:
    """List a network's layers, their output shapes, and the default insertion points of feature noise.

    Weights are not needed and not downloaded, except those that the function of an import path loads itself.

    Args:
        model: As `--model.victim` of `rfdlight test`.
        depth: Levels of nested modules to list; default insertion points are always listed.
        image_size: Height and width of the image; by default those of the card, of timm's settings, or 224 for an
            import path.

    Raises:
        UserError: If there is no such model, or it does not accept images of that size.
    """
    for name, value in (("depth", depth), ("image_size", image_size)):
        expect(value is None or value >= 1, name, "at least 1", value)
    if scheme_of(model) not in (None, TIMM) or is_import_path(model):
        whole = import_victim(model) if is_import_path(model) else load(model).module
        if outside_torch(whole) is not None:
            raise UserError(f"'{model}' is outside torch, and shows no layers")
        # The layers of a defense are looked up in the network of a Victim, without its normalisation.
        network = getattr(whole, "network", whole)
        first = next((module for module in whole.modules() if isinstance(module, nn.Conv2d)), None)
        shape: tuple[int, ...] = (3 if first is None else first.in_channels, _SIZE, _SIZE)
    else:
        whole, shape = _build(model, image_size)
        network = whole.eval()
    if image_size is not None:
        shape = (shape[0], image_size, image_size)
    shapes = output_shapes(whole, shape, model, network)
    points = default_points(network)
    console = plain_console()
    console.print(Text(f"{model}, one image of {_times(shape)}"))
    console.print(_table(network, shapes, points, depth))
    closing = "no default: choose layers with --defense.layers"
    if points:
        side = " --defense.at input" if points[0].side == "input" else ""
        closing = f"default: --defense.layers '[{','.join(point.name for point in points)}]'{side}"
    console.print(Text(closing), soft_wrap=True)


def _build(model: str, image_size: int | None) -> tuple[nn.Module, tuple[int, ...]]:
    """Return a network without memory for its weights, and the shape of its images."""
    with torch.device("meta"):
        if scheme_of(model) is None:
            card = read_card(card_path(model))
            return build_network(card, card_path(model)), card.image_shape
        network = _from_timm(place_of(model), image_size)
        shape = (getattr(network, "default_cfg", None) or {}).get("input_size")
        known = shape is not None or image_size is not None
        expect(known, "--image_size", "a number", "none", f"timm does not specify the image size of {model}")
        return network, shape or (3,)


def _from_timm(name: str, image_size: int | None) -> nn.Module:
    if image_size is not None:
        with suppress(TypeError):  # a network for images of any size has no such argument
            return create_network(name, img_size=image_size)
    return create_network(name)


@torch.no_grad()
def output_shapes(network: nn.Module, shape: tuple[int, ...], name: str, inside: nn.Module) -> dict[str, str]:
    """Return the output shape of each called module in a part of a network for one image, as text, by its path.

    The shapes are of the first call, without the batch dimension; the network is in eval mode.
    """
    shapes: dict[str, str] = {}

    def note(path: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        shapes.setdefault(path, _shape(output))

    handles = [module.register_forward_hook(partial(note, path)) for path, module in inside.named_modules()]
    try:
        network(torch.zeros(1, *shape, device=device_of(network)))
    except Exception as error:  # a user's own code may raise anything
        reason = f"{name} does not take images of {_times(shape)}: {one_line(error)}"
        raise UserError(f"{reason}; give --image_size another size") from error
    finally:
        for handle in handles:
            handle.remove()
    return shapes


def _shape(output: Any) -> str:
    if isinstance(output, Tensor):
        return _times(tuple(output.shape[1:]))
    return ", ".join(map(_shape, output)) if isinstance(output, tuple | list) else type(output).__name__


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _table(network: nn.Module, shapes: dict[str, str], points: list[InsertionPoint], depth: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("layer", "type", "output"):
        table.add_column(column, overflow="fold")
    table.add_column("default noise", no_wrap=True)
    marks = {
        point.name: f"{index}: {'before' if point.side == 'input' else 'after'}" for index, point in enumerate(points)
    }
    for path, module in network.named_modules():
        if path and (path.count(".") < depth or path in marks):
            cells = (path, type(module).__name__, shapes.get(path, "not called"), marks.get(path, ""))
            table.add_row(*map(Text, cells), style="bold" if path in marks else "")
    return table
