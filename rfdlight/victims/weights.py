"""Weights: matched with the names of a network, loaded into it, and told apart by a digest."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from rfdlight.errors import UserError, one_line
from rfdlight.victims.digest import attributes_digest, weights_digest
from rfdlight.victims.weight_files import Checkpoint, check_training, read_checkpoint, read_weights

__all__ = [
    "attributes_digest",
    "check_fit",
    "check_training",
    "fit_weights",
    "head_names",
    "load_checkpoint",
    "named_for",
    "read_checkpoint",
    "read_weights",
    "start_from",
    "weights_digest",
]

_PREFIXES = ("module.", "_orig_mod.", "victim.network.", "network.", "model.", "net.")
"""What wrappers put before every name of a network."""

_PLAIN = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "params", "weights")
"""Where training scripts keep the weights of the last step, the most usual place first."""

_COUNTER = "num_batches_tracked"
"""A buffer that files from before torch 0.4.1 lack, and that no answer depends on in eval mode."""

_BOOKKEEPING = (_COUNTER, "n_averaged", "total_ops", "total_params")
"""Last parts of the names of tensors that no answer depends on: of batch normalisation, of averaging, of thop."""


@dataclass(frozen=True)
class Match:
    """The tensors of a checkpoint that belong to a network.

    Attributes:
        root: What stands before the names of the network in the file, with a dot at its end; "" for nothing.
        named: The tensors by the names of the network, and those beside them that the network has no name for.
        left_out: Names in the file, beside the chosen ones, of tensors that were left out.
        others: Roots of further sets of weights in the file that fit as well.
        partial: Roots of averaged weights that lack some, so that others were taken.
    """

    root: str
    named: dict[str, Tensor]
    left_out: list[str]
    others: list[str]
    partial: list[str]

    def note(self, path: Path) -> str:
        """Return what was chosen where the file left a choice; "" where it left none."""
        told = ""
        if self.others:
            kind = ", which is averaged (EMA)" if is_averaged(self.root) else ""
            told += f"; the weights are those of {_shown(self.root)}{kind}; others that fit: "
            told += f"{', '.join(map(_shown, self.others))}, by --model.checkpoint {path}#KEY"
        if self.partial:
            told += f"; the averaged weights of {', '.join(map(_shown, self.partial))} lack some and were left out"
        if self.left_out:
            more = ", ..." if len(self.left_out) > 3 else ""
            told += f"; {len(self.left_out)} tensors left out: {', '.join(self.left_out[:3])}{more}"
        return told


def match(network: nn.Module, checkpoint: Checkpoint, path: Path, optional: Collection[str] = ()) -> Match:
    """Find the weights of a network in a checkpoint, whatever stands before the names on either side.

    Of several sets of weights that fit, averaged ones (EMA) are taken, as by timm, else those in the usual place.

    Args:
        network: Whose names and shapes are looked for.
        checkpoint: Its tensors.
        path: Of the file, for messages.
        optional: Names of the network that may be missing or have another shape.

    Raises:
        UserError: If several sets fit and no convention says which is meant.
    """
    wanted = _state(network)
    own = _wrapping(wanted)
    shapes = {name.removeprefix(own): tensor.shape for name, tensor in wanted.items()}
    tied = _tied(network)
    loose = {name.removeprefix(own) for name in optional} | {name for name in shapes if name.endswith(_COUNTER)}
    found = _roots(shapes.keys(), checkpoint.tensors)
    needed = {name for name in shapes if name not in loose and own + name not in tied}

    def fits(root: str) -> bool:
        held = {name: checkpoint.tensors.get(root + name) for name in needed}
        return all(tensor is not None and tensor.shape == shapes[name] for name, tensor in held.items())

    complete: list[str] = []
    for root in sorted(found, key=len):
        if found[root] >= len(needed) and fits(root) and not _copies(checkpoint, root, complete, needed):
            complete.append(root)
    fullest = max(found, key=lambda root: (found[root], -len(root)), default="")
    root = _chosen(complete, path) if complete else fullest
    named, left_out = _by_name(network, checkpoint, root, own, shapes.keys())
    for name in wanted.keys() - named.keys():
        held = next((other for other in tied.get(name, ()) if other in named), None)
        if held is not None:
            named[name] = named[held]
        elif name.endswith(_COUNTER) and complete:
            named[name] = wanted[name]
    others = [other for other in complete if other != root]
    partial = [other for other in found if is_averaged(other) and 2 * found[other] > len(needed) and not fits(other)]
    left_out = [name for name in left_out if not name.startswith((*filter(None, others), *partial))]
    return Match(root, named, left_out, others, partial if complete else [])


def named_for(network: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors by the names of a network, whatever wrappers have put before all names of either.

    Example:
        >>> named_for(nn.Sequential(nn.Linear(2, 1)), {"module.0.bias": torch.zeros(1)})
        {'0.bias': tensor([0.])}
    """
    return match(network, Checkpoint(tensors, "", dict.fromkeys(tensors, "")), Path()).named


def _roots(names: Collection[str], stored: Iterable[str]) -> Counter[str]:
    """Count, for whatever may stand before the names, how many of them are stored behind it."""
    found: Counter[str] = Counter()
    for each in stored:
        for dot in [-1, *(place.start() for place in re.finditer(r"\.", each))]:
            if each[dot + 1 :] in names:
                found[each[: dot + 1]] += 1
    return found


def _copies(checkpoint: Checkpoint, root: str, others: Iterable[str], names: Collection[str]) -> bool:
    """Return whether the same values stand behind another root."""
    held = checkpoint.tensors
    return any(all(torch.equal(held[root + name], held[other + name]) for name in names) for other in others)


def _chosen(roots: list[str], path: Path) -> str:
    """Return the root that is meant among those that fit.

    Raises:
        UserError: If no convention says which.
    """
    if len(roots) == 1:
        return roots[0]
    averaged = [root for root in roots if is_averaged(root)]
    if len(averaged) == 1:
        return averaged[0]
    for key in ("", *_PLAIN):
        plain = [root for root in roots if root.partition(".")[0] == key]
        if len(plain) == 1 and not averaged:
            return plain[0]
    raise UserError(
        f"{path} holds several sets of weights that fit: {', '.join(map(_shown, roots))}; choose one: "
        f"--model.checkpoint {path}#{roots[0].rstrip('.')}"
    )


def is_averaged(root: str) -> bool:
    """Return whether the name of a part of a checkpoint says that it holds an average of weights.

    Example:
        >>> is_averaged("state_dict_ema."), is_averaged("schema.")
        (True, False)
    """
    return "ema" in re.split(r"[._]", root.lower())


def _shown(root: str) -> str:
    return f"'{root.rstrip('.')}'" if root else "the top level"


def _by_name(
    network: nn.Module, checkpoint: Checkpoint, root: str, own: str, names: Collection[str]
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors behind a root by the names of the network, and what was left out beside them.

    Tensors that stand where the network has no name for them are among the former: another network has such.
    """
    used = {checkpoint.containers[root + name] for name in names if root + name in checkpoint.tensors}
    buffers = dict(network.named_buffers())
    named, left_out = {}, []
    for full, tensor in checkpoint.tensors.items():
        name = own + full.removeprefix(root)
        if full.startswith(root) and full.removeprefix(root) in names:
            named[name] = tensor
        elif not used or checkpoint.containers[full] in used:
            known = name.endswith(_BOOKKEEPING) or (name in buffers and _same(tensor, buffers[name]))
            if full.startswith(root) and not known:
                named[name] = tensor
            else:
                left_out.append(full)
    return named, left_out


def _same(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and torch.equal(first.to(second.dtype), second.cpu())


def _wrapping(names: Iterable[str]) -> str:
    """Return what wrappers have put before all of some names."""
    names = list(names)
    prefix = next((each for each in _PREFIXES if names and all(name.startswith(each) for name in names)), "")
    return prefix and prefix + _wrapping(name.removeprefix(prefix) for name in names)


def _state(network: nn.Module) -> dict[str, Tensor]:
    """Return the state of a network as tensors of plain numbers.

    Raises:
        UserError: If it has a state of another kind, as quantized networks have.
    """
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
        linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
        named = linear[-1:]
    heads = (named,) if isinstance(named, str) else tuple(named)
    return {key for key in network.state_dict() if key.startswith(tuple(f"{head}." for head in heads))}


def load_checkpoint(network: nn.Module, path: Path, name: str) -> tuple[str, str]:
    """Load a user's file of weights into a network, whole.

    Args:
        network: Changed in place.
        path: See `rfdlight.victims.weight_files.read_checkpoint`.
        name: Of the network, for messages.

    Returns:
        The sha256 of the file, and what was chosen from it, if there was a choice, else "".

    Raises:
        UserError: If the file cannot be read, or names or shapes differ.
    """
    checkpoint = read_checkpoint(path)
    found = match(network, checkpoint, path)
    try:
        fit_weights(network, found.named, path, name)
    except UserError:
        # Networks know older names of their own weights: of weight_norm, and whatever a hook on loading translates.
        if not _translates(network, found.named):
            raise
    return checkpoint.sha256, found.note(path)


def _translates(network: nn.Module, tensors: dict[str, Tensor]) -> bool:
    """Load tensors under names that the network itself translates; return whether it has a place for each."""
    if not tensors or not network.state_dict().keys() - tensors.keys():
        return False
    try:
        network.load_state_dict(tensors)
    except Exception:  # modules of a user may raise anything
        return False
    return True


def fit_weights(network: nn.Module, tensors: dict[str, Tensor], path: Path, name: str) -> None:
    """Load `tensors` into `network`, whole.

    Raises:
        UserError: If names, shapes or kinds of numbers differ.
    """
    check_fit(network, tensors, path, name)
    try:
        network.load_state_dict(network.state_dict() | tensors)
    except Exception as error:  # modules of a user may raise anything
        raise UserError(f"{path} cannot be loaded into the network '{name}': {one_line(error)[:200]}") from error


def check_fit(network: nn.Module, tensors: dict[str, Tensor], path: Path, name: str) -> None:
    """Compare names, shapes and kinds of numbers, for which the network needs no memory.

    Raises:
        UserError: If they differ; says the first that does, and how to go on with another head.
    """
    wanted = _state(network)
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
        raise UserError(f"{path} does not fit the network '{name}': {'; '.join(problems)}{hint}")
    other = [key for key in sorted(tensors) if tensors[key].shape != wanted[key].shape]
    if other and set(other) <= head_names(network) and tensors[other[-1]].ndim:
        classes, expected = tensors[other[-1]].shape[0], wanted[other[-1]].shape[0]
        raise UserError(
            f"{path} has a head for {classes} classes, the data has {expected}; to fine-tune it: "
            f"rfdlight fit --model.network {name} --model.checkpoint {path}"
        )
    if other:
        found, expected_shape = tuple(tensors[other[0]].shape), tuple(wanted[other[0]].shape)
        raise UserError(
            f"{path} does not fit the network '{name}': {other[0]} has the shape {found}, expected {expected_shape}"
        )
    for key, tensor in tensors.items():
        expected_dtype = wanted[key].dtype
        whole = expected_dtype.is_floating_point and not tensor.is_floating_point()
        if whole or (tensor.is_complex() and not expected_dtype.is_complex):
            raise UserError(
                f"{path} does not fit the network '{name}': {key} holds {tensor.dtype}, expected {expected_dtype}; "
                "compressed weights have to be unpacked first"
            )


def start_from(network: nn.Module, path: Path, name: str) -> str:
    """Load a user's weights into a network to be fine-tuned; a head that is missing or of another size stays new.

    Args:
        network: Changed in place.
        path: See `rfdlight.victims.weight_files.read_checkpoint`.
        name: What the network is called, for messages.

    Returns:
        One line on what was loaded, replaced and left over.

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
    told = f"{name} starts from {path}, weights sha256 {checkpoint.sha256[:12]}: {len(known)} tensors loaded, "
    told += f"{len(new)} of a new head: {', '.join(sorted(new))}" if new else "0 missing"
    if unexpected:
        more = ", ..." if len(unexpected) > 3 else ""
        told += f", {len(unexpected)} unexpected: {', '.join(unexpected[:3])}{more}"
    return told + replace(found, left_out=[]).note(path)
