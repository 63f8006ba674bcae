"""Loading of a victim by the name, path or import path that a user gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import timm
from torch import nn

from rfdlight import _io
from rfdlight._io import expanded
from rfdlight.core.registry import names, resolve
from rfdlight.core.row_counter import RowCounter
from rfdlight.data.base import ImageData
from rfdlight.errors import UserError, unknown_name
from rfdlight.victims.answers import answer_in_logits
from rfdlight.victims.card import VictimCard, read_card
from rfdlight.victims.card import load_victim as load_stored
from rfdlight.victims.digest import identity_of, weights_digest
from rfdlight.victims.http import load_url
from rfdlight.victims.hugging_face import load_hugging_face
from rfdlight.victims.import_path import has_card, import_victim, is_import_path
from rfdlight.victims.loaded import LoadedVictim
from rfdlight.victims.networks import create_network, pretrained_settings
from rfdlight.victims.onnx_file import load_onnx
from rfdlight.victims.programs import load_torch_export, load_torchscript
from rfdlight.victims.schemes import FORMS, TIMM, place_of, scheme_of
from rfdlight.victims.victim import Victim
from rfdlight.victims.weights import classes_stored, load_checkpoint

SHIPPED_DATA = ("cifar10", "digits", "imagenet")
"""Names of data sets whose images are always the same: a victim of one of them is not attacked on another."""


_LOADERS: dict[str, Callable[[str], LoadedVictim]] = {
    "hf": load_hugging_face,
    "onnx": load_onnx,
    "torchscript": load_torchscript,
    "torch-export": load_torch_export,
    "http": load_url,
    "https": load_url,
}
"""Loader of each scheme whose victims have weights of their own."""


def load_victim(name: str, checkpoint: str | None = None) -> nn.Module:
    """Load a classifier of pixels in [0, 1] in eval mode.

    Args:
        name: A shipped name (see `rfdlight.list_victims`), the path of a victim card (.json), an import path such as
            `my_module.my_net` or `my_file.py:my_net`, or one of the schemes `timm:NAME`, `hf:NAME_OR_FOLDER` (Hugging
            Face), `onnx:FILE`, `torchscript:FILE`, `torch-export:FILE`, `http://HOST/PATH` and `https://HOST/PATH`.
        checkpoint: File of weights, for `timm:NAME`, which gets the number of classes of its last layer, and import
            paths.

    Raises:
        UserError: If there is no such victim, its weights cannot be loaded, or a package is missing; the message names
            the extra that installs it.

    Example:
        >>> load_victim("resnet8-digits").training
        False
    """
    return load(name, checkpoint).module.eval()


def load(
    spec: str,
    checkpoint: str | None = None,
    classes: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    native_size: bool = True,
) -> LoadedVictim:
    """Load the victim that `spec` names, see `load_victim`.

    Classes, mean and std are for a timm network, which has by default the classes of its checkpoint, and else those of
    timm's weights; without a `native_size`, images are resized as timm does for the network.
    """
    if spec in names("victim"):
        spec = resolve("victim", spec)
    scheme = scheme_of(spec)
    if scheme == TIMM:
        return _from_timm(spec, checkpoint, classes, mean, std, native_size)
    if is_import_path(spec):
        victim = import_victim(spec)
        if checkpoint is not None:
            return LoadedVictim(victim, _load_weights(victim, checkpoint, spec, spec))
        made = identity_of(victim) or f"the weights that it makes, digest {weights_digest(victim)[:12]}"
        return LoadedVictim(victim, f"{spec} with {made}, clean accuracy unknown")
    if checkpoint is not None:
        raise UserError(
            f"--model.checkpoint is for timm:NAME or an import path; the victim '{spec}' has weights of its own"
        )
    if scheme is not None:
        return _LOADERS[scheme](spec)
    victim, card = load_stored(card_path(spec))
    description = (
        f"{spec}: {card.network} trained on {card.data}, weights sha256 {card.sha256[:12]}, "
        f"clean accuracy {card.clean_accuracy:.2%} ({card.clean_correct} of {card.clean_total})"
    )
    return LoadedVictim(victim, description, card, card.preparation)


def resolve_victim(
    spec: str | None,
    checkpoint: str | None,
    data: ImageData,
    batch_size: int | None = None,
    load: Callable[..., LoadedVictim] = load,
) -> LoadedVictim:
    """Load the victim that `spec` names, or the data's default, and check that it returns logits for the data's images.

    The test split of the data is read, at the size that the victim needs.
    """
    spec = spec or data.default_victim
    if spec is None:
        raise UserError(f"the data {data.name} has no victim of its own: give --model.victim")
    found = load(spec, checkpoint, data.num_classes, data.mean, data.std, data.has_native_size)
    card = found.card
    if card is not None:
        check_data(spec, card, data)
    if found.preparation is not None:
        data.prepare(found.preparation)
    if card is not None and (card.num_classes, card.image_shape) != (data.num_classes, data.image_shape):
        raise UserError(
            f"the victim '{spec}' is for {card.num_classes} classes, images {card.image_shape}, the data {data.name} "
            f"has {data.num_classes} and {data.image_shape}"
        )
    found.module.eval()
    with RowCounter(found.module) as counter:
        where = answer_in_logits(found.module, spec, data.num_classes, data.image_shape, batch_size)
    description = f"{found.description}; {where}" if where else found.description
    return replace(found, description=description, checked_rows=counter.rows)


def card_of(spec: str | None) -> VictimCard | None:
    """Return the card of a victim, None if it has none or it cannot be read."""
    if not spec or not has_card(spec):
        return None
    try:
        return read_card(card_path(spec))
    except UserError:  # loading the victim raises it again
        return None


def check_data(spec: str, card: VictimCard, data: ImageData) -> None:
    """Refuse a victim that was trained on another of the shipped data sets."""
    if card.data != data.name and card.data in SHIPPED_DATA and data.name in SHIPPED_DATA:
        raise UserError(
            f"the victim '{spec}' was trained on {card.data}, expected --data {card.data}, got {data.name}; for other "
            "images of the same classes give --data folder"
        )


def other_data_warning(card: VictimCard | None, data: ImageData) -> str | None:
    """Return a warning if a victim was trained on data of another name."""
    if card is None or card.data == data.name:
        return None
    return (
        f"the victim was trained on {card.data}, the data are {data.name}: compare image size, classes and their order"
    )


def card_path(spec: str) -> Path:
    """Return the path of the card of a shipped name, or the given path of a card."""
    if spec.endswith(".json"):
        return expanded(spec)
    if {"/", "."} & set(spec):
        raise UserError(f"a victim is {FORMS}, got '{spec}'; files of weights go to --model.checkpoint")
    return _io.find_shipped("checkpoints", spec, ".json")


def _from_timm(
    spec: str,
    checkpoint: str | None,
    classes: int | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    native_size: bool,
) -> LoadedVictim:
    name = place_of(spec)
    if not timm.is_model(name):
        raise unknown_name("network", name, timm.list_models())
    settings = pretrained_settings(name)
    pretrained = checkpoint is None and settings is not None and classes in (None, settings.num_classes)
    if checkpoint is None and not pretrained:
        raise UserError(f"'{spec}' alone has random weights; give its file with --model.checkpoint")
    # timm's settings hold for its own weights, and for images of no size of their own; its means are of RGB.
    by_settings = settings is not None and (pretrained or not native_size)
    if settings is not None and (mean is None or (by_settings and len(settings.mean) == len(mean))):
        mean, std = settings.mean, settings.std
    usual = settings.num_classes if settings is not None and classes is None else classes
    if usual is None or mean is None or std is None:
        raise UserError(f"classes, mean, std: expected values for '{spec}', which has no settings of timm")
    network = create_network(name, pretrained, num_classes=usual, in_chans=len(mean))
    if classes is None and checkpoint is not None:
        stored = classes_stored(network, expanded(checkpoint))
        if stored not in (None, usual):
            network = create_network(name, num_classes=stored, in_chans=len(mean))
    if checkpoint is None:
        description = f"{spec} with timm's pretrained weights, clean accuracy unknown"
    else:
        description = _load_weights(network, checkpoint, name, spec)
    preparation = settings.preparation if settings is not None and by_settings else None
    return LoadedVictim(Victim(network, mean, std), description, preparation=preparation)


def _load_weights(network: nn.Module, checkpoint: str, name: str, spec: str) -> str:
    """Load a file of weights, and return one line on them."""
    digest, note = load_checkpoint(network, expanded(checkpoint), name)
    return f"{spec} with {checkpoint}, weights sha256 {digest[:12]}, clean accuracy unknown{note}"
