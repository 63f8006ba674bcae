"""Registry of components: the table from short names to import paths of classes."""

from __future__ import annotations

from rfdlight.errors import unknown_name

NAMES: dict[str, dict[str, str]] = {
    "attack": {
        "bandits": "rfdlight.attacks.bandits.Bandits",
        "boundary": "rfdlight.attacks.boundary.Boundary",
        "fgsm": "rfdlight.attacks.fgsm.FGSM",
        "geoda": "rfdlight.attacks.geoda.GeoDA",
        "hsja": "rfdlight.attacks.hsja.HSJA",
        "nes": "rfdlight.attacks.nes.NES",
        "pgd": "rfdlight.attacks.pgd.PGD",
        "random_noise": "rfdlight.attacks.random_noise.RandomNoise",
        "rays": "rfdlight.attacks.rays.RayS",
        "signflip": "rfdlight.attacks.signflip.SignFlip",
        "signhunt": "rfdlight.attacks.signhunt.SignHunt",
        "signopt": "rfdlight.attacks.signopt.SignOPT",
        "simba": "rfdlight.attacks.simba.SimBA",
        "square": "rfdlight.attacks.square.Square",
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
        "fgsm": "rfdlight.training.fgsm.FGSMAdversary",
        "pgd": "rfdlight.training.pgd.PGDAdversary",
        "trades": "rfdlight.training.trades.TRADESAdversary",
    },
}

FLAGS = {"attack": "attack", "data": "data", "defense": "defense", "adversary": "model.adversary"}
"""The option that chooses one of a kind whose components have options of their own."""


def resolve(kind: str, name: str) -> str:
    """Return the import path that a short name stands for; import and file paths stay.

    Raises:
        UserError: If `name` is neither a known short name nor a path.

    Example:
        >>> resolve("attack", "rays")
        'rfdlight.attacks.rays.RayS'
    """
    if "." in name or "/" in name:
        return name
    if name not in NAMES[kind]:
        raise unknown_name(kind, name, NAMES[kind])
    return NAMES[kind][name]


def short_name(kind: str, chosen: type) -> str:
    """Return the short name of a class, or its import path where it has none."""
    path = f"{chosen.__module__}.{chosen.__qualname__}"
    return next((name for name, listed in NAMES[kind].items() if listed == path), path)
