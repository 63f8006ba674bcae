"""The only way to the victim."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rfdlight.core.logits import check_logits
from rfdlight.core.query_counts import ticking
from rfdlight.engine.failures import OutOfMemory, VictimError, check_finite, is_out_of_memory, raised
from rfdlight.errors import DefenseError, UserError

Precision = Literal["float32", "tf32", "bfloat16"]
Purpose = Literal["attack", "criterion"]


def check_pixels(points: Tensor) -> None:
    """Refuse pixels outside of [0, 1].

    Raises:
        UserError: If there are any, or NaN.
    """
    low, high = torch.aminmax(points)
    if not (low >= 0 and high <= 1):
        raise UserError(f"expected pixels in [0, 1], got values from {low:.4g} to {high:.4g}")


class Oracle:
    """Owns the victim and answers points, always in forward passes of one shape.

    The victim's randomness is its own: attack and criterion forward passes draw from two streams of the
    global generators, each seeded by (seed, purpose, rank, attempt) and put away between passes. So
    what the criterion draws never changes what an attack sees.

    When memory runs out in a forward pass, it is refused with `OutOfMemory`, and the following ones have half the rows.

    Args:
        victim: Logits from pixels; it is put into eval mode.
        batch_size: Rows per forward pass; shorter batches are padded with their first row.
        seed: Of the victim's randomness.
        precision: Of the attack's forward passes; the criterion's are always float32.
        channels_last: Run the victim in channels-last memory.
        any_pixels: Whether points may leave [0, 1], as in the paper's code.
        rank: Of this process.
        attempt: How often this run was resumed.
        least: Rows that a forward pass has to have when memory runs out.
        on_smaller: Called with the new number of rows per forward pass.
        on_contiguous: Called when the victim turns out to fail in channels-last memory alone, and leaves it.

    Attributes:
        forwarded: Rows that a hook on the victim has counted so far.
        spare: Those of them that filled up a pass, or were answered in one that failed.
    """

    def __init__(
        self,
        victim: nn.Module,
        batch_size: int,
        *,
        seed: int = 0,
        precision: Precision = "float32",
        channels_last: bool = True,
        any_pixels: bool = False,
        rank: int = 0,
        attempt: int = 0,
        least: int = 1,
        on_smaller: Callable[[int], None] = lambda rows: None,
        on_contiguous: Callable[[], None] = lambda: None,
    ) -> None:
        self.batch_size = batch_size
        self.precision = precision
        self.any_pixels = any_pixels
        self.forwarded = 0
        self.spare = 0
        self._least = least
        self._on_smaller = on_smaller
        self._on_contiguous = on_contiguous
        victim.eval()
        self._victim = victim
        self._answered = False
        self._lay_out(torch.channels_last if channels_last else torch.contiguous_format)
        self._hook = victim.register_forward_hook(self._count)
        self._batch: Tensor | None = None
        self._advances = True
        self._streams: dict[str, list[Tensor]] = {}
        self._seeds = {
            purpose: int.from_bytes(hashlib.sha256(f"{seed}:{purpose}:{rank}:{attempt}".encode()).digest()[:7])
            for purpose in ("attack", "criterion")
        }

    def _lay_out(self, memory_format: torch.memory_format) -> None:
        """Choose the memory format of the passes, and bring the weights into it."""
        self._format = memory_format
        for module in self._victim.modules():
            for parameter in module.parameters(recurse=False):
                if parameter.ndim == 4 and parameter.layout is torch.strided:
                    parameter.data = parameter.data.contiguous(memory_format=memory_format)

    def close(self) -> None:
        """Take the counting hook off the victim."""
        self._hook.remove()

    def _count(self, victim: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.forwarded += len(inputs[0])

    @torch.no_grad()
    def scores(self, points: Tensor, clock: Tensor, purpose: Purpose) -> Tensor:
        """Return the raw logits of some points.

        Args:
            points: (rows, C, H, W) in [0, 1] unless `any_pixels`, at most `batch_size` rows.
            clock: (rows,) int64, queries billed before each.
            purpose: Which noise and which precision.

        Returns:
            (rows, classes) float32.

        Raises:
            UserError: If points lie outside [0, 1].
            VictimError: If the victim raises, or answers NaN or infinity.
            DefenseError: If a defense cannot act on the victim.
            OutOfMemory: If memory runs out.
        """
        self._check(points)
        with self._noise(purpose, points.device), self._failing(len(points)):
            return self._forward(self._fill(points), clock, purpose)

    def gradients(self, points: Tensor, clock: Tensor, objective: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Return the raw logits of some points and the gradients of an objective, for white-box attacks.

        Args:
            points: See `scores`.
            clock: See `scores`.
            objective: From the logits (rows, classes) to one value per row, (rows,).

        Returns:
            Logits (rows, classes) float32 and gradients like `points`, with the attack's noise and precision.

        Raises:
            UserError: As `scores` does, and if the gradient does not reach the points.
            VictimError: As `scores` does, and if the gradient is not finite.
            OutOfMemory: If memory runs out.
        """
        self._check(points)
        rows = len(points)
        gradient = None
        with torch.enable_grad(), self._noise("attack", points.device), self._failing(rows):
            batch = self._fill(points).detach().requires_grad_()
            logits = self._forward(batch.clone(), clock, "attack")  # a victim may change what it is given
            if logits.requires_grad:
                gradient = torch.autograd.grad(objective(logits).sum(), batch)[0][:rows].float()
                check_finite(gradient, "the victim's gradient is NaN or infinity", "attack it by scores or labels")
        if gradient is None:
            raise UserError(
                "the gradient does not reach the image: something in the victim or its defenses cuts it off; "
                "attack it by scores or labels"
            )
        return logits.detach(), gradient

    def _check(self, points: Tensor) -> None:
        if not self.any_pixels:
            check_pixels(points)

    def _fill(self, points: Tensor) -> Tensor:
        """Return the batch of constant shape with the points in front."""
        if self._batch is None:
            shape = (self.batch_size, *points.shape[1:])
            self._batch = torch.zeros(shape, device=points.device).contiguous(memory_format=self._format)
        self._batch[: len(points)] = points
        self._batch[len(points) :] = points[:1]  # nothing of an earlier pass, which may be what a victim fails on
        return self._batch

    def _forward(self, batch: Tensor, clock: Tensor, purpose: Purpose) -> Tensor:
        """Return the logits of the rows that have a clock."""
        padded = torch.zeros(self.batch_size, dtype=clock.dtype, device=clock.device)
        padded[: len(clock)] = clock
        with self._arithmetic(purpose, batch.device), ticking(padded):
            # A copy: a victim may answer from memory that its next pass overwrites.
            logits = check_logits(self._answer(batch), len(batch))[: len(clock)].to(torch.float32, copy=True)
        check_finite(logits, "the victim answered NaN or infinity", "attacks need finite scores")
        return logits

    def _answer(self, batch: Tensor) -> Any:
        """Return what the victim answers, in contiguous memory if it has never answered in channels-last memory.

        A network that flattens by `view` needs the former; torch raises a RuntimeError for it.
        """
        kept = batch if self._answered else batch.clone()  # a victim may change what it is given
        try:
            output = self._victim(batch)
        except RuntimeError as error:
            if self._answered or self._format is torch.contiguous_format or is_out_of_memory(error):
                raise
            self._lay_out(torch.contiguous_format)
            try:
                output = self._victim(kept.contiguous())
            except Exception:
                self._lay_out(torch.channels_last)
                raise error from None
            self._batch = None
            self._on_contiguous()
        self._answered = True
        return output

    @contextmanager
    def _failing(self, rows: int) -> Iterator[None]:
        """Count what a pass of so many rows spares, and say what went wrong in it."""
        before = self.forwarded
        try:
            yield
        except Exception as error:
            # What the hook counted before the failure: nothing, where the victim itself raised.
            self.spare += self.forwarded - before
            if isinstance(error, (VictimError, DefenseError)):
                raise
            if not is_out_of_memory(error):
                raise raised(error) from error
            self._shrink()
            raise OutOfMemory("memory ran out in a forward pass; lower model.batch_size") from error
        self.spare += self.batch_size - rows

    def _shrink(self) -> None:
        """Halve the forward passes that follow.

        Raises:
            UserError: If they cannot be smaller.
        """
        if self.batch_size <= self._least:
            remedy = "lower model.eot" if self._least > 1 else "lower data.size, or take a smaller victim"
            raise UserError(f"memory ran out in a forward pass of {self.batch_size} rows; {remedy}")
        self.batch_size = max(self.batch_size // 2, self._least)
        self._batch = None
        self._on_smaller(self.batch_size)

    @contextmanager
    def same_noise(self) -> Iterator[None]:
        """Replay the same random numbers of torch's global generators in every forward pass inside."""
        self._advances = False
        try:
            yield
        finally:
            self._advances = True

    @contextmanager
    def _noise(self, purpose: Purpose, device: torch.device) -> Iterator[None]:
        """Put the stream of a purpose in the place of the global generators."""
        on_gpu = device.type == "cuda"
        outside = [torch.get_rng_state()]
        if on_gpu:
            outside.append(torch.cuda.get_rng_state(device))
        try:
            if purpose in self._streams:
                self._set_states(self._streams[purpose], device)
            else:
                torch.manual_seed(self._seeds[purpose])
            yield
        finally:
            inside = [torch.get_rng_state()]
            if on_gpu:
                inside.append(torch.cuda.get_rng_state(device))
            if self._advances:
                self._streams[purpose] = inside
            self._set_states(outside, device)

    @staticmethod
    def _set_states(states: list[Tensor], device: torch.device) -> None:
        torch.set_rng_state(states[0])
        if len(states) > 1:
            torch.cuda.set_rng_state(states[1], device)

    @contextmanager
    def _arithmetic(self, purpose: Purpose, device: torch.device) -> Iterator[None]:
        """Choose the precision: what was asked for the attack, float32 for the criterion."""
        precision = self.precision if purpose == "attack" else "float32"
        with ExitStack() as stack:
            # Switched off too: whoever calls may have switched it on, as a trainer does.
            stack.enter_context(torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"))
            if device.type == "cuda":
                tf32, cudnn = precision == "tf32", torch.backends.cudnn
                flags = {"benchmark": cudnn.benchmark, "deterministic": cudnn.deterministic, "allow_tf32": tf32}
                stack.enter_context(cudnn.flags(enabled=True, **flags))
                before = torch.backends.cuda.matmul.allow_tf32
                torch.backends.cuda.matmul.allow_tf32 = tf32
                stack.callback(setattr, torch.backends.cuda.matmul, "allow_tf32", before)
            yield
