"""`rfdlight layers`: what a network is made of, and where noise goes by default."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any

import timm
import torch
from rich import box
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

from rfdlight import _io
from rfdlight._io import plain_console
from rfdlight.core.activations import InsertionPoint
from rfdlight.defenses.insertion_points import default_points
from rfdlight.errors import UserError, one_line, unknown_name
from rfdlight.victims.card import build_network, read_card
from rfdlight.victims.import_path import import_victim, is_import_path
from rfdlight.victims.networks import create_network
from rfdlight.victims.resolve import card_path

_TIMM = "timm:"
_SIZES = (224, 32, 28, 64, 96, 128, 256, 299, 384, 512)
"""Heights and widths that are tried for a network that does not say its own."""

_MOST_CHANNELS = 4
"""Of an image; the first convolution of a network that takes features has more."""


def layers(model: str, depth: int = 2, image_size: int | None = None) -> None:
    """List a network's layers, their output shapes, and where feature noise goes by default.

    Weights are neither needed nor downloaded, but for an import path, whose function makes what it makes.

    Args:
        model: A shipped victim, the path of a victim card, `timm:NAME`, or an import path.
        depth: How many levels of modules inside modules are listed; default points are listed always.
        image_size: Height and width of the image, by default those of the card, of timm's settings, or for an import
            path the first common size that the network takes.

    Raises:
        UserError: If there is no such model, or it does not take images of that size.
    """
    for name, value in (("depth", depth), ("image_size", 1 if image_size is None else image_size)):
        if value < 1:
            raise UserError(f"{name} must be at least 1, got {value}")
    if is_import_path(model):
        whole = import_victim(model)
        shape = _taken_shape(whole, image_size, model)
        # As noise in features looks for its layers: a Victim has its normalisation outside of the network.
        network = getattr(whole, "network", whole)
    else:
        whole, shape = _build(model, image_size)
        network = whole.eval()
    shapes = output_shapes(whole, shape, model, network)
    points = default_points(network)
    console = plain_console()
    console.print(Text(f"{model}, one image of {_times(shape)}"))
    console.print(_table(network, shapes, points, depth))
    console.print(Text(_closing(points)), soft_wrap=True)


def _build(model: str, image_size: int | None) -> tuple[nn.Module, tuple[int, ...]]:
    """Build the network without memory for its weights, and say which images it takes."""
    with torch.device("meta"):
        if model.startswith(_TIMM):
            network = _from_timm(model.removeprefix(_TIMM), image_size)
            shape = (getattr(network, "default_cfg", None) or {}).get("input_size")
            if shape is None and image_size is None:
                raise UserError(f"timm does not say which images {model} takes; give --image_size")
        else:
            path = card_path(_known(model))
            card = read_card(path)
            network, shape = build_network(card, path), card.image_shape
    channels, *size = shape or (3,)
    return network, (channels, *(size if image_size is None else (image_size, image_size)))


def _taken_shape(network: nn.Module, image_size: int | None, name: str) -> tuple[int, ...]:
    """Return the first shape of images that a network takes, of the size that was chosen or of common ones."""
    convolutions = (module for module in network.modules() if isinstance(module, nn.Conv2d))
    channels = getattr(next(convolutions, None), "in_channels", 3)
    counts = (channels,) if channels <= _MOST_CHANNELS else (3, 1)
    if image_size is not None and len(counts) == 1:
        return channels, image_size, image_size
    for count in counts:
        for size in _SIZES if image_size is None else (image_size,):
            with suppress(UserError):
                output_shapes(network, (count, size, size), name)
                return count, size, size
    raise UserError(
        f"{name} takes images of none of the heights {', '.join(map(str, _SIZES))}; give --image_size"
        if image_size is None
        else f"{name} does not take images of {image_size} x {image_size}"
    )


def _known(model: str) -> str:
    """Return a name or path as it is; for names of neither kind say the nearest of both."""
    shipped = [path.stem for path in _io.shipped_folder("checkpoints").glob("*.json")]
    if model in shipped or "/" in model or "." in model:
        return model
    raise unknown_name("model", model, [*shipped, *([f"{_TIMM}{model}"] if timm.is_model(model) else [])])


def _from_timm(name: str, image_size: int | None) -> nn.Module:
    if image_size is not None:
        try:
            return create_network(name, img_size=image_size)
        except TypeError:
            pass  # a network that takes images of any size has no such argument
    return create_network(name)


@torch.no_grad()
def output_shapes(
    network: nn.Module, shape: tuple[int, ...], name: str, inside: nn.Module | None = None
) -> dict[str, str]:
    """Return what leaves each module for one image, as text, without the dimension of the batch.

    Args:
        network: In eval mode.
        shape: Of the image: channels, height, width.
        name: Of the network, for the error.
        inside: The part of the network whose modules are looked at; all of it by default.

    Returns:
        The text by the module's path, of its first call; modules that are not called are left out.

    Raises:
        UserError: If the network does not take such an image.
    """
    shapes: dict[str, str] = {}

    def note(path: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        shapes.setdefault(path, _shape(output))

    handles = [
        module.register_forward_hook(partial(note, path))
        for path, module in (inside or network).named_modules()
        if not isinstance(module, torch.jit.ScriptModule)  # which takes no hooks
    ]
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    try:
        network(torch.zeros(1, *shape, device=device))
    except Exception as error:  # a user's own code may raise anything
        raise UserError(f"{name} does not take images of {_times(shape)}: {one_line(error)}") from error
    finally:
        for handle in handles:
            handle.remove()
    return shapes


def _shape(output: Any) -> str:
    if isinstance(output, Tensor):
        return _times(tuple(output.shape[1:]))
    if isinstance(output, tuple | list):
        return ", ".join(map(_shape, output))
    return type(output).__name__


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _table(network: nn.Module, shapes: dict[str, str], points: list[InsertionPoint], depth: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("layer", overflow="fold")
    table.add_column("type", overflow="fold")
    table.add_column("output", overflow="fold")
    table.add_column("default noise", no_wrap=True)
    marks = {
        point.name: f"{index}: {'before' if point.side == 'input' else 'after'}" for index, point in enumerate(points)
    }
    for path, module in network.named_modules():
        if path and (path.count(".") < depth or path in marks):
            cells = (path, type(module).__name__, shapes.get(path, "not called"), marks.get(path, ""))
            table.add_row(*map(Text, cells), style="bold" if path in marks else "")
    return table


def _closing(points: list[InsertionPoint]) -> str:
    if not points:
        return "no default: choose layers with --defense.layers"
    side = " --defense.at input" if points[0].side == "input" else ""
    return f"default: --defense.layers '[{','.join(point.name for point in points)}]'{side}"
