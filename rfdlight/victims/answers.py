"""A user's network as a victim: a module that takes hooks and returns logits, checked in every forward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rfdlight.core.logits import Key, as_logits, form_of, logits_key, part, parts_of
from rfdlight.core.user_code import guarded
from rfdlight.errors import UserError, one_line

_PROBE = 2
"""Black images of the pass that finds the logits."""


class Answering(nn.Module):
    """A wrapper of a model in eval mode that takes hooks in its place."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = False

    def forward(self, x: Tensor) -> Any:
        return self.model(x)


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the first parameter or buffer of a model, the CPU if it has none."""
    return next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))


def count_classes(model: nn.Module, x: Tensor) -> int:
    """Return the number of classes of a model in eval mode, from the shape of its output for images (rows, C, H, W)."""
    with torch.no_grad(), guarded("model"):
        output = model(x)
    parts = [output] if isinstance(output, Tensor) else [part(output, "logits"), *parts_of(output).values()]
    for each in parts:
        if isinstance(each, Tensor) and each.ndim == 2 and len(each) == len(x) and each.is_floating_point():
            return each.shape[1]
    raise UserError(f"model: expected logits of shape ({len(x)}, classes) for {len(x)} images, got {form_of(output)}")


def as_module(made: Any, spec: str) -> nn.Module:
    """Return the result of a user's function, of the name `spec`, as a module on the CPU, in eval mode."""
    while isinstance(made, nn.DataParallel | nn.parallel.DistributedDataParallel):
        made = made.module
    if not isinstance(made, nn.Module):
        raise UserError(f"'{spec}' must make a torch.nn.Module, it made a {type(made).__name__}")
    try:
        if any(parameter.device.type != "cpu" for parameter in made.parameters()):
            made.cpu()  # the trainer moves it to its device
        made.eval()
    except Exception as error:  # a user's own code may raise anything
        raise UserError(
            f"the victim '{spec}' cannot be put on the CPU and into eval mode: {type(error).__name__}: "
            f"{one_line(error)}"
        ) from error
    return nn.Sequential(made).eval() if isinstance(made, torch.jit.ScriptModule) else made  # scripts take no hooks


@dataclass
class AsLogits:
    """A forward hook that replaces a victim's output by the logits under a key in it, (rows, classes)."""

    classes: int
    key: Key | None
    """None if the logits are the output."""

    def __call__(self, victim: nn.Module, inputs: tuple[Any, ...], output: Any) -> Tensor:
        x = inputs[0]
        rows = x.shape[0]  # not its len, which torch.export would take for a constant
        logits = as_logits(part(output, self.key), rows, self.classes)
        if logits is None:
            raise UserError(f"the victim {_expected(rows, self.classes)}, got {form_of(output)}")
        return logits.to(x.device)


def _expected(rows: int, classes: int) -> str:
    return f"must return logits of shape {(rows, classes)} for {rows} images"


def answer_in_logits(
    victim: nn.Module, spec: str, classes: int, shape: tuple[int, ...], batch_size: int | None = None
) -> str:
    """Check that a victim in eval mode returns logits for black images, and register a hook that returns only these.

    The shape is (C, H, W); a batch size is for victims that take no other number of images. The global random state is
    not changed. Returned are words for where the logits are in the output, "" if they are the output.
    """
    rows = _PROBE
    output = _output(victim, rows, shape)
    if isinstance(output, Exception) and batch_size is not None:
        rows = batch_size
        output = _output(victim, rows, shape)
    if isinstance(output, Exception):
        reason = f"{type(output).__name__}: {one_line(output)}"
        kinds = {str(parameter.dtype) for parameter in victim.parameters()} - {"torch.float32"}
        hint = f"; its parameters are {', '.join(sorted(kinds))}: return it as .float()" if kinds else ""
        size = " x ".join(map(str, shape))
        raise UserError(f"the victim '{spec}' does not take images of {size}: {reason}{hint}") from output
    key = None if isinstance(output, Tensor) else logits_key(output, rows, classes)
    if as_logits(part(output, key), rows, classes) is None:
        raise UserError(f"the victim '{spec}' {_expected(rows, classes)}, got {form_of(output)}")
    victim.register_forward_hook(AsLogits(classes, key))
    return "" if key is None else f"its logits are part {key!r} of its answer"


def _output(victim: nn.Module, rows: int, shape: tuple[int, ...]) -> Any:
    """Return the output of a victim for black images, or its exception."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            return victim(torch.zeros(rows, *shape, device=device_of(victim)))
        except Exception as error:  # a user's own code may raise anything
            return error
