"""The steps of a recommendation: select candidates by prediction, calibrate them, confirm them by short attacks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.text import Text

from rfdlight.analysis import defense_file
from rfdlight.analysis.calibration import Target, calibrate_noise, calibrate_roughly, cost_line, rough_meter
from rfdlight.analysis.candidates import Candidate, LinearisedVictim, candidates, layers_text, noise_of
from rfdlight.analysis.clean_cost import CleanCostMeter
from rfdlight.analysis.recommendation import NO_NOISE, Confirmed
from rfdlight.attacks.base import Attack
from rfdlight.core.activations import InsertionPoint
from rfdlight.core.registry import short_name
from rfdlight.data.given import GivenImages
from rfdlight.data.sources import ImageSource
from rfdlight.data.subset import select
from rfdlight.engine.evaluations import ADVERSARIAL_LEVEL
from rfdlight.errors import UserError
from rfdlight.evaluation.evaluate import evaluate
from rfdlight.evaluation.standard import StandardAttack, short_standard
from rfdlight.records.runs import Run
from rfdlight.reporting.tables import interval, percent

PREDICTED_ON = 200
"""Images, at most, on which the prediction is made."""


@dataclass(frozen=True)
class RecommendConfig:
    """Settings of a recommendation: `step` is that of the predicted attacker, `attack` confirms with `budget` queries.

    `confirm` is the number of best predicted sets of layers to calibrate and attack; the pixels are added.
    """

    target: Target
    step: float
    confirm: int
    attack: Attack
    budget: int
    classes: int


def attack_name(attack: Attack) -> str:
    """Return the short name of an attack, or the stages of the short form of the standard evaluation."""
    if isinstance(attack, StandardAttack):
        return " and ".join(attack.short_stages)
    return short_name("attack", type(attack))


class Recommender:
    """Selects, calibrates and confirms noise for one victim, and prints one line per step and candidate.

    The meter holds the images of prediction and calibration; `images` are those of the short attacks.
    """

    def __init__(
        self,
        meter: CleanCostMeter,
        points: list[InsertionPoint],
        images: ImageSource,
        config: RecommendConfig,
        console: Console,
    ) -> None:
        self.meter, self.images, self.config, self.console = meter, images, config, console
        self.side = points[0].side
        self.attack_name = attack_name(config.attack)
        rest = meter.images
        chosen = select(rest.ids, rest.labels.tolist(), min(PREDICTED_ON, len(rest)), "random", meter.seed)
        self.say(f"step 1 of 3: gradients at {len(points) + 1} insertion points, on {len(chosen)} images")
        self.linear = LinearisedVictim(meter.victim, rest.take(chosen), points, config.step, meter.device)

    def say(self, line: str, style: str = "") -> None:
        """Print one line."""
        self.console.print(Text(line, style=style), soft_wrap=True)

    def select(self) -> list[Candidate]:
        """Return the candidates at about the target cost, by their prediction, highest first."""
        target = self.config.target
        rough = rough_meter(self.meter.victim, self.meter.images, self.meter.seed)
        self.say(f"step 2 of 3: the sigma that costs about {target.points}, on {len(rough.undefended)} images")

        def settle(candidate: Candidate) -> Candidate | None:
            noise = noise_of(candidate, self.side)
            cost = calibrate_roughly(rough, noise, target.drop)
            if cost is None:
                return None
            self.say(f"{candidate}: {cost_line(noise.sigma, cost)}", style="dim")
            return self.linear.at_sigmas(candidate.layers, noise.sigmas(len(candidate.sigmas)))

        with self.console.status("rough calibration"):
            ranked, without = candidates(self.linear, target.drop, settle)
        for layers in without:
            self.say(f"{layers_text(layers)}: no sigma costs {target.points}")
        if not ranked:
            raise self._no_candidate()
        order = ", ".join(f"{one} {one.predicted:.1%}" for one in ranked)
        self.say(f"predicted share of steps of {self.config.step:.3g} that the noise misleads: {order}")
        return ranked

    def confirm(self, ranked: list[Candidate]) -> tuple[Run, list[Confirmed]]:
        """Calibrate and attack the best predicted sets of layers, and the pixels, after the undefended victim."""
        config = self.config
        self.say(
            f"step 3 of 3: calibration on {len(self.meter.undefended)} images, and attacks by {self.attack_name} on "
            f"{len(self.images)} others, {config.budget} queries per image"
        )
        caution = config.attack.budget_warning(config.budget)
        if caution:
            self.say(f"warning: {caution}")
        undefended = self._attack(NO_NOISE)
        confirmed: list[Confirmed] = []
        for candidate in ranked:
            if not candidate.layers or sum(bool(one.candidate.layers) for one in confirmed) < config.confirm:
                confirmed += self._confirmed(candidate)
        if not confirmed:
            raise self._no_candidate()
        return undefended, confirmed

    def facts(self) -> dict[str, Any]:
        """Return the settings of the confirmation, for the file of the best candidate."""
        attack = self.config.attack
        return {
            "attack": self.attack_name,
            "options": attack.options(),
            "norm": attack.norm,
            "eps": attack.eps,
            "budget": self.config.budget,
            "criterion": "sequential",
            "level": ADVERSARIAL_LEVEL / (len(attack.short_stages) if isinstance(attack, StandardAttack) else 1),
            **defense_file.image_facts(self.images),
            "step": self.config.step,
        }

    def _confirmed(self, candidate: Candidate) -> list[Confirmed]:
        noise = noise_of(candidate, self.side)
        try:
            calibration = calibrate_noise(
                self.meter,
                noise,
                self.config.target,
                lambda sigma, cost: self.say(f"{candidate}: {cost_line(sigma, cost)}", style="dim"),
            )
        except UserError as error:
            self.say(f"{candidate}: {error}")
            return []
        calibrated = self.linear.at_sigmas(candidate.layers, noise.sigmas(len(candidate.sigmas)))
        with noise.on(self.meter.victim):
            return [Confirmed(calibrated, noise, calibration, self._attack(str(candidate)))]

    def _attack(self, name: str) -> Run:
        """Attack the victim with the noise that is attached to it."""
        with self.console.status(Text(f"{name}: {self.attack_name} on {len(self.images)} images")):
            outcome = self._outcome()
        share = outcome.robust_accuracy
        self.say(f"{name}: robust accuracy {percent(share)} ({interval(share)})", style="dim")
        return outcome

    def _outcome(self) -> Run:
        """Run the short attack, or the short form of the standard evaluation."""
        victim, images, config = self.meter.victim, GivenImages(self.images, self.config.classes), self.config
        shared: dict[str, Any] = {"budget": config.budget, "device": self.meter.device, "seed": self.meter.seed}
        if isinstance(config.attack, StandardAttack):
            return short_standard(victim, images, config.attack, **shared).combined
        return evaluate(victim, images, config.attack, **shared, sanity_checks=False, progress=False)

    def _no_candidate(self) -> UserError:
        return UserError(f"no candidate has a sigma that costs {self.config.target.points}")
