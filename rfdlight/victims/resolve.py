"""From what a user calls a victim to the network."""

from __future__ import annotations

import copy
import functools
import importlib.util
import inspect
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import timm
from torch import nn

from rfdlight import _io
from rfdlight._io import expanded
from rfdlight.core import user_code
from rfdlight.data.base import ImageData
from rfdlight.data.preparation import Preparation
from rfdlight.errors import UserError, one_line, unknown_name
from rfdlight.victims.answers import answer_in_logits, as_module
from rfdlight.victims.card import VictimCard, load_victim, read_card
from rfdlight.victims.networks import create_network, pretrained_settings
from rfdlight.victims.victim import Victim
from rfdlight.victims.weights import attributes_digest, load_checkpoint, weights_digest

TIMM = "timm:"
"""What stands before the name of a timm network."""

_FILE = re.compile(r"(?P<file>.+\.py):(?P<name>[^\W\d]\w*)")
"""A file of Python, and a name in it."""

_AS_CODE = "load it in a function of yours that returns a module, and give --model.victim my_file.py:my_function"
_AS_WEIGHTS = (
    "weights without a card go to --model.checkpoint, with --model.victim timm:NAME or an import path of the network"
)
_FILES_OF_VICTIMS = {
    **dict.fromkeys((".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".tar"), _AS_WEIGHTS),
    **dict.fromkeys((".pt2", ".ptl", ".torchscript", ".onnx", ".h5", ".keras", ".tflite", ".pb"), _AS_CODE),
    ".py": "name the function or the module in it: my_file.py:my_function",
}
"""Files that are no victims by themselves, by their ends, and how to use them."""

_OF_PYTHON = sys.stdlib_module_names | {"pip", "pkg_resources", "setuptools"}
"""Packages that have no victims, but functions without arguments that do other things: os.abort, pip.main."""


def resolve_victim(
    spec: str | None, checkpoint: str | None, data: ImageData, batch_size: int | None = None
) -> tuple[nn.Module, VictimCard | None, str]:
    """Build the victim that `spec` names and check that it answers the data's images.

    Args:
        spec: One of: the name of a shipped victim; the path of a victim card, ending in `.json`;
            `timm:NAME`, a timm network for the data's classes and channels, with the weights of
            `checkpoint`, or timm's own for the classes of ImageNet; an import path
            `my_module.my_net`, or `my_file.py:my_net`, of a module from pixels in [0, 1] to logits, or of a
            class or function that without arguments gives one. None takes the data's default victim.
        checkpoint: A file of weights, for the last two: see `rfdlight.victims.weight_files.read_checkpoint`.
        data: What will be attacked; its test split is read, at the size that the victim asks for.
        batch_size: Images per forward pass, for a victim that takes no other number; None where they vary.

    Returns:
        The victim in eval mode, its card if it has one, and one line that says what was loaded.

    Raises:
        UserError: If there is no such victim, its weights cannot be had, or it does not fit the data.
    """
    spec = spec or data.default_victim
    if spec is None:
        raise UserError(f"the data {data.name} has no victim of its own: give --model.victim")
    classes, card = data.num_classes, None
    if spec.startswith(TIMM):
        victim, told = _from_timm(spec, checkpoint, data)
    elif is_import_path(spec):
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
    where = answer_in_logits(victim, spec, classes, data.image_shape, batch_size)
    return victim, card, f"{told}; {where}" if where else told


SHIPPED_DATA = ("cifar10", "digits", "imagenet")
"""Names of data sets that always hold the same images: a victim of one of them is not attacked on another."""


def card_of(spec: str | None) -> VictimCard | None:
    """Return the card of a victim as a user names it, None for a victim that has none, or that is not there."""
    if not spec or spec.startswith(TIMM) or is_import_path(spec):
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


def other_data_warning(card: VictimCard | None, data: ImageData) -> str | None:
    """Return one line if a victim was trained on data of another name, else None."""
    if card is None or card.data == data.name:
        return None
    return (
        f"the victim was trained on {card.data}, the data are {data.name}: compare image size, classes and their order"
    )


def maker_module(spec: str | None) -> ModuleType | None:
    """Return the module of a victim's import path, once it was imported; None for victims of another kind."""
    if spec is None or not is_import_path(spec):
        return None
    place, _ = _divided(spec)
    return sys.modules.get(_name_of_file(place) if isinstance(place, Path) else place)


def is_import_path(spec: str) -> bool:
    """Return whether a victim is given by an import path: `my_module.my_net`, or `my_file.py:my_net`."""
    if _FILE.fullmatch(spec) or spec.startswith(TIMM):
        return not spec.startswith(TIMM)
    parts = spec.replace(":", ".", 1).split(".")
    return len(parts) > 1 and all(part.isidentifier() for part in parts) and not _is_file(spec)


def _is_file(spec: str) -> bool:
    return Path(spec).suffix.lower() in (*_FILES_OF_VICTIMS, ".json", ".py")


def _divided(spec: str) -> tuple[Path | str, str]:
    """Return the file or the module of an import path, and the name in it."""
    file = _FILE.fullmatch(spec)
    if file:
        return expanded(file["file"]), file["name"]
    module, _, name = spec.replace(":", ".", 1).rpartition(".")
    return module, name


def _name_of_file(path: Path) -> str:
    """Return the name of the module of a file; Python and other packages have none that begins so."""
    return f"victim_file_{path.stem}"


def card_path(spec: str) -> Path:
    """Return where the card of a shipped name lies, or the path that was given.

    Raises:
        UserError: If there is no such name, or the path is not that of a card.
    """
    if spec.endswith(".json"):
        return expanded(spec)
    remedy = _FILES_OF_VICTIMS.get(Path(spec).suffix.lower(), _AS_WEIGHTS if "/" in spec else None)
    if remedy is not None:
        raise UserError(f"a victim is given by its card, a .json, got '{spec}'; {remedy}")
    return _io.find_shipped("checkpoints", spec, ".json")


def _from_timm(spec: str, checkpoint: str | None, data: ImageData) -> tuple[nn.Module, str]:
    name = spec.removeprefix(TIMM)
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
        told = _loaded(network, checkpoint, name, spec)
    return Victim(network, mean, std), told


def _from_import_path(spec: str, checkpoint: str | None) -> tuple[nn.Module, str]:
    victim = import_victim(spec)
    if checkpoint is not None:
        return victim, _loaded(victim, checkpoint, spec, spec)
    made = weights_digest(victim)[:12]
    return victim, f"{spec} with the weights that it makes, digest {made}, clean accuracy unknown"


def import_victim(spec: str) -> nn.Module:
    """Return the module that an import path names or makes, in eval mode.

    Raises:
        UserError: If there is none, it needs arguments, or what it makes cannot be attacked.
    """
    place, attribute = _divided(spec)
    module = _module_of_file(spec, place) if isinstance(place, Path) else _module_of_name(spec, place)
    if not hasattr(module, attribute):
        public = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise unknown_name(f"name in the module {place}:", attribute, public)
    make = getattr(module, attribute)
    if isinstance(make, nn.Module):
        try:
            return as_module(copy.deepcopy(make), spec)  # which several runs of a process may ask for
        except (RuntimeError, TypeError, NotImplementedError) as error:
            raise UserError(
                f"'{spec}' is a module that cannot be copied: {one_line(error)}; give a function that makes it"
            ) from error
    if not callable(make):
        raise UserError(
            f"'{spec}' must be a module, or a class or a function that makes a module, got a {type(make).__name__}"
        )
    _check_maker(spec, make)
    try:
        inspect.signature(make).bind()
    except TypeError as error:
        raise UserError(f"'{spec}' must need no arguments: {error}; wrap it in a function that gives them") from error
    with user_code.guarded(f"cannot make the victim '{spec}'"):
        victim = make()
    return as_module(victim, spec)


def _module_of_name(spec: str, name: str) -> ModuleType:
    _check_own(spec, name)
    return user_code.import_module(name, f"the victim '{spec}'")


def _module_of_file(spec: str, path: Path) -> ModuleType:
    """Import a file of Python, which may import its neighbours."""
    name = _name_of_file(path)
    known = sys.modules.get(name)
    if known is not None and known.__file__ == str(path.resolve()):
        return known
    found = importlib.util.spec_from_file_location(name, path.resolve())
    if found is None or found.loader is None or not path.is_file():
        raise UserError(f"cannot import the victim '{spec}': there is no file {path}")
    if str(path.resolve().parent) not in sys.path:
        sys.path.append(str(path.resolve().parent))
    module = sys.modules[name] = importlib.util.module_from_spec(found)
    try:
        with user_code.guarded(f"cannot import the victim '{spec}'"):
            found.loader.exec_module(module)
    except UserError:
        del sys.modules[name]
        raise
    return module


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


def _loaded(network: nn.Module, checkpoint: str, name: str, spec: str) -> str:
    """Load a file of weights, and return one line on them and on what else decides the answers."""
    digest, note = load_checkpoint(network, expanded(checkpoint), name)
    own = attributes_digest(network)
    own = f", tensors of its own {own[:12]}" if own else ""
    return f"{spec} with {checkpoint}, weights sha256 {digest[:12]}{own}, clean accuracy unknown{note}"
