"""Victims on disk: weights as safetensors, with a card that describes them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import timm
import torch
from msgspec import Meta, field
from safetensors.torch import save_file

from rfdlight._io import read_bytes, replacing, write_file
from rfdlight.core.statistics import wilson
from rfdlight.data.conversion import check_normalisation
from rfdlight.data.preparation import Preparation
from rfdlight.errors import UserError, one_line, shown
from rfdlight.victims.networks import create_network, strange_option
from rfdlight.victims.scales import read_scales, scales_path
from rfdlight.victims.schemes import file_digest
from rfdlight.victims.victim import Victim
from rfdlight.victims.weight_files import read_weights
from rfdlight.victims.weights import check_fit, fit_weights

Count = Annotated[int, Meta(ge=0)]
PositiveCount = Annotated[int, Meta(ge=1)]
Pixels = Annotated[int, Meta(ge=1, le=2048)]
"""Height or width; timm's largest networks take half as many."""


class VictimCard(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Description of a stored victim: its network, its training and its accuracy.

    Attributes:
        network, network_options: Name and further options for `timm.create_model`.
        image_shape: Channels, height, width.
        preparation: How images are resized to `image_shape`; None if they have that size.
        mean, std: Of each channel, in pixel units.
        data, command, seed, train_seconds, versions: Of the training; `command` is its command line.
        parameters: How many.
        clean_correct, clean_total: Right answers on the test images that can be read, undefended, in float32.
        clean_accuracy, clean_interval: Their ratio, and its 95 % Wilson interval.
        sha256: Of the weights file.
        pgd10_correct, pgd10_total, pgd10_eps: Right answers under 10 steps of PGD in a linf ball of that radius, in
            pixel units, after adversarial training.
    """

    network: str
    num_classes: PositiveCount
    image_shape: tuple[Pixels, Pixels, Pixels]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    data: str
    command: str
    seed: int
    parameters: Count
    clean_correct: Count
    clean_total: PositiveCount
    clean_accuracy: Annotated[float, Meta(ge=0, le=1)]
    clean_interval: tuple[float, float]
    sha256: str
    versions: dict[str, str]
    network_options: dict[str, Any] = field(default_factory=dict)
    preparation: Preparation | None = None
    train_seconds: float | None = None
    pgd10_correct: Count | None = None
    pgd10_total: PositiveCount | None = None
    pgd10_eps: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("network", self.network), ("data", self.data), ("sha256", self.sha256)):
            if value != shown(value):
                raise ValueError(f"{name}: expected printable text, got '{shown(value)}'")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.image_shape[0]:
                raise ValueError(f"{name}: expected {self.image_shape[0]} values, one per channel, got {len(values)}")
        check_normalisation(self.mean, self.std)
        if self.clean_correct > self.clean_total:
            raise ValueError(f"clean_correct: expected at most clean_total, got {self.clean_correct}")
        strange = strange_option(self.network_options)
        if strange is not None:
            raise ValueError(f"network_options: expected plain options of the network, got {shown(strange)}")


def weights_path(card_path: Path) -> Path:
    """Return the path of a card's weights: beside it, under the same name."""
    return card_path.with_suffix(".safetensors")


def save_victim(victim: Victim, card_path: Path, **facts: Any) -> VictimCard:
    """Write the weights of the victim's network, and the card with further `facts`; the weights go beside the card."""
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
        sha256=file_digest(weights_path(card_path)),
    )
    write_file(card_path, msgspec.json.format(msgspec.json.encode(card, enc_hook=str), indent=2) + b"\n")
    return card


def read_card(card_path: Path) -> VictimCard:
    """Read a card; a field that is missing, unknown or out of range is a UserError."""
    try:
        return msgspec.json.decode(read_bytes(card_path), type=VictimCard)
    except OSError as error:
        raise UserError(f"cannot read the victim card {card_path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{card_path} is no victim card: {one_line(error)}") from error


def load_victim(card_path: Path, scales: bool = True) -> tuple[Victim, VictimCard]:
    """Build the network of a card, in eval mode, and load its weights, and its scales of features if there are any.

    Weights that are no safetensors, have another hash than on the card, or do not fit its network, are refused.
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
    """Build the network that a card names, with random weights."""
    if not timm.is_model(card.network):
        raise UserError(f"the card {card_path} names the network '{card.network}', which timm does not have")
    options = {**card.network_options, "num_classes": card.num_classes, "in_chans": card.image_shape[0]}
    try:
        return create_network(card.network, pretrained=False, **options)
    except (TypeError, LookupError, AttributeError, OverflowError, MemoryError) as error:
        raise UserError(
            f"the card {card_path} has options that '{card.network}' does not take: {one_line(error)}"
        ) from error
