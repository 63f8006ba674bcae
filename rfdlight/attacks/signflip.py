"""The SignFlip attack."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from rfdlight.attacks.base import check_count
from rfdlight.attacks.decision_based import RepeatingAttack
from rfdlight.core import rng
from rfdlight.core.norms import norm
from rfdlight.core.tensors import Columns, per_row, replace

_BISECTIONS = 10
_WINDOW = 10  # iterations between two adaptations
_OFTEN, _SELDOM = 7, 3  # successes in a window above or below which alpha and the probabilities are adapted
_ALPHA, _ALPHA_FACTOR = 0.004, 1.5
_KEEP, _KEEP_LEAST, _KEEP_MOST = 0.999, 0.99, 0.9999
_KEEP_LEARNED, _KEEP_SHIFT = 1e-4, 0.001
_START, _NOISE, _FLIPS = range(3)  # streams of random numbers


class SignFlip(RepeatingAttack):
    """SignFlip: decision-based attack in linf that shrinks a perturbation under random steps and sign flips.

    The start is uniform noise, or an image of the target class, bisected 10 times. Each iteration queries two
    proposals, taken if adversarial: one adds random signs of size alpha and clamps to the radius less alpha, one
    negates a few signs, each with a probability learned from the flips that were taken. Every 10 iterations alpha and
    the probabilities adapt. Queries: 11, one more per noise drawn again, and two per iteration.

    Source: Chen, Zhang, Hu, Wu, Boosting Decision-Based Black-Box Adversarial Attacks with Random Sign Flip, ECCV 2020,
    algorithm 1, with the published code's constants.
    Deviations: the radius less alpha stays above zero; zeros of an enlarged map count as +1, where the published code
    erases those pixels; an image for which no noise is adversarial uses up its own budget, where that code gives up all
    images after 10,000 draws; `lead` is not an option of the authors.

    Args:
        resize: Factor by which the grid of signs and flips is coarser than the image, >= 1; the grid is rounded down
            and enlarged bilinearly. 1 is the paper's, 2 is that of the authors' example.
        lead: Answers by which adversarial ones must lead the others at a point in the ball, >= 1, before it counts as
            adversarial; a point whose other answers lead does not.
    """

    has_targeted_form = True
    needs_starting_point = True

    DRAW, BISECT, PROJECT, FLIP = range(4)

    def __init__(self, resize: int = 1, lead: int = 1, **ball: Any) -> None:
        super().__init__(lead, **ball)
        check_count(resize=resize)
        self.resize = resize

    def init(self, x: Tensor, y: Tensor, seed: Tensor) -> Columns:
        rows, channels, height, width = x.shape
        grid = (rows, channels, max(height // self.resize, 1), max(width // self.resize, 1))
        return {
            **super().init(x, y, seed),
            "delta": torch.zeros_like(x),  # the perturbation last taken; the last noise until one is adversarial
            "keep": torch.full(grid, _KEEP, dtype=torch.float32, device=x.device),  # probability of each sign to stay
            "alpha": torch.full_like(y, _ALPHA, dtype=torch.float32),  # size of the steps
            "low": torch.zeros_like(y, dtype=torch.float32),  # lower end of the bracket; the upper is the radius
            "phase": torch.zeros_like(y),
            "step": torch.zeros_like(y),  # draws, then bisections, then iterations that are complete
            "projected": torch.zeros_like(y),  # proposals taken since the last adaptation
            "flipped": torch.zeros_like(y),
        }

    def ask(self, state: Columns) -> Tensor:
        phase, moves = state["phase"], (self._draw, self._bisect, self._project, self._flip)
        proposal = torch.empty_like(state["delta"])
        state["stays"] = torch.empty_like(state["keep"], dtype=torch.bool)
        for number, move in enumerate(moves):
            rows = (phase == number).nonzero()[:, 0]
            if len(rows):
                proposal[rows] = move(state, rows)
        state["proposal"] = proposal
        return torch.add(state["x"], proposal).clamp_(0, 1)

    def _draw(self, state: Columns, rows: Tensor) -> Tensor:
        x = state["x"][rows]
        if self.targeted:
            return state["start"][rows] - x
        noise = rng.uniform(state["seed"][rows], _START, state["step"][rows], x[0].numel())
        return noise.view(x.shape).to(x.dtype) - x

    def _bisect(self, state: Columns, rows: Tensor) -> Tensor:
        delta = state["delta"][rows]
        middle = per_row((state["low"][rows] + norm(delta, "linf")) / 2, delta)
        return delta.clamp(-middle, middle)

    def _project(self, state: Columns, rows: Tensor) -> Tensor:
        delta, alpha = state["delta"][rows], state["alpha"][rows]
        grid = tuple(state["keep"].shape[1:])
        noise = rng.signs(state["seed"][rows], _NOISE, state["step"][rows], grid)
        radius = per_row((norm(delta, "linf") - alpha).clamp_min(0), delta)
        return (delta + per_row(alpha, delta) * self._enlarge(noise, delta)).clamp_(-radius, radius)

    def _flip(self, state: Columns, rows: Tensor) -> Tensor:
        delta, keep = state["delta"][rows], state["keep"][rows]
        count = keep[0].numel()
        # Half a word is enough: a probability of 1e-4 does not need the 53 bits of rng.uniform.
        halves = rng.words(state["seed"][rows], _FLIPS, state["step"][rows], -(-count // 2)).view(torch.int32)
        stays = halves[:, :count].float().mul_(2.0**-32).add_(0.5).view(keep.shape) < keep
        state["stays"][rows] = stays
        return torch.where(self._enlarge(2 * stays.to(torch.int8) - 1, delta) < 0, -delta, delta)

    @staticmethod
    def _enlarge(signs: Tensor, like: Tensor) -> Tensor:
        """Return the signs at the size of `like`."""
        signs = signs.to(like.dtype)
        if signs.shape == like.shape:
            return signs
        return interpolate(signs, size=like.shape[2:], mode="bilinear", align_corners=False)

    def tell(self, state: Columns, points: Tensor, answer: Tensor) -> None:
        phase, step, proposal = state["phase"], state["step"], state["proposal"]
        length = norm(proposal, "linf")
        decided, hit = self.decide(state, points, self.is_adversarial(state, answer))
        drawn, bisected, projected, flipped = (decided & (phase == which) for which in range(4))

        taken = hit | (phase == self.DRAW)
        replace(state["delta"], taken, proposal)
        state["low"] = torch.where(bisected & ~hit, length, state["low"])
        found, near = drawn & hit, bisected & (step + 1 == _BISECTIONS)
        if near.any():
            x, delta = state["x"][near], state["delta"][near]
            state["delta"][near] = (x + delta).clamp_(0, 1) - x

        step = step + (drawn | bisected | flipped)
        state["step"] = torch.where(found | near, 0, step)
        phase = torch.where(found, self.BISECT, phase)
        phase = torch.where(near | flipped, self.PROJECT, phase)
        state["phase"] = torch.where(projected, self.FLIP, phase)
        state["projected"] = state["projected"] + (projected & hit)
        state["flipped"] = state["flipped"] + (flipped & hit)
        self._learn(state, flipped & hit)
        self._adapt(state, flipped & (step % _WINDOW == 0))

    @staticmethod
    def _learn(state: Columns, rows: Tensor) -> None:
        """Make the signs of a taken flip less likely to flip again, and the other signs more likely."""
        if rows.any():
            learned = torch.where(state["stays"][rows], -_KEEP_LEARNED, _KEEP_LEARNED)
            state["keep"][rows] = (state["keep"][rows] + learned).clamp_(_KEEP_LEAST, _KEEP_MOST)

    @staticmethod
    def _adapt(state: Columns, rows: Tensor) -> None:
        """Lengthen steps and flip more if most proposals of the window were taken, shorten and flip less if few."""
        if not rows.any():
            return
        projected, flipped, keep = (state[name][rows] for name in ("projected", "flipped", "keep"))
        factor = torch.where(projected > _OFTEN, _ALPHA_FACTOR, 1.0)
        factor = torch.where(projected < _SELDOM, 1 / _ALPHA_FACTOR, factor)
        shift = torch.where(flipped > _OFTEN, -_KEEP_SHIFT, 0.0)
        shift = torch.where(flipped < _SELDOM, _KEEP_SHIFT, shift)
        state["alpha"][rows] = state["alpha"][rows] * factor
        state["keep"][rows] = (keep + per_row(shift, keep)).clamp_(_KEEP_LEAST, _KEEP_MOST)
        state["projected"] = torch.where(rows, 0, state["projected"])
        state["flipped"] = torch.where(rows, 0, state["flipped"])

    def best(self, state: Columns) -> Tensor:
        eps = self.threat.eps
        return torch.add(state["x"], state["delta"].clamp(-eps, eps)).clamp_(0, 1)
