"""From what a user calls a victim to the network."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

import timm
import torch
from torch import nn

from rfdlight import packaged
from rfdlight.data.base import ImageData
from rfdlight.errors import UserError, unknown_name
from rfdlight.victims.card import VictimCard, fit_weights, load_victim, read_weights
from rfdlight.victims.networks import create_network
from rfdlight.victims.victim import Victim

_TIMM = "timm:"


def resolve_victim(
    spec: str | None, checkpoint: str | None, data: ImageData
) -> tuple[nn.Module, VictimCard | None, str]:
    """Build the victim that `spec` names and check that it answers the data's images.

    Args:
        spec: One of: the name of a shipped victim; the path of a victim card, ending in `.json`;
            `timm:NAME`, a timm network for the data's classes, channels and statistics, with the
            weights of `checkpoint`; an import path `my_module.my_net` of a class or function that
            without arguments gives a module from pixels in [0, 1] to logits. None takes the
            data's default victim.
        checkpoint: A safetensors file, for the last two; with an import path it may be left out.
        data: What will be attacked; its test split is read.

    Returns:
        The victim in eval mode, its card if it has one, and one line that says what was loaded.

    Raises:
        UserError: If there is no such victim, its weights cannot be had, or it does not fit the data.
    """
    spec = spec or data.default_victim
    classes, shape = data.num_classes, tuple(data.images("test").pixels.shape[1:])
    card = None
    if spec.startswith(_TIMM):
        victim, told = _from_timm(spec, checkpoint, data, shape)
    elif _is_import_path(spec):
        victim, told = _from_import_path(spec, checkpoint)
    else:
        if checkpoint is not None:
            raise UserError(
                f"--model.checkpoint is for timm:NAME or an import path; the victim '{spec}' has weights of its own"
            )
        victim, card = load_victim(card_path(spec))
        for what, of_card, of_data in (
            ("classes", card.num_classes, classes),
            ("images of the shape", card.image_shape, shape),
        ):
            if of_card != of_data:
                raise UserError(f"the victim '{spec}' is for {what} {of_card}, the data {data.name} has {of_data}")
        told = (
            f"{spec}: {card.network} trained on {card.data}, weights sha256 {card.sha256[:12]}, "
            f"clean accuracy {card.clean_accuracy:.2%} ({card.clean_correct} of {card.clean_total})"
        )
    victim.eval()
    _check_answer(victim, spec, classes, shape)
    return victim, card, told


def _is_import_path(spec: str) -> bool:
    parts = spec.split(".")
    return len(parts) > 1 and all(part.isidentifier() for part in parts) and parts[-1] not in ("json", "safetensors")


def card_path(spec: str) -> Path:
    """Return where the card of a shipped name lies, or the path that was given.

    Raises:
        UserError: If there is no such name, or the path is not that of a card.
    """
    if spec.endswith(".json"):
        return Path(spec).expanduser()
    if "/" in spec or Path(spec).suffix == ".safetensors":
        raise UserError(
            f"a victim is given by its card, a .json, got '{spec}'; "
            "weights without a card go to --model.checkpoint, with --model.victim timm:NAME"
        )
    return packaged.find("checkpoints", spec, ".json")


def _from_timm(spec: str, checkpoint: str | None, data: ImageData, shape: tuple[int, ...]) -> tuple[nn.Module, str]:
    name = spec.removeprefix(_TIMM)
    if not timm.is_model(name):
        raise unknown_name("network", name, timm.list_models())
    if checkpoint is None:
        raise UserError(f"'{spec}' alone has random weights; give its safetensors file with --model.checkpoint")
    network = create_network(name, num_classes=data.num_classes, in_chans=shape[0])
    digest = _load_weights(network, checkpoint, name)
    told = f"{spec} with {checkpoint}, weights sha256 {digest[:12]}, clean accuracy unknown"
    return Victim(network, data.mean, data.std), told


def _from_import_path(spec: str, checkpoint: str | None) -> tuple[nn.Module, str]:
    module_name, _, attribute = spec.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(f"cannot import the victim '{spec}': {' '.join(str(error).split())}") from error
    if not hasattr(module, attribute):
        public = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise unknown_name(f"name in the module {module_name}:", attribute, public)
    make = getattr(module, attribute)
    if isinstance(make, nn.Module) or not callable(make):
        raise UserError(f"'{spec}' must be a class or a function that makes a module, got a {type(make).__name__}")
    try:
        inspect.signature(make).bind()
    except TypeError as error:
        raise UserError(f"'{spec}' must need no arguments: {error}; wrap it in a function that gives them") from error
    victim = make()
    if not isinstance(victim, nn.Module):
        raise UserError(f"'{spec}' must make a torch.nn.Module, it made a {type(victim).__name__}")
    if checkpoint is None:
        return victim, f"{spec} with the weights that it makes, clean accuracy unknown"
    digest = _load_weights(victim, checkpoint, spec)
    return victim, f"{spec} with {checkpoint}, weights sha256 {digest[:12]}, clean accuracy unknown"


def _load_weights(network: nn.Module, checkpoint: str, name: str) -> str:
    path = Path(checkpoint).expanduser()
    tensors, digest = read_weights(path)
    fit_weights(network, tensors, path, name)
    return digest


def _check_answer(victim: nn.Module, spec: str, classes: int, shape: tuple[int, ...]) -> None:
    """Ask once for two black images; draws nothing from the run's random numbers."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            logits = victim(torch.zeros(2, *shape))
        except (AssertionError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            size = " x ".join(map(str, shape))
            raise UserError(f"the victim '{spec}' does not take images of {size}: {reason}") from error
    found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if found != (2, classes):
        raise UserError(f"the victim '{spec}' must answer 2 images with logits of shape {(2, classes)}, got {found}")
