"""Matching of a checkpoint's tensors with the names of a network, and loading of the weights."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from rfdlight.errors import UserError, one_line
from rfdlight.victims.weight_files import Checkpoint, read_checkpoint

_PREFIXES = ("module.", "_orig_mod.", "victim.network.", "network.", "model.", "net.")
"""Prefixes that wrappers put before every name of a network."""

_PLAIN = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "params", "weights")
"""Keys under which training scripts store the weights of the last step, the most usual first."""

_COUNTER = "num_batches_tracked"
"""A buffer that files from before torch 0.4.1 lack, and that no output depends on in eval mode."""

_BOOKKEEPING = (_COUNTER, "n_averaged", "total_ops", "total_params")
"""Last parts of the names of tensors that no output depends on: of batch normalisation, of averaging, of thop."""


@dataclass(frozen=True)
class Match:
    """The tensors of a checkpoint that belong to a network.

    Attributes:
        root: Prefix of the network's names in the file, with a dot at its end, or "".
        named: The tensors by the names of the network, with neighbours that the network has no name for.
        left_out: Names in the file of neighbours that were left out.
        others: Roots of further sets of weights that fit.
        partial: Roots of averaged weights that lack some, so that others were chosen.
    """

    root: str
    named: dict[str, Tensor]
    left_out: list[str]
    others: list[str]
    partial: list[str]

    def note(self, path: Path) -> str:
        """Return the choices that were made, or "" if the file left none."""
        notes = ""
        if self.others:
            kind = ", which is averaged (EMA)" if is_averaged(self.root) else ""
            notes += f"; the weights are those of {_shown(self.root)}{kind}; others that fit: "
            notes += f"{', '.join(map(_shown, self.others))}, by --model.checkpoint {path}#KEY"
        if self.partial:
            notes += f"; the averaged weights of {', '.join(map(_shown, self.partial))} lack some and were left out"
        if self.left_out:
            notes += f"; {len(self.left_out)} tensors left out: {_some(self.left_out)}"
        return notes


def match(network: nn.Module, checkpoint: Checkpoint, path: Path, optional: Collection[str] = ()) -> Match:
    """Find the weights of a network in a checkpoint, under any prefix of the names on either side.

    Of several sets of weights that fit, averaged ones (EMA) are chosen, as in timm, otherwise those in the usual place.

    Args:
        network: Whose names and shapes are matched.
        checkpoint: Its tensors.
        path: Of the file, for messages.
        optional: Names of the network that may be missing or have another shape.

    Raises:
        UserError: If several sets fit and no convention decides.
    """
    wanted, stored = _state(network), checkpoint.tensors
    own = _wrapping(wanted)
    names = {name.removeprefix(own): tensor.shape for name, tensor in wanted.items()}
    tied = _tied(network)
    needed = {
        name for name in names if own + name not in tied and own + name not in optional and not name.endswith(_COUNTER)
    }
    found = Counter(
        each[: dot + 1]
        for each in stored
        for dot in (-1, *(place.start() for place in re.finditer(r"\.", each)))
        if each[dot + 1 :] in names
    )

    def fits(root: str) -> bool:
        return all(root + name in stored and stored[root + name].shape == names[name] for name in needed)

    def same(root: str, other: str) -> bool:
        return all(torch.equal(stored[root + name], stored[other + name]) for name in needed)

    complete: list[str] = []
    for root in sorted(found, key=len):
        if fits(root) and not any(same(root, other) for other in complete):
            complete.append(root)
    fullest = max(found, key=lambda root: (found[root], -len(root)), default="")
    root = _chosen(complete, path) if complete else fullest
    named, left_out = _by_name(network, checkpoint, root, own, names.keys())
    for name in wanted.keys() - named.keys():
        stored_as = next((other for other in tied.get(name, ()) if other in named), None)
        if stored_as is not None:
            named[name] = named[stored_as]
        elif name.endswith(_COUNTER) and complete:
            named[name] = wanted[name]
    others = [other for other in complete if other != root]
    partial = [other for other in found if is_averaged(other) and 2 * found[other] > len(needed) and not fits(other)]
    left_out = [name for name in left_out if not name.startswith((*filter(None, others), *partial))]
    return Match(root, named, left_out, others, partial if complete else [])


def named_for(network: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors by the names of a network, under any prefix of the names on either side.

    Example:
        >>> named_for(nn.Sequential(nn.Linear(2, 1)), {"module.0.bias": torch.zeros(1)})
        {'0.bias': tensor([0.])}
    """
    return match(network, Checkpoint(tensors, "", dict.fromkeys(tensors, "")), Path()).named


def _chosen(roots: list[str], path: Path) -> str:
    """Return the root that conventions choose among those that fit."""
    averaged = [root for root in roots if is_averaged(root)]
    usual = ([root for root in roots if root.partition(".")[0] == key] for key in ("", *_PLAIN) if not averaged)
    for candidates in (roots, averaged, *usual):
        if len(candidates) == 1:
            return candidates[0]
    raise UserError(
        f"{path} holds several sets of weights that fit: {', '.join(map(_shown, roots))}; choose one: "
        f"--model.checkpoint {path}#{roots[0].rstrip('.')}"
    )


def is_averaged(root: str) -> bool:
    """Return whether the name of a part of a checkpoint is one of averaged weights.

    Example:
        >>> is_averaged("state_dict_ema."), is_averaged("schema.")
        (True, False)
    """
    return "ema" in re.split(r"[._]", root.lower())


def _shown(root: str) -> str:
    return f"'{root.rstrip('.')}'" if root else "the top level"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _by_name(
    network: nn.Module, checkpoint: Checkpoint, root: str, own: str, names: Collection[str]
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors below a root by the names of the network, and the neighbours that are left out.

    Neighbours that the network has no name for are among the former, as signs of another network, unless no output
    depends on them.
    """
    used = {checkpoint.containers[root + name] for name in names if root + name in checkpoint.tensors}
    buffers = dict(network.named_buffers())
    named, left_out = {}, []
    for full, tensor in checkpoint.tensors.items():
        name = own + full.removeprefix(root)
        if full.startswith(root) and full.removeprefix(root) in names:
            named[name] = tensor
        elif not used or checkpoint.containers[full] in used:
            held = buffers.get(name)
            known = held is not None and held.shape == tensor.shape and torch.equal(tensor.to(held.dtype), held.cpu())
            if full.startswith(root) and not known and not name.endswith(_BOOKKEEPING):
                named[name] = tensor
            else:
                left_out.append(full)
    return named, left_out


def _wrapping(names: Iterable[str]) -> str:
    """Return the prefixes that wrappers have put before all of some names."""
    names = list(names)
    prefix = next((each for each in _PREFIXES if names and all(name.startswith(each) for name in names)), "")
    return prefix and prefix + _wrapping(name.removeprefix(prefix) for name in names)


def _state(network: nn.Module) -> dict[str, Tensor]:
    """Return the state of a network, and refuse quantized networks, whose state is no plain tensors."""
    state = network.state_dict()
    plain = {name: value for name, value in state.items() if isinstance(value, Tensor) and not value.is_quantized}
    other = [name for name in state if name not in plain and not name.endswith("_extra_state")]
    if other:
        raise UserError(
            f"the network is quantized: {other[0]} is no tensor of plain numbers, so that no file of weights can be "
            "loaded into it; load them in the function that makes the network"
        )
    return plain


def _tied(network: nn.Module) -> dict[str, list[str]]:
    """Return, for every parameter that the network has under several names, all of these names."""
    names: dict[int, list[str]] = {}
    for name, tensor in network.named_parameters(remove_duplicate=False):
        names.setdefault(id(tensor), []).append(name)
    return {name: group for group in names.values() if len(group) > 1 for name in group}


def head_names(network: nn.Module) -> set[str]:
    """Return the names of the tensors of a network's last layer: timm's classifier, else the last linear layer."""
    named = getattr(network, "default_cfg", {}).get("classifier")
    if named is None:
        named = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)][-1:]
    heads = (named,) if isinstance(named, str) else tuple(named)
    return {key for key in network.state_dict() if key.startswith(tuple(f"{head}." for head in heads))}


def load_checkpoint(network: nn.Module, path: Path, name: str) -> tuple[str, str]:
    """Load a user's file of weights into a network, completely.

    Args:
        network: Changed in place.
        path: See `rfdlight.victims.weight_files.read_checkpoint`.
        name: Of the network, for messages.

    Returns:
        The sha256 of the file, and the choices that were made, see `Match.note`.

    Raises:
        UserError: If the file cannot be read, or names or shapes differ.
    """
    checkpoint = read_checkpoint(path)
    found = match(network, checkpoint, path)
    try:
        fit_weights(network, found.named, path, name)
    except UserError:
        # Networks translate older names of their own weights: of weight_norm, and of hooks on loading.
        if not found.named or not network.state_dict().keys() - found.named.keys() or not _loads(network, found.named):
            raise
    return checkpoint.sha256, found.note(path)


def _loads(network: nn.Module, tensors: dict[str, Tensor]) -> bool:
    with suppress(Exception):  # modules of a user may raise anything
        network.load_state_dict(tensors)
        return True
    return False


def fit_weights(network: nn.Module, tensors: dict[str, Tensor], path: Path, name: str) -> None:
    """Load `tensors` into `network`, completely."""
    check_fit(network, tensors, path, name)
    try:
        network.load_state_dict(network.state_dict() | tensors)
    except Exception as error:  # modules of a user may raise anything
        raise UserError(f"{path} cannot be loaded into the network '{name}': {one_line(error)[:200]}") from error


def check_fit(network: nn.Module, tensors: dict[str, Tensor], path: Path, name: str) -> None:
    """Compare names, shapes and kinds of numbers; a network on the meta device is enough.

    Raises:
        UserError: If they differ; names the first, and the way to fine-tune with another head.
    """
    wanted = _state(network)
    misfit = f"{path} does not fit the network '{name}'"
    problems = [
        f"it {verb} {len(keys)} {what} tensors, the first is {min(keys)}"
        for verb, what, keys in (
            ("lacks", "needed", wanted.keys() - tensors.keys()),
            ("has", "other", tensors.keys() - wanted.keys()),
        )
        if keys
    ]
    if problems:
        shard = re.search(r"-\d+-of-\d+\.", path.name)
        hint = "; it is one of several shards: give their index, *.index.json" if shard else ""
        raise UserError(f"{misfit}: {'; '.join(problems)}{hint}")
    other = [key for key in sorted(tensors) if tensors[key].shape != wanted[key].shape]
    if other and set(other) <= head_names(network) and tensors[other[-1]].ndim:
        classes, expected = tensors[other[-1]].shape[0], wanted[other[-1]].shape[0]
        raise UserError(
            f"{path} has a head for {classes} classes, the data has {expected}; to fine-tune it: "
            f"rfdlight fit --model.network {name} --model.checkpoint {path}"
        )
    if other:
        found, shape = tuple(tensors[other[0]].shape), tuple(wanted[other[0]].shape)
        raise UserError(f"{misfit}: {other[0]} has the shape {found}, expected {shape}")
    for key, tensor in tensors.items():
        dtype = wanted[key].dtype
        integers = dtype.is_floating_point and not tensor.is_floating_point()
        if integers or (tensor.is_complex() and not dtype.is_complex):
            raise UserError(
                f"{misfit}: {key} holds {tensor.dtype}, expected {dtype}; compressed weights have to be unpacked first"
            )


def start_from(network: nn.Module, path: Path, name: str) -> str:
    """Load a user's weights into a network for fine-tuning; a head that is missing or of another size stays random.

    Args:
        network: Changed in place.
        path: See `rfdlight.victims.weight_files.read_checkpoint`.
        name: Of the network, for messages.

    Returns:
        One line on the tensors that were loaded, replaced and left over.

    Raises:
        UserError: If anything but the head is missing or has another shape.
    """
    checkpoint = read_checkpoint(path)
    wanted, head = _state(network), head_names(network)
    found = match(network, checkpoint, path, head)
    tensors = found.named
    new = {key for key in head if key not in tensors or tensors[key].shape != wanted[key].shape}
    unexpected = sorted([*found.left_out, *(tensors.keys() - wanted.keys())])
    known = {key: value for key, value in tensors.items() if key in wanted and key not in new}
    fit_weights(network, known | {key: wanted[key] for key in new}, path, name)
    line = f"{name} starts from {path}, weights sha256 {checkpoint.sha256[:12]}: {len(known)} tensors loaded, "
    line += f"{len(new)} of a new head: {', '.join(sorted(new))}" if new else "0 missing"
    if unexpected:
        line += f", {len(unexpected)} unexpected: {_some(unexpected)}"
    return line + replace(found, left_out=[]).note(path)
