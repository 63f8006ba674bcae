"""The PopSkipJump attack."""

import math

import torch
from torch import Tensor

from rfdlight.attacks.decision_based import Phases
from rfdlight.attacks.hsja import HSJA
from rfdlight.core import norms
from rfdlight.core.tensors import Columns, may_hold, per_row, take

# The grid of the posterior: cells of the bracket for the centre, widths of the sigmoid in shares of the segment, and
# flip rates. A transition narrower than the second width counts as a step, which has half of the prior.
_CELLS = 16  # a power of two, so that no centre lies on the edge of an earlier grid, where a step has no answer
_WIDTHS = (0.0, *(0.32 * 0.5**k for k in range(9, -1, -1)))
_FLIPS = (0.0, 0.03, 0.1, 0.2, 0.3)
_TAIL = 0.005  # posterior mass that a smaller bracket may leave out on each side
_MOST = 64  # answers of a bisection, with the known one of its far end
_PROBIT = 1.702  # sigmoid(v) and the normal distribution function at v / 1.702 differ by less than 0.01
_SHARE = 5  # an iteration has at most this part of the budget: HopSkipJump's has about that part of 1000 queries


class PopSkipJump(HSJA):
    """PopSkipJump: decision-based attack on random victims: HopSkipJump with noisy bisection and more probes.

    An answer at share q of a segment from x counts as adversarial with probability f + (1 - 2 f) sigmoid((q - c) / w).
    Bisection keeps a posterior of the centre c, the width w and the flip rate f, and queries the point whose answer has
    the largest mutual information with the three. It ends once the standard deviation of c is at most w, or half of
    `gap`; b is the point at the mean of c. Where the boundary is flat, n probes of length p have the expected cosine
    with the normal that HopSkipJump's n0 probes have without noise, if n = n0 (1 + (v / p)^2) / (1 - 2 f)^2, with
    v = 1.702 sqrt(d) w l for a segment of length l. p is v, or at most the distance of b, and at least HopSkipJump's.
    Queries: one per start tried, at most 63 per bisection, one per probe, one per length of the step.

    Source: Simon-Gabriel, Sheikh and Krause, PopSkipJump, ICML 2021: the model of answers, the bisection, and the rule
    that n has to keep HopSkipJump's cosine.
    Deviations: those of HSJA; the closed form of n, in which a normal distribution function replaces the sigmoid; the
    length of probes behind noise; n is at most n0 or a fifth of the budget, whichever is larger; w is along the segment
    and not along the normal, so n is too large for an oblique segment; the grid, its prior, and the rule by which a
    bisection ends, at 63 queries at the latest; no blending of the start with x; what is submitted is the edge of the
    ball on the segment with the nearest b, since no single answer shows a success.

    Args:
        init_probes: HopSkipJump's probes n0 in the first iteration, >= 1.
        max_probes: Largest number of probes in an iteration, >= 1.
        gap: Share of the way to x that bisection resolves without noise, in (0, 1); it also sets the least probe
            length. By default d^-1.5 in l2 and d^-2 in linf.
    """

    def init(self, x: Tensor, y: Tensor, seed: Tensor) -> Columns:
        real = torch.zeros_like(y, dtype=torch.float64)
        return {
            **super().init(x, y, seed),
            "posterior": x.new_zeros(len(x), _CELLS, len(_WIDTHS), len(_FLIPS), dtype=torch.float32),  # logarithms
            "shares": real[:, None].repeat(1, _MOST),  # of this bisection's queries,
            "successes": torch.zeros_like(y, dtype=torch.bool)[:, None].repeat(1, _MOST),  # their answers,
            "answered": torch.zeros_like(y),  # and their number
            "blur": real,  # v of the last bisection,
            "flips": real.clone(),  # and f
        }

    @property
    def first_bisection(self) -> int:
        return self.PROJECT

    def phases(self) -> Phases:
        phases = list(super().phases())
        phases[self.PROJECT] = (self._most_informative, self._after_answer)
        return tuple(phases)

    def keep_nearest(self, state: Columns, points: Tensor, adversarial: Tensor) -> None:
        """Keep the last point before the first bisection has ended."""
        first = per_row(state["distance"].isinf(), points)
        state["nearest"] = torch.where(first, points, state["nearest"])

    def _bisect(self, state: Columns, rows: Tensor, phase: int) -> None:
        super()._bisect(state, rows, phase)
        state["posterior"] = torch.where(per_row(rows, state["posterior"]), _prior(state), state["posterior"])
        state["answered"] = state["answered"].masked_fill(rows, 0)
        _learn(state, torch.ones_like(state["low"]), rows, rows)  # the far end was adversarial

    def _most_informative(self, state: Columns) -> Tensor:
        belief = _normalised(state["posterior"])
        # The chance at edge j of a cell depends on the centre i by j - i alone: windows of one table hold all pairs.
        table = _chances(state, (torch.arange(2 * _CELLS - 2, device=belief.device) - _CELLS + 1.5) / _CELLS)
        turned = belief.flip(1).permute(0, 2, 3, 1)[:, None]
        mean = (table.unfold(1, _CELLS, 1) * turned).sum((2, 3, 4))
        spread = (_entropy(table).unfold(1, _CELLS, 1) * turned).sum((2, 3, 4))
        # Rounded, since the last bits of sums must not decide between equals.
        best = ((_entropy(mean) - spread) * 1e5).round().argmax(1)
        state["share"] = state["low"] + (state["high"] - state["low"]) * (best + 1) / _CELLS
        return self.projection(state, state["share"])

    def _after_answer(self, state: Columns, points: Tensor, adversarial: Tensor) -> None:
        _learn(state, state["share"], adversarial, torch.ones_like(adversarial))
        belief = _normalised(state["posterior"])
        centre, deviation = _moments(state, belief)
        width, flips = _median(belief.sum((1, 3)), _WIDTHS), _median(belief.sum((1, 2)), _FLIPS)
        resolved = deviation <= width.clamp_min(self.closeness(points[0].numel()) / 2)
        self._end(state, resolved | (state["answered"] == _MOST), centre, width, flips)
        _narrow(state, belief)

    def _end(self, state: Columns, rows: Tensor, centre: Tensor, width: Tensor, flips: Tensor) -> None:
        """End the bisection of `rows` at the estimates, (rows,) each, and begin their next iteration."""
        if not may_hold(rows):
            return
        x = state["x"]
        point = self.projection(state, centre)
        length = norms.norm(point - x, "l2").double() / centre
        blur = _PROBIT * math.sqrt(x[0].numel()) * width * length
        state["blur"], state["flips"] = torch.where(rows, blur, state["blur"]), torch.where(rows, flips, state["flips"])
        state["point"] = torch.where(per_row(rows, x), point, state["point"])
        distance = self.threat.distance(x, point)
        nearer = rows & (distance < state["distance"])
        # Moved into the ball, the far end is the edge of the ball on this segment.
        state["nearest"] = torch.where(per_row(nearer, x), state["far"], state["nearest"])
        state["distance"] = torch.where(nearer, distance, state["distance"])
        self._iterate(state, rows)

    def wanted(self, state: Columns) -> Tensor:
        needed = self.probes_wanted(state["iteration"])
        factor = (1 + (state["blur"] / self.probe_size(state)) ** 2) / (1 - 2 * state["flips"]) ** 2
        most = (state["budget"] // (_SHARE * self.eot)).maximum(needed)
        return (needed * factor).ceil().clamp_max(self.max_probes).minimum(most).long()

    def probe_size(self, state: Columns) -> Tensor:
        distance = norms.norm(state["point"] - state["x"], "l2").double()
        return super().probe_size(state).maximum(state["blur"].minimum(distance))


def _prior(state: Columns) -> Tensor:
    """Return the logarithms of the prior, like the posterior: uniform, but for the step."""
    others = len(_WIDTHS) - 1
    prior = torch.tensor([0.5] + [0.5 / others] * others, device=state["posterior"].device).log()
    return prior[:, None].expand_as(state["posterior"])


def _chances(state: Columns, offsets: Tensor) -> Tensor:
    """Return P(adversarial), (rows, k, widths, flip rates), at offsets from c in brackets, (k,) or (rows, k)."""
    span = state["high"] - state["low"]
    # A width of 0 is one so small that the sigmoid is 0 or 1.
    widths = torch.tensor(_WIDTHS, dtype=torch.float64, device=span.device).clamp_min(1e-30)
    flips = torch.tensor(_FLIPS, device=span.device)
    steps = torch.sigmoid((offsets * span[:, None])[..., None] / widths).float()
    return flips + (1 - 2 * flips) * steps[..., None]


def _centres(state: Columns) -> Tensor:
    """Return the centres of the cells in brackets, (cells,) float64."""
    return (torch.arange(_CELLS, dtype=torch.float64, device=state["low"].device) + 0.5) / _CELLS


def _likelihood(state: Columns, share: Tensor, adversarial: Tensor) -> Tensor:
    """Return the log-likelihood of answers at shares, (rows,), like the posterior."""
    place = (share - state["low"]) / (state["high"] - state["low"])
    chances = _chances(state, place[:, None] - _centres(state))
    return torch.where(per_row(adversarial, chances), chances, 1 - chances).log()


def _learn(state: Columns, share: Tensor, adversarial: Tensor, rows: Tensor) -> None:
    """Add to the posterior of `rows`, (rows,) bool, an answer at a share."""
    slot = rows[:, None] & (torch.arange(_MOST, device=rows.device) == state["answered"][:, None])
    state["shares"] = torch.where(slot, share[:, None], state["shares"])
    state["successes"] = torch.where(slot, adversarial[:, None], state["successes"])
    state["answered"] = state["answered"] + rows
    learnt = state["posterior"] + _likelihood(state, share, adversarial)
    state["posterior"] = torch.where(per_row(rows, learnt), learnt, state["posterior"])


def _narrow(state: Columns, belief: Tensor) -> None:
    """Shrink each bracket to the cells that have mass, if these are at most half, and compute its posterior anew."""
    below = belief.sum((2, 3)).cumsum(1)
    first = ((below < _TAIL).sum(1) - 1).clamp_min(0)
    last = ((below < 1 - _TAIL).sum(1) + 1).clamp_max(_CELLS - 1)
    rows = (last - first < _CELLS // 2).nonzero()[:, 0]
    if not len(rows):
        return
    names = "low", "high", "answered", "shares", "successes", "posterior"
    own, first, last = take({name: state[name] for name in names}, rows), first[rows], last[rows]
    low, span = own["low"], own["high"] - own["low"]
    own["low"], own["high"] = low + span * first / _CELLS, low + span * (last + 1) / _CELLS
    own["posterior"] = _prior(own)
    for slot in range(int(own["answered"].max())):
        learnt = own["posterior"] + _likelihood(own, own["shares"][:, slot], own["successes"][:, slot])
        own["posterior"] = torch.where(per_row(own["answered"] > slot, learnt), learnt, own["posterior"])
    for name in ("low", "high", "posterior"):
        state[name] = state[name].index_copy(0, rows, own[name])


def _normalised(logarithms: Tensor) -> Tensor:
    return logarithms.flatten(1).softmax(1).view(logarithms.shape)


def _entropy(chances: Tensor) -> Tensor:
    """Return the entropy of an answer in nats."""
    chances = chances.clamp(0, 1)
    return torch.special.entr(chances) + torch.special.entr(1 - chances)


def _moments(state: Columns, belief: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean of the centre and its standard deviation, that within a cell included, (rows,) float64 each."""
    mass, span, centres = belief.sum((2, 3)).double(), state["high"] - state["low"], _centres(state)
    mean = (mass * centres).sum(1)
    variance = (mass * (centres - mean[:, None]) ** 2).sum(1) + 1 / (12 * _CELLS**2)
    return state["low"] + span * mean, span * variance.sqrt()


def _median(masses: Tensor, values: tuple[float, ...]) -> Tensor:
    """Return the median of a distribution over ascending values, whose masses are (rows, values), (rows,) float64."""
    place = (masses.cumsum(1) < 0.5).sum(1).clamp_max(len(values) - 1)
    return torch.tensor(values, dtype=torch.float64, device=masses.device)[place]
