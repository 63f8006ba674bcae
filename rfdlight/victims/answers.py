"""A user's network as a victim: a module that takes hooks and returns logits, checked in every forward pass."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from rfdlight.core.logits import Key, as_logits, form_of, logits_key, part, parts_of
from rfdlight.core.user_code import guarded
from rfdlight.errors import UserError, one_line

_PROBE, _OTHER_PROBE = 2, 5
"""Black images of the first and the second pass; the second finds a network that takes two images only."""

_SIZES = (*range(1, 17), 20, 24, 25, 32, 48, 50, 64, 96, 100, 128)
"""Batch sizes that are tried for the hint."""

_MOST_VALUES = 2**21
"""Pixel values of a pass for the hint: 128 images of 3 x 64 x 64."""


class OneMode(nn.Module):
    """Wraps a network without hooks or modes, such as TorchScript or an exported program.

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
        """Do nothing: the mode of the network is fixed."""
        return self


class Answering(nn.Module):
    """A wrapper of a model that returns its logits alone, and adds no hook to the model itself.

    Args:
        model: In eval mode.
        name: Name of the model in errors.
        classes: Columns of the logits.
        shape: Of the images: channels, height, width.
        batch_size: Images per forward pass, for a model with a fixed batch size; None if passes vary.

    Raises:
        UserError: If the model raises on black images, or its output holds no logits.
    """

    def __init__(
        self, model: nn.Module, name: str, classes: int, shape: tuple[int, ...], batch_size: int | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.training = False
        answer_in_logits(self, name, classes, shape, batch_size)

    def forward(self, x: Tensor) -> Any:
        return self.model(x)


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the first parameter or buffer of a model, the CPU if it has none."""
    return next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))


def count_classes(model: nn.Module, x: Tensor) -> int:
    """Return the number of classes of a model, from the shape of its output for some images.

    Args:
        model: In eval mode.
        x: (rows, C, H, W).

    Raises:
        UserError: If the model raises, or no part of its output is a matrix with one row per image.
    """
    with torch.no_grad(), guarded("model"):
        output = model(x)
    parts = [output] if isinstance(output, Tensor) else [part(output, "logits"), *parts_of(output).values()]
    for each in parts:
        if isinstance(each, Tensor) and each.ndim == 2 and len(each) == len(x) and each.is_floating_point():
            return each.shape[1]
    raise UserError(f"model: expected logits of shape ({len(x)}, classes) for {len(x)} images, got {form_of(output)}")


def as_module(made: Any, spec: str) -> nn.Module:
    """Return the result of a user's function as a module in eval mode that takes hooks.

    Args:
        made: A module, or a program of `torch.export`.
        spec: The user's name of it.

    Raises:
        UserError: If it is something else, has no eval mode, or has parameters without values.
    """
    if isinstance(made, torch.export.ExportedProgram):
        made = made.module()
    while isinstance(made, nn.DataParallel | nn.parallel.DistributedDataParallel):
        made = made.module
    if not isinstance(made, nn.Module):
        raise UserError(f"'{spec}' must make a torch.nn.Module, it made a {type(made).__name__}")
    _check_values(made, spec)
    if any(parameter.device.type != "cpu" for parameter in made.parameters()):
        made.cpu()  # the trainer moves it to its device
    _leave_inference_mode(made)
    try:
        made.eval()
    except Exception as error:  # a user's own code may raise anything
        if not (isinstance(error, NotImplementedError) and isinstance(made, torch.fx.GraphModule)):
            raise UserError(
                f"the victim '{spec}' cannot be put into eval mode: {type(error).__name__}: {one_line(error)}; have "
                "its train() return itself"
            ) from error
        return OneMode(made)  # an exported program keeps the mode of its export
    return OneMode(made) if isinstance(made, torch.jit.ScriptModule) else made


def _leave_inference_mode(network: nn.Module) -> None:
    """Replace tensors that were made in inference mode, through which no gradient passes, by copies."""
    copies: dict[int, Tensor] = {}
    for module in network.modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None and tensor.is_inference():
                copy = copies.setdefault(id(tensor), tensor.clone().detach())
                setattr(module, name, nn.Parameter(copy) if name in module._parameters else copy)


def _check_values(network: nn.Module, spec: str) -> None:
    """Refuse parameters without values."""
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if is_lazy(tensor):
            kind, remedy = "lazy parameters without values", "run one batch through it"
        elif tensor.is_meta:
            kind, remedy = "parameters on the meta device, without values", "build it on the CPU"
        else:
            continue
        raise UserError(
            f"the victim '{spec}' has {kind}, the first is {name}; {remedy} and load its weights before you return it"
        )


@dataclass
class AsLogits:
    """A forward hook that replaces a victim's output by the logits in it, and refuses an output without logits.

    Args:
        classes: Columns of the logits.
        key: Position or name of the logits in the output; None if they are the output.
    """

    classes: int
    key: Key | None

    def __call__(self, victim: nn.Module, inputs: tuple[Any, ...], output: Any) -> Tensor:
        x = inputs[0]
        logits = as_logits(part(output, self.key), len(x), self.classes)
        if logits is None:
            raise UserError(f"the victim {_expected(len(x), self.classes)}, got {form_of(output)}")
        return logits.to(x.device)


def _expected(rows: int, classes: int) -> str:
    return f"must return logits of shape {(rows, classes)} for {rows} images"


@dataclass(frozen=True)
class _Trial:
    """The output of a victim for black images, or its exception."""

    rows: int
    output: Any
    error: Exception | None

    @classmethod
    def of(cls, victim: nn.Module, rows: int, shape: tuple[int, ...]) -> _Trial:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            try:
                return cls(rows, victim(torch.zeros(rows, *shape, device=device_of(victim))), None)
            except Exception as error:  # a user's own code may raise anything
                return cls(rows, None, error)

    def holds_logits(self, classes: int) -> bool:
        whole = as_logits(self.output, self.rows, classes)
        return whole is not None or logits_key(self.output, self.rows, classes) is not None


def answer_in_logits(
    victim: nn.Module, spec: str, classes: int, shape: tuple[int, ...], batch_size: int | None = None
) -> str:
    """Check that a victim returns logits for black images, and register a hook that returns only these.

    The global random state is not changed.

    Args:
        victim: In eval mode.
        spec: The user's name of it.
        classes: Of the data.
        shape: Of the images: channels, height, width.
        batch_size: Images per forward pass, for a victim with a fixed batch size; None where passes vary.

    Returns:
        Where the logits are in the output, in words; "" if they are the output.

    Raises:
        UserError: If the victim raises, or its output holds no logits.
    """
    first = trial = _Trial.of(victim, _PROBE, shape)
    if first.holds_logits(classes):
        if batch_size is None or batch_size >= _OTHER_PROBE:
            trial = _Trial.of(victim, _OTHER_PROBE, shape)
            if isinstance(trial.error, torch.OutOfMemoryError | MemoryError):  # the run survives it
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
    victim: nn.Module, spec: str, classes: int, shape: tuple[int, ...], trial: _Trial, batch_size: int | None
) -> UserError:
    """Build the error for a victim that returns no logits."""
    if trial.error is None:
        return UserError(f"the victim '{spec}' {_expected(trial.rows, classes)}, got {form_of(trial.output)}")
    for rows in _SIZES:
        if rows * prod(shape) <= _MOST_VALUES and _Trial.of(victim, rows, shape).holds_logits(classes):
            remedy = "pad each batch inside of it" if batch_size is None else f"give --model.batch_size {rows}"
            return UserError(
                f"the victim '{spec}' takes batches of {rows} images and not of {batch_size or trial.rows}; {remedy}"
            )
    kinds = {str(parameter.dtype) for parameter in victim.parameters() if parameter.is_floating_point()}
    hint = f"; its parameters are {', '.join(sorted(kinds))}: return it as .float(), or cast the images inside of it"
    size = " x ".join(map(str, shape))
    reason = f"{type(trial.error).__name__}: {one_line(trial.error)}"
    other = bool(kinds) and "torch.float32" not in kinds
    return UserError(f"the victim '{spec}' does not take images of {size}: {reason}{hint if other else ''}")
