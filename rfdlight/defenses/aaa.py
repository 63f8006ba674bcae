"""AAA: logits that mislead score-based attacks, without randomness."""

from __future__ import annotations

import math
from typing import Literal
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from rfdlight.core.activations import InsertionPoint
from rfdlight.core.arguments import class_name, text_of
from rfdlight.defenses.base import Defense
from rfdlight.errors import DefenseError, UserError, unknown_name

_INSTANCES: WeakValueDictionary[int, AAA] = WeakValueDictionary()
"""The defenses that a compiled victim calls, by their ids."""


@torch.library.custom_op("rfdlight::aaa", mutates_args=())
def _changed_logits(logits: Tensor, instance: int) -> Tensor:
    """Call a defense from a compiled victim, whose graph torch's optimizers break."""
    return _INSTANCES[instance].changed(logits)


@_changed_logits.register_fake
def _like(logits: Tensor, instance: int) -> Tensor:
    return torch.empty_like(logits)


class AAA(Defense):
    """Changes the logits after the model so that the margin falls where it would rise, and keeps the confidence.

    The margin is the largest logit less the second largest. The axis of margins is cut into intervals of length
    `period`, and the target margin runs through each of them backwards: an attacker who follows the scores inside an
    interval goes the wrong way. Adam moves the logits of each row to their target margin, while the probability of the
    first class is kept near its calibrated value. The label may change. The defense is deterministic.

    Source: Chen, Huang, Tao, Wu, Huang, Adversarial Attack on Attackers: Post-Process to Mitigate Black-Box Score-Based
    Query Attacks, NeurIPS 2022. Deviations: (1) the loss is the sum over the rows, not their mean, so that a row does
    not depend on the others through the constant in Adam's denominator. (2) The interval of a margin is found by
    rounding down, not to the nearest, which differs at multiples of `period` alone: rounding half to even gives margin
    0 a negative target. (3) Pixels are not rounded to 8 bits. (4) White-box attacks get the gradient of the identity.

    Args:
        kind: The target within an interval: a straight line, or the margin less a sine.
        period: Length of the intervals of margins, in logits, > 0.
        beta: How steeply the straight line falls, >= 0; 1 reflects the margin about the interval's centre.
        weight: Of the confidence against the margin in the loss, >= 0.
        lr: Of Adam, in logits, > 0.
        steps: Of Adam, > 0.
        temperature: Divides the logits before the softmax of the calibrated confidence, > 0.

    Raises:
        UserError: If an option lies outside of its range, or the logits have fewer than two classes.
    """

    def __init__(
        self,
        kind: Literal["linear", "sine"] = "linear",
        period: float = 6.0,
        beta: float = 1.0,
        weight: float = 5.0,
        lr: float = 0.1,
        steps: int = 100,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        if kind not in ("linear", "sine"):
            raise unknown_name("defense.kind", kind, ("linear", "sine"))
        for name, value in (("period", period), ("lr", lr), ("steps", steps), ("temperature", temperature)):
            if not (value > 0 and math.isfinite(value)):
                raise UserError(f"defense.{name} must be > 0, got {value}")
        for name, value in (("beta", beta), ("weight", weight)):
            if not (value >= 0 and math.isfinite(value)):
                raise UserError(f"defense.{name} must be at least 0, got {value}")
        self.kind = kind
        self.period = period
        self.beta = beta
        self.weight = weight
        self.lr = lr
        self.steps = steps
        self.temperature = temperature

    @property
    def is_random(self) -> bool:
        return False

    def insertion_points(self, model: nn.Module) -> list[InsertionPoint]:
        """Return the model's output."""
        return [InsertionPoint("the logits", model, "output")]

    def describe(self, model: nn.Module) -> str:
        """Return the options."""
        beta = f" beta {text_of(self.beta)}" if self.kind == "linear" else ""
        return (
            f"{class_name(type(self))} {self.kind} period {text_of(self.period)}{beta} weight {text_of(self.weight)} "
            f"lr {text_of(self.lr)} steps {self.steps} temperature {text_of(self.temperature)} on the logits"
        )

    def attach(self, model: nn.Module) -> None:
        """Register the hooks."""
        super().attach(model)
        _INSTANCES[id(self)] = self

    def transform(self, x: Tensor, point: int) -> Tensor:
        """Return the changed logits, computed in float32 or higher, of the dtype of `x`."""
        if x.ndim != 2 or x.shape[1] < 2:
            raise DefenseError(f"aaa needs logits (rows, classes) of at least two classes, got shape {tuple(x.shape)}")
        if torch.compiler.is_exporting():  # a file holds no defense that the operator could call
            return self._optimised(x)
        if torch.compiler.is_compiling():
            return _changed_logits(x, id(self))
        return self.changed(x) + (x - x.detach())  # adds 0, and the gradient of the identity

    def changed(self, x: Tensor) -> Tensor:
        """Return the changed logits without a gradient, of the dtype of `x`."""
        # Adam writes in place, which a tensor made under inference_mode would later refuse.
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            logits = x.detach().to(torch.promote_types(x.dtype, torch.float32)).clone()
            return self._optimised(logits).to(x.dtype)

    def target(self, margin: Tensor) -> Tensor:
        """Return the target margins for the margins >= 0 of the model's logits, of the same shape."""
        centre = self.period * ((margin / self.period).floor() + 0.5)
        if self.kind == "linear":
            return centre - self.beta * (margin - centre)
        return margin - 0.7 * self.period * torch.sin(math.pi * (1 - 2 * (margin - centre) / self.period))

    def _optimised(self, logits: Tensor) -> Tensor:
        first, second = logits.topk(2).values.unbind(1)
        target = self.target(first - second)
        label = logits.argmax(1, keepdim=True)
        confidence = (logits / self.temperature).softmax(1).amax(1, keepdim=True)
        changed = logits.clone()
        adam = _Adam(changed, self.lr)
        for _ in range(self.steps):
            adam.step(self._gradient(changed, label, confidence, target))
        return changed

    def _gradient(self, logits: Tensor, label: Tensor, confidence: Tensor, target: Tensor) -> Tensor:
        """Return the gradient of |margin - target| + weight * |probability of the label - confidence|.

        Written out, it halves the time that autograd needs.
        """
        top = logits.topk(2)
        probability = logits.softmax(1)
        of_label = probability.gather(1, label)
        pull = self.weight * (of_label - confidence).sign() * of_label
        gradient = (-pull * probability).scatter_add_(1, label, pull)
        push = (top.values[:, :1] - top.values[:, 1:] - target[:, None]).sign()
        return gradient.scatter_add_(1, top.indices, torch.cat([push, -push], 1))


class _Adam:
    """Adam of torch's defaults, bit for bit, as operations on tensors, which `torch.export` can trace."""

    def __init__(self, values: Tensor, lr: float) -> None:
        self.values = values
        self.lr = lr
        self.mean = torch.zeros_like(values)
        self.square = torch.zeros_like(values)
        self.steps = 0

    def step(self, gradient: Tensor) -> None:
        """Change the values in place."""
        self.steps += 1
        self.mean.lerp_(gradient, 1 - 0.9)
        self.square.mul_(0.999).addcmul_(gradient, gradient, value=1 - 0.999)
        scale = (self.square.sqrt() / (1 - 0.999**self.steps) ** 0.5).add_(1e-8)
        self.values.addcdiv_(self.mean, scale, value=-self.lr / (1 - 0.9**self.steps))
