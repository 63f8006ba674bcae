"""From what a user calls a victim to the network."""

from __future__ import annotations

import functools
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import timm
import torch
from torch import nn

from rfdlight import packaged, user_code
from rfdlight.data.base import ImageData
from rfdlight.data.preparation import Preparation
from rfdlight.documents import expanded
from rfdlight.errors import UserError, unknown_name
from rfdlight.victims.card import VictimCard, load_victim, read_card
from rfdlight.victims.networks import create_network, pretrained_settings
from rfdlight.victims.victim import Victim
from rfdlight.victims.weights import fit_weights, named_for, read_checkpoint, weights_digest

_TIMM = "timm:"

_SUM_ERROR = 0.01
"""How far from 1 the probabilities of half precision may add up."""

_OF_PYTHON = sys.stdlib_module_names | {"pip", "pkg_resources", "setuptools"}
"""Packages that have no victims, but functions without arguments that do other things: os.abort, pip.main."""


def resolve_victim(
    spec: str | None, checkpoint: str | None, data: ImageData
) -> tuple[nn.Module, VictimCard | None, str]:
    """Build the victim that `spec` names and check that it answers the data's images.

    Args:
        spec: One of: the name of a shipped victim; the path of a victim card, ending in `.json`;
            `timm:NAME`, a timm network for the data's classes and channels, with the weights of
            `checkpoint`, or timm's own for the classes of ImageNet; an import path
            `my_module.my_net` of a class or function that without arguments gives a module from
            pixels in [0, 1] to logits. None takes the data's default victim.
        checkpoint: A file of weights, for the last two: see `rfdlight.victims.weights.read_checkpoint`.
        data: What will be attacked; its test split is read, at the size that the victim asks for.

    Returns:
        The victim in eval mode, its card if it has one, and one line that says what was loaded.

    Raises:
        UserError: If there is no such victim, its weights cannot be had, or it does not fit the data.
    """
    spec = spec or data.default_victim
    if spec is None:
        raise UserError(f"the data {data.name} has no victim of its own: give --model.victim")
    classes, card = data.num_classes, None
    if spec.startswith(_TIMM):
        victim, told = _from_timm(spec, checkpoint, data)
    elif user_code.is_import_path(spec):
        victim, told = _from_import_path(spec, checkpoint)
    else:
        if checkpoint is not None:
            raise UserError(
                f"--model.checkpoint is for timm:NAME or an import path; the victim '{spec}' has weights of its own"
            )
        victim, card = load_victim(card_path(spec))
        check_data(spec, card, data)
        if card.preparation is not None:
            data.prepare(Preparation(**card.preparation))
        for what, of_card, of_data in (
            ("classes", card.num_classes, classes),
            ("images of the shape", card.image_shape, data.image_shape),
        ):
            if of_card != of_data:
                raise UserError(f"the victim '{spec}' is for {what} {of_card}, the data {data.name} has {of_data}")
        told = (
            f"{spec}: {card.network} trained on {card.data}, weights sha256 {card.sha256[:12]}, "
            f"clean accuracy {card.clean_accuracy:.2%} ({card.clean_correct} of {card.clean_total})"
        )
    victim.eval()
    _check_answer(victim, spec, classes, data.image_shape)
    return victim, card, told


SHIPPED_DATA = ("cifar10", "digits", "imagenet")
"""Names of data sets that always hold the same images: a victim of one of them is not attacked on another."""


def card_of(spec: str | None) -> VictimCard | None:
    """Return the card of a victim as a user names it, None for a victim that has none, or that is not there."""
    if not spec or spec.startswith(_TIMM) or user_code.is_import_path(spec):
        return None
    try:
        return read_card(card_path(spec))
    except UserError:  # which says more where the victim is loaded
        return None


def check_data(spec: str, card: VictimCard, data: ImageData) -> None:
    """Refuse a victim that was trained on another of the shipped data sets.

    Raises:
        UserError: Names the data set of the card.
    """
    if card.data != data.name and card.data in SHIPPED_DATA and data.name in SHIPPED_DATA:
        raise UserError(
            f"the victim '{spec}' was trained on {card.data}, expected --data {card.data}, got {data.name}; for other "
            "images of the same classes give --data folder"
        )


def other_data_caution(card: VictimCard | None, data: ImageData) -> str | None:
    """Return one line if a victim was trained on data of another name, else None."""
    if card is None or card.data == data.name:
        return None
    return (
        f"the victim was trained on {card.data}, the data are {data.name}: compare image size, classes and their order"
    )


def maker_module(spec: str | None) -> ModuleType | None:
    """Return the module of a victim's import path, once it was imported; None for victims of another kind."""
    return sys.modules.get(spec.rpartition(".")[0]) if spec and user_code.is_import_path(spec) else None


def card_path(spec: str) -> Path:
    """Return where the card of a shipped name lies, or the path that was given.

    Raises:
        UserError: If there is no such name, or the path is not that of a card.
    """
    if spec.endswith(".json"):
        return expanded(spec)
    if "/" in spec or Path(spec).suffix == ".safetensors":
        raise UserError(
            f"a victim is given by its card, a .json, got '{spec}'; "
            "weights without a card go to --model.checkpoint, with --model.victim timm:NAME"
        )
    return packaged.find("checkpoints", spec, ".json")


def _from_timm(spec: str, checkpoint: str | None, data: ImageData) -> tuple[nn.Module, str]:
    name = spec.removeprefix(_TIMM)
    if not timm.is_model(name):
        raise unknown_name("network", name, timm.list_models())
    settings = pretrained_settings(name)
    # Images that have no size of their own, and pretrained weights, go by what timm says of the network.
    pretrained = checkpoint is None and settings is not None and settings.num_classes == data.num_classes
    if checkpoint is None and not pretrained:
        raise UserError(f"'{spec}' alone has random weights; give its file with --model.checkpoint")
    mean, std = data.mean, data.std
    if settings is not None and (pretrained or not data.has_native_size):
        data.prepare(settings.preparation)
        if len(settings.mean) == len(mean):  # timm's are of RGB
            mean, std = settings.mean, settings.std
    network = create_network(name, pretrained, num_classes=data.num_classes, in_chans=len(data.mean))
    if checkpoint is None:
        told = f"{spec} with timm's pretrained weights, clean accuracy unknown"
    else:
        digest = _load_weights(network, checkpoint, name)
        told = f"{spec} with {checkpoint}, weights sha256 {digest[:12]}, clean accuracy unknown"
    return Victim(network, mean, std), told


def _from_import_path(spec: str, checkpoint: str | None) -> tuple[nn.Module, str]:
    module_name, _, attribute = spec.rpartition(".")
    _check_own(spec, module_name)
    module = user_code.import_module(module_name, f"the victim '{spec}'")
    if not hasattr(module, attribute):
        public = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise unknown_name(f"name in the module {module_name}:", attribute, public)
    make = getattr(module, attribute)
    if isinstance(make, nn.Module) or not callable(make):
        raise UserError(f"'{spec}' must be a class or a function that makes a module, got a {type(make).__name__}")
    _check_maker(spec, make)
    try:
        inspect.signature(make).bind()
    except TypeError as error:
        raise UserError(f"'{spec}' must need no arguments: {error}; wrap it in a function that gives them") from error
    with user_code.guarded(f"cannot make the victim '{spec}'"):
        victim = make()
    if not isinstance(victim, nn.Module):
        raise UserError(f"'{spec}' must make a torch.nn.Module, it made a {type(victim).__name__}")
    if checkpoint is None:
        made = weights_digest(victim)[:12]
        return victim, f"{spec} with the weights that it makes, digest {made}, clean accuracy unknown"
    digest = _load_weights(victim, checkpoint, spec)
    return victim, f"{spec} with {checkpoint}, weights sha256 {digest[:12]}, clean accuracy unknown"


def _check_own(spec: str, module_name: str | None) -> None:
    """Refuse what belongs to Python: it makes no network, and to import or call it may do anything."""
    if str(module_name).partition(".")[0] in _OF_PYTHON:
        raise UserError(
            f"'{spec}' is of Python itself; expected a class or a function of yours that makes a module, in a file "
            "whose name Python does not have"
        )


def _check_maker(spec: str, make: Any) -> None:
    """Refuse to call what is there for another purpose than to make a network."""
    while isinstance(make, functools.partial):
        make = make.func
    named = inspect.isclass(make) or inspect.isroutine(make)
    _check_own(spec, (make if named else type(make)).__module__)
    if inspect.isbuiltin(make) or (inspect.isclass(make) and not issubclass(make, nn.Module)):
        raise UserError(f"'{spec}' must be a subclass of torch.nn.Module or a function that makes one")


def _load_weights(network: nn.Module, checkpoint: str, name: str) -> str:
    path = expanded(checkpoint)
    tensors, digest = read_checkpoint(path)
    fit_weights(network, named_for(network, tensors), path, name)
    return digest


def _check_answer(victim: nn.Module, spec: str, classes: int, shape: tuple[int, ...]) -> None:
    """Ask once for two black images; draws nothing from the run's random numbers."""
    try:
        logits = _answer_to_black_images(victim, shape)
    except Exception as error:  # a user's own code may raise anything
        size = " x ".join(map(str, shape))
        reason = user_code.described(error)
        raise UserError(f"the victim '{spec}' does not take images of {size}: {reason}") from error
    found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if found != (2, classes):
        raise UserError(f"the victim '{spec}' must answer 2 images with logits of shape {(2, classes)}, got {found}")


def _answer_to_black_images(victim: nn.Module, shape: tuple[int, ...]) -> Any:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        return victim(torch.zeros(2, *shape))


def probabilities_caution(victim: nn.Module, shape: tuple[int, ...]) -> str | None:
    """Return one line if a victim answers with probabilities, as after a softmax, where logits are expected.

    Args:
        victim: That `resolve_victim` has returned.
        shape: Of an image, (C, H, W).
    """
    answer = _answer_to_black_images(victim, shape).float()
    if not ((answer >= 0).all() and ((answer.sum(1) - 1).abs() < _SUM_ERROR).all()):
        return None
    return (
        "the victim answers with probabilities: their margins lose precision, and their mean is not that of the "
        "logits; remove the softmax at its end"
    )
