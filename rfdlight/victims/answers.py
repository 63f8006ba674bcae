"""A user's network as a victim: in a module that takes hooks, with logits as its answer, checked on every pass."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from rfdlight.core.logits import Key, as_logits, described, logits_key, part
from rfdlight.errors import UserError, one_line

_PROBE = 2
"""Black images of the first pass."""

_OTHER_PROBE = 5
"""Of the second, which a network that takes two images and no other number fails on."""

_SIZES = (*range(1, 17), 20, 24, 25, 32, 48, 50, 64, 96, 100, 128)
"""Numbers of images that are tried for the hint, where neither two nor a whole batch works."""

_MOST_VALUES = 2**21
"""Pixel values of a pass for the hint: 128 images of 3 x 64 x 64."""


class OneMode(nn.Module):
    """A network that takes no hooks or has no modes, such as TorchScript or an exported program, inside of a module.

    Args:
        network: In eval mode, if it has one.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.training = False

    def forward(self, x: Tensor) -> Any:
        return self.network(x)

    def train(self, mode: bool = True) -> OneMode:
        """Change nothing: the network stays in the mode that it was made in."""
        return self


def as_module(made: Any, spec: str) -> nn.Module:
    """Return what a user's function made as a module in eval mode that takes hooks.

    Args:
        made: A module, or a program of `torch.export`.
        spec: What the user calls it.

    Raises:
        UserError: If it is something else, refuses eval mode, or has parameters without values.
    """
    if isinstance(made, torch.export.ExportedProgram):
        made = made.module()
    while isinstance(made, nn.DataParallel | nn.parallel.DistributedDataParallel):
        made = made.module
    if not isinstance(made, nn.Module):
        raise UserError(f"'{spec}' must make a torch.nn.Module, it made a {type(made).__name__}")
    _check_values(made, spec)
    if any(parameter.device.type != "cpu" for parameter in made.parameters()):
        made.cpu()  # from where the trainer takes it to its device
    _leave_inference_mode(made)
    try:
        made.eval()
    except Exception as error:  # a user's own code may raise anything
        if not (isinstance(error, NotImplementedError) and isinstance(made, torch.fx.GraphModule)):
            raise UserError(
                f"the victim '{spec}' refuses eval mode: {type(error).__name__}: {one_line(error)}; have its train() "
                "return itself"
            ) from error
        return OneMode(made)  # a program of torch.export has the mode that it was exported in
    return OneMode(made) if isinstance(made, torch.jit.ScriptModule) else made


def _leave_inference_mode(network: nn.Module) -> None:
    """Replace tensors that were made in inference mode, through which no gradient passes, by copies."""
    copies: dict[int, Tensor] = {}
    plain = [module for module in network.modules() if not isinstance(module, torch.jit.ScriptModule)]
    for module in plain:
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None and tensor.is_inference():
                copy = copies.setdefault(id(tensor), tensor.clone().detach())
                setattr(module, name, nn.Parameter(copy) if name in module._parameters else copy)


def _check_values(network: nn.Module, spec: str) -> None:
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if is_lazy(tensor):
            raise UserError(
                f"the victim '{spec}' has lazy parameters without values, the first is {name}; run one batch through "
                "it and load its weights before you return it"
            )
        if tensor.is_meta:
            raise UserError(
                f"the victim '{spec}' has parameters on the meta device, without values, the first is {name}; build it "
                "on the CPU and load its weights before you return it"
            )


@dataclass
class AsLogits:
    """A forward hook that takes the logits out of every answer of a victim, and refuses an answer without them.

    Args:
        classes: Columns of the logits.
        key: Where they stand in the answer.
    """

    classes: int
    key: Key | None

    def __call__(self, victim: nn.Module, inputs: tuple[Any, ...], output: Any) -> Tensor:
        x = inputs[0]
        logits = as_logits(part(output, self.key), len(x), self.classes)
        if logits is None:
            raise UserError(f"the victim {_expected(len(x), self.classes)}, got {described(output)}")
        return logits.to(x.device)


def _expected(rows: int, classes: int) -> str:
    return f"must answer {rows} images with logits of shape {(rows, classes)}"


@dataclass(frozen=True)
class _Trial:
    """What a victim answers to black images, or what it raises."""

    rows: int
    output: Any
    error: Exception | None

    @classmethod
    def of(cls, victim: nn.Module, rows: int, shape: tuple[int, ...]) -> _Trial:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            try:
                return cls(rows, victim(torch.zeros(rows, *shape)), None)
            except Exception as error:  # a user's own code may raise anything
                return cls(rows, None, error)

    def holds_logits(self, classes: int) -> bool:
        whole = as_logits(self.output, self.rows, classes)
        return whole is not None or logits_key(self.output, self.rows, classes) is not None


def answer_in_logits(
    victim: nn.Module, spec: str, classes: int, shape: tuple[int, ...], batch_size: int | None = None
) -> str:
    """Check that a victim answers black images, and have it answer with logits alone from now on.

    Nothing is drawn from the run's random numbers.

    Args:
        victim: In eval mode.
        spec: What the user calls it.
        classes: Of the data.
        shape: Of the images: channels, height, width.
        batch_size: Images per forward pass, for a victim that takes no other number; None where they vary.

    Returns:
        Where the logits stand in its answers, in words; "" where they are the whole answer.

    Raises:
        UserError: If it raises, or its answer holds no logits.
    """
    first = trial = _Trial.of(victim, _PROBE, shape)
    if first.holds_logits(classes):
        if batch_size is None or batch_size >= _OTHER_PROBE:
            trial = _Trial.of(victim, _OTHER_PROBE, shape)
            if isinstance(trial.error, torch.OutOfMemoryError | MemoryError):  # which the run survives
                trial = first
    elif batch_size is not None:
        trial = _Trial.of(victim, batch_size, shape)
    if not trial.holds_logits(classes):
        raise _refusal(victim, spec, classes, shape, trial if first.holds_logits(classes) else first, batch_size)
    whole = isinstance(trial.output, Tensor)
    key = None if whole else logits_key(trial.output, trial.rows, classes)
    victim.register_forward_hook(AsLogits(classes, key))
    return "" if whole else f"its logits are part {key!r} of its answer"


def _refusal(
    victim: nn.Module, spec: str, classes: int, shape: tuple[int, ...], first: _Trial, batch_size: int | None
) -> UserError:
    """Build the error for a victim that answers neither a few images nor a whole batch with logits."""
    sizes = (rows for rows in _SIZES if first.error is not None and rows * prod(shape) <= _MOST_VALUES)
    taken = next((rows for rows in sizes if _Trial.of(victim, rows, shape).holds_logits(classes)), None)
    if taken is not None:
        remedy = "pad each batch inside of it" if batch_size is None else f"give --model.batch_size {taken}"
        return UserError(
            f"the victim '{spec}' takes batches of {taken} images and not of {batch_size or first.rows}; {remedy}"
        )
    if first.error is None:
        found = described(first.output)
        return UserError(f"the victim '{spec}' {_expected(first.rows, classes)}, got {found}")
    kinds = {str(parameter.dtype) for parameter in victim.parameters() if parameter.is_floating_point()}
    hint = f"; its parameters are {', '.join(sorted(kinds))}: return it as .float(), or cast the images inside of it"
    size = " x ".join(map(str, shape))
    reason = f"{type(first.error).__name__}: {one_line(first.error)}"
    other = bool(kinds) and "torch.float32" not in kinds
    return UserError(f"the victim '{spec}' does not take images of {size}: {reason}{hint if other else ''}")
