"""The base class of attacks with a surrogate: a network of the attacker's own, whose gradients guide the queries."""

import copy
from typing import Any, Self

import torch
from torch import Tensor, nn

from rfdlight.attacks.base import Attack
from rfdlight.core.arguments import changed_arguments
from rfdlight.core.tensors import Columns
from rfdlight.core.user_code import guarded
from rfdlight.errors import UserError

_ROWS = 8
"""Rows of each forward pass of the surrogate: rounding depends on this number, so it must not vary."""


class SurrogateAttack(Attack):
    """Base class of attacks with a surrogate.

    The attack has a copy of the surrogate, in eval mode and on the device of the images. Its forward passes are no
    queries. It should be deterministic: otherwise the attack cannot be repeated.

    Args:
        surrogate: A network from pixels in [0, 1] to logits of the victim's classes, or a name for
            `rfdlight.load_victim`, which an evaluation loads.

    Raises:
        UserError: If there is no surrogate.
    """

    surrogate: nn.Module | str

    # The parser of the command line would take a name for the class of a module.
    def __init__(self, surrogate: Any = None, **ball: Any) -> None:
        super().__init__(**ball)
        if not (isinstance(surrogate, nn.Module) or (isinstance(surrogate, str) and surrogate)):
            raise UserError(
                f"attack.surrogate: expected a network or its name, got {surrogate}; `list_victims` has names"
            )
        self.surrogate_name = surrogate if isinstance(surrogate, str) else type(surrogate).__name__
        self.surrogate_text = self.surrogate_name  # with its weights, once an evaluation has loaded it
        self._own(surrogate)

    def _own(self, surrogate: nn.Module | str) -> None:
        """Keep a copy of a network: hooks, defenses and training of the original do not concern it."""
        self.surrogate = surrogate
        if isinstance(surrogate, nn.Module):
            with guarded("attack.surrogate: cannot copy the network"):
                self.surrogate = copy.deepcopy(surrogate).eval().requires_grad_(False)
            self.reconfigure(surrogate=self.surrogate)

    def with_surrogate(self, network: nn.Module, text: str) -> Self:
        """Return a copy with a loaded surrogate, and one line on it and its weights."""
        loaded = copy.copy(self)
        loaded._own(network)
        loaded.surrogate_text = text
        return loaded

    def options(self) -> str:
        known = changed_arguments(self, leave_out=("eps", "norm", "targeted", "surrogate"))
        return ", ".join([f"surrogate {self.surrogate_name}", *known])

    def on_surrogate(self, state: Columns, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return the attacker's loss on the surrogate at points of the rows, (rows,), and its gradients, like `points`.

        Raises a UserError if the surrogate was not loaded, or if no finite gradient reaches the points.
        """
        network = self.surrogate
        if isinstance(network, str):
            raise UserError(f"attack.surrogate: expected a network, got the name '{network}'; load it first")
        weight = next(network.parameters(), None)
        if weight is not None and weight.device != points.device:
            network.to(points.device)
        parts = [self._pass(network, state, points, first) for first in range(0, len(points), _ROWS)]
        loss, gradient = (torch.cat(each) for each in zip(*parts, strict=True))
        if not gradient.isfinite().all():
            raise UserError("attack.surrogate: expected finite gradients, got NaN or infinity")
        return loss, gradient

    def _pass(self, network: nn.Module, state: Columns, points: Tensor, first: int) -> tuple[Tensor, Tensor]:
        """Return loss and gradient of the rows of one forward pass, which is padded with its first row."""
        rows = slice(first, first + _ROWS)
        given = points[rows]
        cudnn = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
        plain = torch.autocast(points.device.type, enabled=False)
        with torch.inference_mode(False), torch.enable_grad(), plain, cudnn:
            padding = given[:1].expand(_ROWS - len(given), *given.shape[1:])
            batch = torch.cat([given, padding]).detach().clone().requires_grad_()
            # A copy: the network may change its input in place.
            logits = network(batch.clone())[: len(given)].float()
            columns = {name: state[name][rows].clone() for name in ("y", "target")}
            loss = self.objective(columns, logits)
            gradient = None
            if loss.requires_grad:
                (gradient,) = torch.autograd.grad(loss.sum(), batch, allow_unused=True)
        if gradient is None:
            raise UserError(
                "attack.surrogate: expected a differentiable network; something in it cuts the gradient off"
            )
        return loss.detach(), gradient[: len(given)].to(points.dtype)
