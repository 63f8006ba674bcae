"""Oracle: evaluates the victim in forward passes of one shape, or of few shapes where the victim is random."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from rfdlight.core.logits import check_logits
from rfdlight.core.query_counts import ticking
from rfdlight.core.quiet import quiet
from rfdlight.core.rng import seed_generators
from rfdlight.core.row_counter import RowCounter
from rfdlight.engine.compilation import CompiledVictim, agree
from rfdlight.engine.failures import OutOfMemory, VictimError, check_finite, is_out_of_memory, raised
from rfdlight.errors import DefenseError, UserError

Precision = Literal["float32", "tf32", "bfloat16"]
Purpose = Literal["attack", "criterion"]


def check_pixels(points: Tensor) -> None:
    """Raise a UserError if pixels are outside [0, 1] or NaN."""
    low, high = torch.aminmax(points)
    if not (low >= 0 and high <= 1):
        raise UserError(f"expected pixels in [0, 1], got values from {low:.4g} to {high:.4g}")


@dataclass(frozen=True)
class OracleConfig:
    """Configuration of an oracle."""

    seed: int = 0  # of the victim's noise
    rank: int = 0  # of this process
    attempt: int = 0  # how often the run was resumed
    precision: Precision = "float32"  # of the attack's forward passes; the criterion's are always float32
    channels_last: bool = True  # memory of the passes; contiguous if the victim fails in channels-last memory alone
    any_pixels: bool = False  # whether points may leave [0, 1], as in the paper's code
    least: int = 1  # smallest number of rows per forward pass when memory runs out


def _noise_seed(config: OracleConfig, label: str) -> int:
    """Return the seed of a noise stream; the labels fix published numbers."""
    key = f"{config.seed}:{label}:{config.rank}:{config.attempt}"
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:7])


class Oracle:
    """Owns the victim and evaluates points, in forward passes of one shape unless shorter ones are allowed.

    A victim's answer to an image changes by rounding with the number of rows of a pass. So the passes of a
    deterministic victim have one shape, and its records do not depend on which images share them.

    The attack's and the criterion's passes draw the victim's noise from two streams of torch's global generators, each
    seeded by (seed, purpose, rank, attempt) and restored between passes. So the criterion's evaluations never change
    the attack's answers. If memory runs out in a forward pass, it raises `OutOfMemory`, and the following passes have
    half the rows.

    Args:
        victim: Maps pixels to logits; the oracle puts it into eval mode.
        batch_size: Rows per forward pass; shorter batches are padded with their first row.
        config: Noise, precision and memory.
        message: Called with a line where passes become smaller or leave channels-last memory.
    """

    def __init__(
        self,
        victim: nn.Module,
        batch_size: int,
        config: OracleConfig = OracleConfig(),
        message: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.batch_size = batch_size
        self.config = config
        self._shorter_passes = False
        self.spare = 0  # those that padded a pass, or belonged to a pass that failed
        self._message = message
        victim.eval()
        self._victim = victim
        self._answered = False
        self._set_format(torch.channels_last if config.channels_last else torch.contiguous_format)
        self.seconds_per_row = math.inf  # of the fastest pass so far
        self._compiled: CompiledVictim | None = None
        self._open = ExitStack()
        self.counter = self._open.enter_context(RowCounter(victim))
        self._batch: Tensor | None = None
        self._advances = True
        self._streams: dict[str, list[Tensor]] = {}
        self._seeds = {
            "attack": _noise_seed(config, "attack"),
            "criterion": _noise_seed(config, "judge"),  # the old name, for the same draws  # codespell:ignore judge
        }

    def _set_format(self, memory_format: torch.memory_format) -> None:
        """Set the memory format of the passes and of the weights."""
        self._format = memory_format
        for parameter in self._victim.parameters():
            if parameter.ndim == 4 and parameter.layout is torch.strided:
                parameter.data = parameter.data.contiguous(memory_format=memory_format)

    def allow_shorter_passes(self, x: Tensor) -> None:
        """Pad batches only to the next eighth of the batch size, if the victim answers an image (1, C, H, W) so."""
        self._shorter_passes = True
        try:
            self.scores(x, torch.zeros(1, dtype=torch.int64, device=x.device), "criterion")
        except (VictimError, OutOfMemory):  # some victims take one number of images
            self._shorter_passes = False

    def compile(self, points: Tensor, compiled: CompiledVictim) -> bool:
        """Answer full passes by a compiled victim from here on, unless it fails; return whether it does not.

        Compiled and eager victim answer the same points twice, with the same random numbers, and must agree to
        rounding: so the compiled noise is the eager noise, and is fresh in each pass. The noise streams do not advance.
        Gradients, and passes of another number of rows, stay eager.
        """
        rows = self.batch_size
        if compiled.failure is None and rows not in compiled.rows:
            full = points[torch.arange(rows, device=points.device) % len(points)]
            compiled.rows.add(rows)
            self._compare(full, compiled)
        self._compiled = compiled if rows in compiled.rows else None
        return self.is_compiled

    @property
    def is_compiled(self) -> bool:
        """Whether a compiled victim answers full passes."""
        return self._compiled is not None

    def run_eagerly(self) -> None:
        """Answer by the eager victim from here on."""
        self._compiled = None

    def _compare(self, points: Tensor, compiled: CompiledVictim) -> None:
        """Give a compiled victim up if it does not answer a full pass as the eager one does."""
        clock = torch.zeros(len(points), dtype=torch.int64, device=points.device)
        streams = self._streams

        def answers(used: CompiledVictim | None) -> Tensor:
            self._streams, self._compiled = dict(streams), used
            return torch.cat([self.scores(points, clock, "criterion") for _ in range(2)])

        try:
            eager = answers(None)
            with quiet():
                if not agree(eager, answers(compiled)) and compiled.failure is None:
                    self._give_up(compiled, "its compiled answers differ from its eager ones")
        except (VictimError, OutOfMemory) as error:
            self._give_up(compiled, str(error))
        finally:
            self._streams = streams

    def _give_up(self, compiled: CompiledVictim, reason: str) -> None:
        """Run the victim eagerly from here on."""
        compiled.failure = reason
        compiled.rows.clear()
        self.run_eagerly()
        self._message(f"the victim runs eagerly, not compiled: {reason}")

    def close(self) -> None:
        """Remove the counting hook from the victim."""
        self._open.close()

    @property
    def forwarded(self) -> int:
        """Rows counted by a hook on the victim."""
        return self.counter.rows

    @torch.no_grad()
    def scores(self, points: Tensor, clock: Tensor, purpose: Purpose) -> Tensor:
        """Return the logits of points, (rows, classes) float32.

        Raises a VictimError if the victim raises or answers NaN or infinity, a DefenseError, or OutOfMemory.

        Args:
            points: (rows, C, H, W) in [0, 1] unless `any_pixels`, at most `batch_size` rows.
            clock: (rows,) int64, queries billed before each.
            purpose: Decides the noise stream and the precision.
        """
        with self._pass(points, purpose):
            return self._forward(points, self._fill(points), clock, purpose)

    def gradients(self, points: Tensor, clock: Tensor, objective: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Return the logits of points and the gradients of an objective like `points`; raises as `scores` does.

        `objective` maps logits (rows, classes) to one value per row, (rows,).
        """
        gradient = None
        with torch.enable_grad(), self._pass(points, "attack"):
            batch = self._fill(points).detach().requires_grad_()
            logits = self._forward(points, batch.clone(), clock, "attack")  # the victim may change its input in place
            if logits.requires_grad:
                gradient = torch.autograd.grad(objective(logits).sum(), batch)[0][: len(points)].float()
                check_finite(gradient, "the victim's gradient is NaN or infinity", "attack it by scores or labels")
        if gradient is None:
            raise UserError(
                "the gradient does not reach the image: something in the victim or its defenses cuts it off; "
                "attack it by scores or labels"
            )
        return logits.detach(), gradient

    def _fill(self, points: Tensor) -> Tensor:
        """Return the batch of the pass with the points in front."""
        if self._batch is None:
            shape = (self.batch_size, *points.shape[1:])
            self._batch = torch.zeros(shape, device=points.device).contiguous(memory_format=self._format)
        self._batch[: len(points)] = points
        if len(points) < len(self._batch):
            self._batch[len(points) :] = points[:1]  # never rows of an earlier pass, on which the victim may fail
        return self._batch[: self._rows(points)]

    def _rows(self, points: Tensor) -> int:
        """Return the number of rows of the pass for some points."""
        part = math.ceil(self.batch_size / 8) if self._shorter_passes else self.batch_size
        rows = min(math.ceil(len(points) / part) * part, self.batch_size)
        # A compiled pass of all rows takes about as long as an eager one of half of them.
        return self.batch_size if self.is_compiled and 2 * rows > self.batch_size else rows

    def _forward(self, points: Tensor, batch: Tensor, clock: Tensor, purpose: Purpose) -> Tensor:
        """Return the logits of the points, which are in front of the batch."""
        start = time.perf_counter()
        padded = clock if len(batch) == len(clock) else pad(clock, (0, len(batch) - len(clock)))
        with self._arithmetic(purpose, batch.device), ticking(padded):
            # A copy: the victim may reuse the memory of its answer in the next pass.
            logits = check_logits(self._run(batch), len(batch))[: len(clock)].to(torch.float32, copy=True)
        self._check(points, logits.detach())
        self.seconds_per_row = min(self.seconds_per_row, (time.perf_counter() - start) / len(batch))
        return logits

    def _check(self, points: Tensor, logits: Tensor) -> None:
        """Raise an error for points outside of [0, 1] or logits that are not finite; only one read from the device."""
        checked = (logits,) if self.config.any_pixels else (logits, points)
        least, most, *pixels = torch.stack([bound for part in checked for bound in torch.aminmax(part)]).tolist()
        if pixels and not (pixels[0] >= 0 and pixels[1] <= 1):
            check_pixels(points)
        if not (math.isfinite(least) and math.isfinite(most)):
            check_finite(logits, "the victim answered NaN or infinity", "attacks need finite scores")

    def _run(self, batch: Tensor) -> Any:
        """Return the answer of the compiled victim, if there is one for these passes, else of the eager one."""
        compiled = self._compiled
        if compiled is None or len(batch) not in compiled.rows or torch.is_grad_enabled():
            return self._answer(batch)
        try:
            return compiled(batch)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            output = self._answer(batch)  # which raises where the victim itself fails
            self._give_up(compiled, raised(error).reason)
            return output

    def _answer(self, batch: Tensor) -> Any:
        """Return the victim's answer; before its first answer, switch to contiguous memory where channels-last fails.

        torch raises a RuntimeError where a network flattens a channels-last tensor by `view`.
        """
        if self._answered or self._format is torch.contiguous_format:
            return self._victim(batch)
        kept = batch.clone()  # the victim may change its input in place
        try:
            output = self._victim(batch)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            self._set_format(torch.contiguous_format)
            try:
                output = self._victim(kept.contiguous())
            except Exception:
                self._set_format(torch.channels_last)
                raise
            self._batch = None
            self._message(
                "the victim fails in channels-last memory; it runs in contiguous memory, as with --model.channels_last "
                "false"
            )
        self._answered = True
        return output

    @contextmanager
    def _pass(self, points: Tensor, purpose: Purpose) -> Iterator[None]:
        """Set the noise stream, count the spare rows of one pass and translate its errors."""
        before = self.forwarded
        try:
            with self._noise(purpose, points.device):
                yield
        except Exception as error:
            # The rows counted before the failure: none if the victim itself raised.
            self.spare += self.forwarded - before
            if not (self.config.any_pixels or is_out_of_memory(error)):
                check_pixels(points)  # the attack's error, whatever the victim makes of such points
            if isinstance(error, (VictimError, DefenseError)):
                raise
            if not is_out_of_memory(error):
                raise raised(error) from error
            self._shrink()
            raise OutOfMemory("memory ran out in a forward pass; lower model.batch_size") from error
        self.spare += self._rows(points) - len(points)

    def _shrink(self) -> None:
        """Halve the rows of the following forward passes, or raise a UserError if that is not possible."""
        least = self.config.least
        if self.batch_size <= least:
            remedy = "lower model.eot" if least > 1 else "lower data.size, or take a smaller victim"
            raise UserError(f"memory ran out in a forward pass of {self.batch_size} rows; {remedy}")
        self.batch_size = max(self.batch_size // 2, least)
        if self._compiled is not None and self.batch_size not in self._compiled.rows:
            self.run_eagerly()
        self._shorter_passes = False  # some victims take multiples of one number of images
        self._batch = None
        self._message(f"memory ran out: forward passes of {self.batch_size} images from here on")

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
        """Set the global generators to the stream of a purpose, and restore them afterwards."""
        gpus = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(gpus):
            if purpose in self._streams:
                cpu, *others = self._streams[purpose]
                torch.set_rng_state(cpu)
                for gpu, state in zip(gpus, others, strict=True):
                    torch.cuda.set_rng_state(state, gpu)
            else:
                seed_generators(self._seeds[purpose], device)
            try:
                yield
            finally:
                if self._advances:
                    self._streams[purpose] = [torch.get_rng_state(), *map(torch.cuda.get_rng_state, gpus)]

    @contextmanager
    def _arithmetic(self, purpose: Purpose, device: torch.device) -> Iterator[None]:
        """Set the chosen precision for the attack, float32 for the criterion."""
        precision = self.config.precision if purpose == "attack" else "float32"
        with ExitStack() as stack:
            # Also disables autocast and TF32 that the caller, such as a trainer, has enabled.
            stack.enter_context(torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"))
            if device.type == "cuda":
                tf32, cudnn, matmul = precision == "tf32", torch.backends.cudnn, torch.backends.cuda.matmul
                flags = {"benchmark": cudnn.benchmark, "deterministic": cudnn.deterministic, "allow_tf32": tf32}
                stack.enter_context(cudnn.flags(enabled=True, **flags))
                stack.callback(setattr, matmul, "allow_tf32", matmul.allow_tf32)
                matmul.allow_tf32 = tf32
            yield
