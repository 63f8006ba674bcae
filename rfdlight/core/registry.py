"""Registry of components: a table of those of rfdlight, and entry points of other packages."""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from importlib import metadata
from pkgutil import resolve_name
from typing import Any

from rfdlight._io import shipped_names
from rfdlight.core.user_code import guarded
from rfdlight.errors import unknown_name

NAMES: dict[str, dict[str, str]] = {
    "attack": {
        "adaptive_nes": "rfdlight.attacks.adaptive_nes.AdaptiveNES",
        "adaptive_square": "rfdlight.attacks.adaptive_square.AdaptiveSquare",
        "bandits": "rfdlight.attacks.bandits.Bandits",
        "bernoulli": "rfdlight.attacks.bernoulli.Bernoulli",
        "bernoulli_decision": "rfdlight.attacks.bernoulli_decision.BernoulliDecision",
        "bernoulli_multiscale": "rfdlight.attacks.bernoulli_multiscale.BernoulliMultiscale",
        "boundary": "rfdlight.attacks.boundary.Boundary",
        "evolutionary": "rfdlight.attacks.evolutionary.Evolutionary",
        "fgsm": "rfdlight.attacks.fgsm.FGSM",
        "geoda": "rfdlight.attacks.geoda.GeoDA",
        "hsja": "rfdlight.attacks.hsja.HSJA",
        "nattack": "rfdlight.attacks.nattack.NAttack",
        "nes": "rfdlight.attacks.nes.NES",
        "opt": "rfdlight.attacks.opt.OPT",
        "parsimonious": "rfdlight.attacks.parsimonious.Parsimonious",
        "pgd": "rfdlight.attacks.pgd.PGD",
        "popskipjump": "rfdlight.attacks.popskipjump.PopSkipJump",
        "prgf": "rfdlight.attacks.prgf.PRGF",
        "random_noise": "rfdlight.attacks.random_noise.RandomNoise",
        "rays": "rfdlight.attacks.rays.RayS",
        "signflip": "rfdlight.attacks.signflip.SignFlip",
        "signhunt": "rfdlight.attacks.signhunt.SignHunt",
        "signopt": "rfdlight.attacks.signopt.SignOPT",
        "simba": "rfdlight.attacks.simba.SimBA",
        "square": "rfdlight.attacks.square.Square",
        "transfer": "rfdlight.attacks.transfer.Transfer",
        "zo_signsgd": "rfdlight.attacks.zo_signsgd.ZOSignSGD",
    },
    "data": {
        "cifar10": "rfdlight.data.cifar10.CIFAR10",
        "digits": "rfdlight.data.digits.Digits",
        "folder": "rfdlight.data.folder.ImageFolder",
        "imagenet": "rfdlight.data.imagenet.ImageNet",
    },
    "defense": {
        "aaa": "rfdlight.defenses.aaa.AAA",
        "averaged_answers": "rfdlight.defenses.averaged_answers.AveragedAnswers",
        "blacklight": "rfdlight.defenses.blacklight.Blacklight",
        "feature_noise": "rfdlight.defenses.feature_noise.FeatureNoise",
        "input_noise": "rfdlight.defenses.input_noise.InputNoise",
        "logit_noise": "rfdlight.defenses.logit_noise.LogitNoise",
    },
    "criterion": {
        "never": "rfdlight.engine.criteria.never.NeverCriterion",
        "paper": "rfdlight.engine.criteria.paper.PaperCriterion",
        "sequential": "rfdlight.engine.criteria.sequential.SequentialCriterion",
        "single": "rfdlight.engine.criteria.single.SingleCriterion",
    },
    "adversary": {
        "fgsm": "rfdlight.training.adversary.FGSMAdversary",
        "pgd": "rfdlight.training.adversary.PGDAdversary",
        "trades": "rfdlight.training.adversary.TRADESAdversary",
    },
}
"""Import paths of the components of rfdlight, by kind and short name."""

GROUPS = {
    "attack": "rfdlight.attacks",
    "data": "rfdlight.data",
    "defense": "rfdlight.defenses",
    "victim": "rfdlight.victims",
    "criterion": "rfdlight.criteria",
}
"""Entry-point groups in which other packages register components, by kind."""

FLAGS = {"attack": "attack", "data": "data", "defense": "defense", "adversary": "model.adversary"}
"""The option that chooses one of a kind whose components have options of their own."""


def names(kind: str) -> list[str]:
    """Return the short names of a kind, those of other packages included; imports none of the components."""
    return sorted({*NAMES.get(kind, ()), *(point.name for point in _entry_points(kind))})


def resolve(kind: str, name: str) -> str:
    """Return the import path of a component by its short name; import and file paths are returned as they are.

    A component of rfdlight wins over one of another package with the same name, which is imported.
    """
    if "." in name or "/" in name:
        return name
    if name in NAMES.get(kind, ()):
        return NAMES[kind][name]
    for point in _entry_points(kind):
        if point.name == name:
            package = f"the package {point.dist.name}" if point.dist else "a package"
            with guarded(f"{kind} '{name}': cannot import {point.value}, registered by {package}"):
                point.load()
            return _path(point)
    raise unknown_name(kind, name, names(kind))


def component(kind: str, name: str) -> Any:
    """Import and return a component by its short name or import path; raise a UserError if there is none.

    Example:
        >>> component("attack", "rays").__name__
        'RayS'
    """
    path = resolve(kind, name)
    with guarded(f"{kind}: cannot import '{name}'"):
        return resolve_name(path)


def list_attacks() -> list[str]:
    """Return the short names of all attacks, those of other packages included."""
    return names("attack")


def list_defenses() -> list[str]:
    """Return the short names of all defenses, those of other packages included."""
    return names("defense")


def list_data() -> list[str]:
    """Return the short names of all data sets, those of other packages included."""
    return names("data")


def list_criteria() -> list[str]:
    """Return the short names of all success criteria, those of other packages included."""
    return names("criterion")


def list_victims() -> list[str]:
    """Return the names of the shipped victims and of the victims of other packages."""
    return sorted({*shipped_names("checkpoints", ".json"), *names("victim")})


def short_name(kind: str, cls: type) -> str:
    """Return the short name of a class, or its import path if the class has none."""
    path = f"{cls.__module__}.{cls.__qualname__}"
    own = (name for name, listed in NAMES.get(kind, {}).items() if listed == path)
    others = (point.name for point in _entry_points(kind) if _path(point) == path)
    return next(own, None) or next(others, path)


def _entry_points(kind: str) -> metadata.EntryPoints | tuple[()]:
    if kind not in GROUPS:
        return ()
    return _installed(tuple((folder, _modified(folder)) for folder in sys.path))[kind]


@lru_cache(maxsize=1)
def _installed(folders: tuple[tuple[str, int | None], ...]) -> dict[str, metadata.EntryPoints]:
    """Return the entry points of each kind in folders, read again only after one of the folders has changed."""
    installed = metadata.entry_points()
    return {kind: installed.select(group=group) for kind, group in GROUPS.items()}


def _modified(folder: str) -> int | None:
    try:
        return os.stat(folder or ".").st_mtime_ns
    except OSError:
        return None


def _path(point: metadata.EntryPoint) -> str:
    return point.value.partition("[")[0].replace(" ", "").replace(":", ".")
