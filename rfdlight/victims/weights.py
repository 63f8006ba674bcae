"""Matching of a checkpoint's tensors with the names of a network, and loading of the weights."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from rfdlight.errors import UserError, one_line
from rfdlight.victims.weight_files import read_checkpoint

_PREFIXES = ("module.", "_orig_mod.", "victim.network.", "network.", "model.", "net.")
"""Prefixes that wrappers put before every name of a network."""

_PLAIN = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "params", "weights")
"""Keys under which training scripts store the weights of the last step, the most usual first."""

_COUNTER = "num_batches_tracked"
"""A buffer that files from before torch 0.4.1 lack, and that no output depends on in eval mode."""

_BOOKKEEPING = (_COUNTER, "n_averaged", "total_ops", "total_params")
"""Last parts of the names of tensors that no output depends on: of batch normalisation, of averaging, of thop."""


def match(
    network: nn.Module, stored: dict[str, Tensor], path: Path, optional: Collection[str] = ()
) -> tuple[dict[str, Tensor], str]:
    """Find the weights of a network in a checkpoint, under any prefix of the names on either side.

    Of several sets of weights that fit, averaged ones (EMA) are chosen, as in timm, otherwise those in the usual place.
    Names in `optional` may be missing or have another shape. Returned are tensors by the names of the network, with
    further ones of the same prefix, which are signs of another network; and the choice in words, "" without one.
    """
    wanted = _state(network)
    own = _wrapping(wanted)
    shapes = {name.removeprefix(own): tensor.shape for name, tensor in wanted.items()}
    needed = {name for name in shapes if own + name not in optional and not name.endswith(_COUNTER)}
    found = Counter(
        each[: dot + 1]
        for each in stored
        for dot in (-1, *(place.start() for place in re.finditer(r"\.", each)))
        if each[dot + 1 :] in shapes
    )
    complete: list[str] = []
    for root in sorted(found, key=len):
        fits = all(root + name in stored and stored[root + name].shape == shapes[name] for name in needed)
        if fits and not any(_same(stored, root, other, needed) for other in complete):
            complete.append(root)
    fullest = max(found, key=lambda root: (found[root], -len(root)), default="")
    root = _chosen(complete, path) if complete else fullest
    named = {own + full.removeprefix(root): tensor for full, tensor in stored.items() if full.startswith(root)}
    named = {name: tensor for name, tensor in named.items() if name in wanted or not _needless(network, name, tensor)}
    if complete:
        named |= {name: wanted[name] for name in wanted.keys() - named.keys() if name.endswith(_COUNTER)}
    others = ", ".join(_shown(other) for other in complete if other != root)
    if not others:
        return named, ""
    kind = ", which is averaged (EMA)" if _is_averaged(root) else ""
    note = f"; the weights are those of {_shown(root)}{kind}; others that fit: {others}, by --model.checkpoint"
    return named, f"{note} {path}#KEY"


def _same(tensors: dict[str, Tensor], root: str, other: str, names: Collection[str]) -> bool:
    return all(torch.equal(tensors[root + name], tensors[other + name]) for name in names)


def _chosen(roots: list[str], path: Path) -> str:
    """Return the root that conventions choose among those that fit."""
    averaged = [root for root in roots if _is_averaged(root)]
    usual = ([root for root in roots if root.partition(".")[0] == key] for key in ("", *_PLAIN) if not averaged)
    for candidates in (roots, averaged, *usual):
        if len(candidates) == 1:
            return candidates[0]
    raise UserError(
        f"{path} holds several sets of weights that fit: {', '.join(map(_shown, roots))}; choose one: "
        f"--model.checkpoint {path}#{roots[0].rstrip('.')}"
    )


def _is_averaged(root: str) -> bool:
    return "ema" in re.split(r"[._]", root.lower())


def _shown(root: str) -> str:
    return f"'{root.rstrip('.')}'" if root else "the top level"


def _needless(network: nn.Module, name: str, tensor: Tensor) -> bool:
    """Return whether no output depends on a tensor, or it is a buffer that the network computes itself."""
    held = dict(network.named_buffers()).get(name)
    known = held is not None and held.shape == tensor.shape and torch.equal(tensor.to(held.dtype), held.cpu())
    return known or name.endswith(_BOOKKEEPING)


def _wrapping(names: Iterable[str]) -> str:
    """Return the prefixes that wrappers have put before all of some names."""
    names = list(names)
    prefix = next((each for each in _PREFIXES if names and all(name.startswith(each) for name in names)), "")
    return prefix and prefix + _wrapping(name.removeprefix(prefix) for name in names)


def _state(network: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of the state of a network; further state has other types."""
    return {name: value for name, value in network.state_dict().items() if isinstance(value, Tensor)}


def head_names(network: nn.Module) -> set[str]:
    """Return the names of the tensors of a network's last layer: timm's classifier, else the last linear layer."""
    named = getattr(network, "default_cfg", {}).get("classifier")
    if named is None:
        named = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)][-1:]
    heads = (named,) if isinstance(named, str) else tuple(named)
    return {key for key in network.state_dict() if key.startswith(tuple(f"{head}." for head in heads))}


def classes_stored(network: nn.Module, path: Path) -> int | None:
    """Return the number of classes of a network's last layer in a user's file of weights, None if it is unclear."""
    stored, _ = read_checkpoint(path)
    head = head_names(network)
    tensors, _ = match(network, stored, path, head)
    found = {tensors[name].shape[0] for name in head if name in tensors and tensors[name].ndim}
    return found.pop() if len(found) == 1 else None


def load_checkpoint(network: nn.Module, path: Path, name: str) -> tuple[str, str]:
    """Load a user's file of weights into a network, completely; return its sha256 and the choice, see `match`."""
    stored, digest = read_checkpoint(path)
    named, note = match(network, stored, path)
    fit_weights(network, named, path, name)
    return digest, note


def fit_weights(network: nn.Module, tensors: dict[str, Tensor], path: Path, name: str) -> None:
    """Load `tensors` into `network`, completely."""
    check_fit(network, tensors, path, name)
    try:
        network.load_state_dict(network.state_dict() | tensors)
    except Exception as error:  # modules of a user may raise anything
        raise UserError(f"{path} cannot be loaded into the network '{name}': {one_line(error)[:200]}") from error


def check_fit(network: nn.Module, tensors: dict[str, Tensor], path: Path, name: str) -> None:
    """Refuse other names, shapes and kinds of numbers than the network's, which may be on the meta device."""
    wanted = _state(network)
    misfit = f"{path} does not fit the network '{name}'"
    lacking, further = wanted.keys() - tensors.keys(), tensors.keys() - wanted.keys()
    problems = [f"it lacks {len(lacking)} needed tensors, the first is {min(lacking)}"] if lacking else []
    problems += [f"it has {len(further)} other tensors, the first is {min(further)}"] if further else []
    if problems:
        raise UserError(f"{misfit}: {'; '.join(problems)}")
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
        if wanted[key].is_floating_point() and not tensor.is_floating_point():
            raise UserError(f"{misfit}: {key} holds {tensor.dtype}, expected {wanted[key].dtype}")


def start_from(network: nn.Module, path: Path, name: str) -> str:
    """Load a user's weights into a network for fine-tuning, and return one line on them.

    A head that is missing or of another size stays random.
    """
    stored, digest = read_checkpoint(path)
    wanted, head = _state(network), head_names(network)
    tensors, note = match(network, stored, path, head)
    new = {key for key in head if key not in tensors or tensors[key].shape != wanted[key].shape}
    unexpected = sorted(tensors.keys() - wanted.keys())
    known = {key: value for key, value in tensors.items() if key in wanted and key not in new}
    fit_weights(network, known | {key: wanted[key] for key in new}, path, name)
    line = f"{name} starts from {path}, weights sha256 {digest[:12]}: {len(known)} tensors loaded, "
    line += f"{len(new)} of a new head: {', '.join(sorted(new))}" if new else "0 missing"
    if unexpected:
        line += f", {len(unexpected)} unexpected: {', '.join(unexpected[:3])}{', ...' if unexpected[3:] else ''}"
    return line + note
