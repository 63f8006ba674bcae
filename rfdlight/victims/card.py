"""Victims on disk: weights as safetensors, with a card that says what they are."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file

from rfdlight._io import parse_json, read_text, replacing, write_file
from rfdlight.core.field_types import Kind, is_count, is_number, is_positive_count, or_none, wrong_field
from rfdlight.core.statistics import wilson
from rfdlight.data.preparation import Preparation
from rfdlight.errors import UserError, one_line, shown
from rfdlight.victims.networks import create_network, strange_option
from rfdlight.victims.scales import read_scales, scales_path
from rfdlight.victims.victim import Victim
from rfdlight.victims.weights import check_fit, fit_weights, read_weights

_MOST_PIXELS = 2048
"""Height and width of the images of a card; timm's largest networks take half as many."""


@dataclass(frozen=True)
class VictimCard:
    """What a stored victim is, how it was made and how well it classifies.

    Attributes:
        network: The name that `timm.create_model` knows.
        num_classes: Outputs.
        image_shape: Channels, height, width.
        mean: Per channel, in pixel units.
        std: Per channel, in pixel units.
        data: The data set it was trained on.
        command: What made it.
        seed: Of the training.
        parameters: How many.
        clean_correct: Right answers on the whole test set, undefended, in float32.
        clean_total: Size of that test set, without what cannot be read.
        clean_accuracy: Their ratio.
        clean_interval: Its 95 % Wilson interval.
        sha256: Of the weights file.
        versions: Of what the training ran on.
        network_options: Further options of timm.
        preparation: How images came to `image_shape`, the fields of `rfdlight.data.preparation.Preparation`;
            None where they have it of themselves.
        train_seconds: How long the training took, in seconds.
        pgd10_correct: Right answers under 10 steps of PGD, for a victim that was trained adversarially.
        pgd10_total: Of how many test images.
        pgd10_eps: Radius of their ball in linf, in pixel units.
    """

    network: str
    num_classes: int
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    data: str
    command: str
    seed: int
    parameters: int
    clean_correct: int
    clean_total: int
    clean_accuracy: float
    clean_interval: tuple[float, float]
    sha256: str
    versions: dict[str, str]
    network_options: dict[str, Any] = field(default_factory=dict)
    preparation: dict[str, Any] | None = None
    train_seconds: float | None = None
    pgd10_correct: int | None = None
    pgd10_total: int | None = None
    pgd10_eps: float | None = None


def weights_path(card_path: Path) -> Path:
    """Return where the weights of a card lie: beside it, under the same name."""
    return card_path.with_suffix(".safetensors")


def save_victim(victim: Victim, card_path: Path, **facts: Any) -> VictimCard:
    """Write the weights and the card.

    Args:
        victim: Its network's weights are stored, contiguous, on the CPU.
        card_path: A `.json`; the weights go beside it.
        facts: The card's fields, less those that follow from the weights and the counts.

    Raises:
        UserError: If they cannot be written.
    """
    weights = {key: value.detach().cpu().contiguous() for key, value in victim.network.state_dict().items()}
    with replacing(weights_path(card_path)) as partial:
        save_file(weights, partial)
    correct, total = facts["clean_correct"], facts["clean_total"]
    card = VictimCard(
        **facts,
        mean=tuple(round(value, 6) for value in victim.mean.flatten().tolist()),
        std=tuple(round(value, 6) for value in victim.std.flatten().tolist()),
        parameters=sum(parameter.numel() for parameter in victim.network.parameters()),
        clean_accuracy=correct / total,
        clean_interval=wilson(correct, total),
        sha256=hashlib.sha256(weights_path(card_path).read_bytes()).hexdigest(),
    )
    write_file(card_path, json.dumps(asdict(card), indent=2) + "\n")
    return card


def read_card(card_path: Path) -> VictimCard:
    """Read a card.

    Raises:
        UserError: If it cannot be read, has other fields, or fields that describe no network.
    """
    try:
        content = parse_json(read_text(card_path))
        listed: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in content.items()
        }
        card = VictimCard(**listed)
    except OSError as error:
        raise UserError(f"cannot read the victim card {card_path}: {error.strerror}") from error
    except (ValueError, TypeError, AttributeError) as error:
        expected = ", ".join(field.name for field in fields(VictimCard))
        raise UserError(f"{card_path} is no victim card; expected the fields {expected}") from error
    wrong = _wrong_field(card)
    if wrong is not None:
        raise UserError(f"{card_path} is no victim card; its field {wrong} is {getattr(card, wrong)!r:.80}")
    return card


def _wrong_field(card: VictimCard) -> str | None:
    """Return the first of the fields that a network is built from, or that are shown, that cannot be right."""
    wrong = wrong_field(vars(card), _KINDS)
    if wrong is None and not len(card.mean) == card.image_shape[0] == len(card.std):
        return "mean" if len(card.mean) != card.image_shape[0] else "std"
    if wrong is None and card.clean_correct > card.clean_total:
        return "clean_correct"
    return wrong


def _is_plain(value: object) -> bool:
    return isinstance(value, str) and value == shown(value)


def _is_shape(value: object) -> bool:
    sizes = value if isinstance(value, tuple) and len(value) == 3 else (0,)
    return all(is_positive_count(size) and size <= _MOST_PIXELS for size in sizes)


def _are_numbers(value: object) -> bool:
    return isinstance(value, tuple) and all(map(is_number, value))


def _is_preparation(value: Any) -> bool:
    try:
        Preparation(**value)
    except (TypeError, UserError):
        return False
    return True


def _are_options(value: Any) -> bool:
    return isinstance(value, dict) and strange_option(value) is None


_KINDS: dict[str, Kind] = {
    **dict.fromkeys(("network", "data", "sha256"), _is_plain),
    "num_classes": is_positive_count,
    "image_shape": _is_shape,
    "mean": _are_numbers,
    "std": lambda value: _are_numbers(value) and all(each > 0 for each in value),
    "network_options": _are_options,
    "preparation": or_none(_is_preparation),
    "clean_total": is_positive_count,
    "clean_correct": is_count,
    "clean_accuracy": lambda value: is_number(value) and 0 <= value <= 1,
}


def load_victim(card_path: Path, scales: bool = True) -> tuple[Victim, VictimCard]:
    """Build the network of a card, in eval mode, and load its weights, after checking both against the card.

    Args:
        card_path: A `.json`, with the weights beside it.
        scales: Whether to read the scales of its features too, if they lie there.

    Raises:
        UserError: If the weights are missing, are not safetensors, have another hash than the
            card says, or do not fit the card's network; if the scales are those of other weights.
    """
    card = read_card(card_path)
    path = weights_path(card_path)
    tensors, found = read_weights(path)
    if found != card.sha256:
        raise UserError(
            f"{path} is not the file its card describes: expected sha256 {card.sha256[:16]}..., got {found[:16]}..."
        )
    with torch.device("meta"):  # takes no memory: a card may name any network, for any number of classes
        check_fit(build_network(card, card_path), tensors, path, card.network)
    network = build_network(card, card_path)
    fit_weights(network, tensors, path, card.network)
    stored = read_scales(scales_path(card_path), card.sha256) if scales else {}
    return Victim(network, card.mean, card.std, stored).eval(), card


def build_network(card: VictimCard, card_path: Path) -> torch.nn.Module:
    """Build the network that a card names, with random weights.

    Raises:
        UserError: If timm does not know it, or it does not take the card's options.
    """
    if not timm.is_model(card.network):
        raise UserError(f"the card {card_path} names the network '{card.network}', which timm does not know")
    options = {**card.network_options, "num_classes": card.num_classes, "in_chans": card.image_shape[0]}
    try:
        return create_network(card.network, pretrained=False, **options)
    except (TypeError, LookupError, AttributeError, OverflowError, MemoryError) as error:
        raise UserError(f"the card {card_path} has options that '{card.network}' refuses: {one_line(error)}") from error
