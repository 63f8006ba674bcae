"""What every attack has to obey; a new attack gets these tests from its name alone."""

import ast
import inspect
import sys
from pathlib import Path
from pkgutil import resolve_name

import pytest
import torch
from harness import CoinFlip, Run, drive, images, labelled, one_by_one, others_slow, required, told
from msgspec.structs import astuple
from torch import nn

import rfdlight
from rfdlight.attacks.decision_based import PhasedAttack
from rfdlight.core.registry import NAMES
from rfdlight.engine import criterion_named
from rfdlight.testing import check_attack

EPS = {"linf": 0.08, "l2": 2.0}
HELPERS = {
    "answer_noise",
    "decision_based",
    "direction_descent",
    "gradient_estimation",
    "paper",
    "refusals",
    "square_l2",
    "surrogate",
}
"""Files of attacks that are not attacks themselves."""
BASE = {
    "rfdlight.attacks.base",
    "rfdlight.attacks.pgd",
    "rfdlight.attacks.bernoulli",
    "rfdlight.attacks.hsja",
    "rfdlight.attacks.square",
}  # each has another form in a file of its own
BASE |= {f"rfdlight.attacks.{helper}" for helper in HELPERS} | {"rfdlight.errors"}

OPTIONS = {
    "boundary": {"spherical_step": 0.05, "source_step": 0.02},
    "evolutionary": {"mu": 0.03},
    "hsja": {"gap": 0.13, "init_probes": 4},
    "nattack": {"population": 5, "sigma": 0.2, "step": 0.2},
    "nes": {"pairs": 3},
    "opt": {"starting_points": 4, "samples": 2},
    "pgd": {"steps": 4},
    "popskipjump": {"gap": 0.05, "init_probes": 4},
    "prgf": {"samples": 4, "norm_samples": 2, "sigma": 0.001},
    "signopt": {"starting_points": 2, "samples": 8},
    "transfer": {"steps": 3},
    "zo_signsgd": {"samples": 5},
}
"""Options by attack that let it take several steps within the budgets of these tests, and soon."""


def attack_class(name):
    return resolve_name(NAMES["attack"][name])


FORMS = [
    (name, norm, targeted)
    for name in sorted(NAMES["attack"])
    for norm in attack_class(name).norms
    for targeted in ([False, True] if attack_class(name).has_targeted_form else [False])
]
ATTACKS = [(name, attack_class(name).norms[0], False) for name in sorted(NAMES["attack"])]
QUICK = [
    [form for form in FORMS if form[0] == name][-(number % 2)] for number, name in enumerate(sorted(NAMES["attack"]))
]
"""One form per attack, in turn its first and its last: the other forms are slow tests."""


def made(name, norm, targeted):
    # An image of another class is far away: what starts there needs room to arrive within these budgets.
    eps = EPS[norm] * (4 if targeted and attack_class(name).needs_starting_point else 1)
    options = OPTIONS.get(name, {}) | required(attack_class(name))
    return attack_class(name)(eps=eps, norm=norm, targeted=targeted, **options)


def each(forms):
    return pytest.mark.parametrize("form", forms, ids=lambda form: f"{form[0]}-{form[1]}{'-targeted' * form[2]}")


@each([form if form in QUICK else pytest.param(form, marks=pytest.mark.slow) for form in FORMS])
def test_an_attack_passes_all_checks(form):
    check_attack(made(*form), budget=12, num_images=3)


@pytest.mark.parametrize("rule", ["sequential", pytest.param("paper", marks=pytest.mark.slow)])
@each(ATTACKS)
def test_an_attack_succeeds_and_reports_success_where_there_is_one(form, rule, network, clean):
    attack = made(*form)
    if rule == "paper" and attack.access == "gradient":
        pytest.skip("the paper has no query counting for gradients")
    attack = attack.configured(eps=2 * attack.eps)  # successes come soon
    # A step of the line search alone takes a dozen queries.
    budget = {"geoda": 100, "nes": 100, "opt": 250, "parsimonious": 100, "signopt": 260}.get(form[0], 60)
    x, y = (each[: 8 if form[0] in ("opt", "signopt") else 4] for each in clean)
    options = {"batch_size": len(x), "pool_size": len(x), "criterion": criterion_named(rule)}
    records = Run(network, attack, x, y, budget=budget, **options).records
    successes = [record for record in records if record.success_query is not None]
    assert rule == "paper" or len(successes) >= 2
    assert all(record.verdict == "adversarial" for record in successes)


@each(ATTACKS)
def test_another_seed_changes_what_random_attacks_query(form, network, clean):
    x, y = clean
    queried = [
        torch.stack([p for _, p, _, _ in drive(made(*form), one_by_one(network), x[:1], y[:1], budget=20, seed=seed)])
        for seed in (torch.tensor([1]), torch.tensor([3]))
    ]
    own = {cls.__module__ for cls in attack_class(form[0]).__mro__ if cls.__module__.startswith("rfdlight.attacks")}
    shared = {"rfdlight.attacks.base", "rfdlight.attacks.decision_based"}
    sources = [inspect.getsource(sys.modules[module]) for module in own - shared]
    draws = any("rng" in source or "random_point" in source for source in sources)
    assert torch.equal(*queried) != draws


@each([form for form in ATTACKS if attack_class(form[0]).access == "decision"])
def test_a_decision_based_attack_is_given_labels_alone(form, network, clean):
    attack, kinds = made(*form), set()
    tell = attack.tell

    def spy(state, points, answer):
        kinds.add((answer.dtype, answer.ndim, *(k for k, v in state.items() if v.shape[1:] == (5,))))
        tell(state, points, answer)

    attack.tell = spy
    Run(network, attack, clean[0][:3], clean[1][:3], budget=10)
    assert kinds == {(torch.int64, 1)}


@each([form for form in ATTACKS if issubclass(attack_class(form[0]), PhasedAttack)])
def test_values_that_an_earlier_query_left_change_nothing(form, network, clean):
    attack, (x, y), answer = made(*form), (each[:4] for each in clean), one_by_one(network)
    before, *_ = next(drive(attack, answer, x, y, budget=80))
    for query, (_, points, *_) in enumerate(drive(attack, answer, x, y, budget=80)):
        asked = attack.ask(before)  # with all that was there before
        assert torch.equal(asked, points), f"query {query}"
        attack.tell(before, asked, told(attack, answer, before, asked)[1])


@pytest.mark.parametrize(
    ("name", "rule", "query_counting"),
    others_slow(
        [
            ("square", "sequential", "exact"),
            ("square", "single", "paper"),
            ("square", "never", "paper"),
            ("geoda", "sequential", "paper"),
            ("signopt", "single", "exact"),
        ],
        3,
        4,
    ),
)
def test_a_victim_that_predicts_at_random_is_finished_under_every_criterion(name, rule, query_counting):
    x, y = images(8, (3, 4, 4)), torch.zeros(8, dtype=torch.int64)
    criterion = criterion_named(rule, 40)
    options = {"budget": 25, "deterministic": False, "pool_size": 8, "batch_size": 64, "criterion": criterion}
    run = Run(CoinFlip(), made(name, "linf", False), x, y, query_counting=query_counting, **options)
    assert len(run.records) == 8
    for record in run.records:
        assert torch.tensor([value for value in astuple(record) if isinstance(value, float)]).isfinite().all()
        assert record.billed <= 25
        assert record.final_evaluations == 40
    assert sum(run.total.values()) == run.oracle.forwarded


class LabelNoise(nn.Module):
    """Right everywhere, but one answer in five is another class."""

    def forward(self, x):
        other = torch.randint(1, 3, (len(x),)) * (torch.rand(len(x)) < 0.2)
        return 3 * nn.functional.one_hot(other, 3).float() + 0 * x.flatten(1).sum(1, keepdim=True)


@pytest.mark.parametrize(
    ("name", "victim"),
    others_slow([("square", LabelNoise), ("rays", CoinFlip), ("square", CoinFlip), ("rays", LabelNoise)], 0),
)
def test_no_attack_is_credited_with_images_that_a_thousand_evaluations_call_robust(name, victim):
    # An image is wrongly called adversarial with probability at most 0.05, at one in five wrong answers about never
    # (decision 13's simulation): 7 of 40 or more would come in 1 of 300 runs at the stated level.
    x, y = images(40, (3, 4, 4)), torch.zeros(40, dtype=torch.int64)
    criterion = criterion_named("sequential", 1000)
    options = {"budget": 60, "batch_size": 1000, "pool_size": 40, "criterion": criterion, "deterministic": False}
    run = Run(victim(), made(name, "linf", False), x, y, **options)
    assert len(run.records) == 40
    credited = [r for r in run.records if r.success_query is not None and r.verdict == "robust"]
    assert len(credited) <= (2 if victim is LabelNoise else 6)
    assert victim is CoinFlip or all(r.billed > 0 and r.verdict == "robust" for r in run.records)


def test_a_targeted_attack_starts_from_an_image_of_its_target(network, clean):
    starts, classes = labelled(network, (3, 16, 16))
    target = (clean[1][:2] + 1) % 5
    chosen = starts[(classes == target[:, None]).long().argmax(1)]
    for name in ("hsja", "boundary", "signflip"):
        attack = made(name, attack_class(name).norms[0], True)
        aims = {"target": target, "starting_points": chosen}
        _, points, _, _ = next(drive(attack, one_by_one(network), clean[0][:2], clean[1][:2], budget=1, **aims))
        torch.testing.assert_close(points, chosen)


def test_attack_files_import_torch_the_standard_library_and_the_core_alone():
    for name in NAMES["attack"]:
        tree = ast.parse(Path(inspect.getfile(attack_class(name))).read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0
                packages = ("rfdlight", "rfdlight.attacks", "rfdlight.core")
                parent = node.module or ""
                modules = [f"{parent}.{a.name}" for a in node.names] if parent in packages else [parent]
            else:
                continue
            for module in modules:
                known = module in BASE or module.startswith("rfdlight.core.")
                top = module.partition(".")[0]
                assert known or top == "torch" or top in sys.stdlib_module_names, f"{name} imports {module}"


def test_every_attack_file_has_a_short_name():
    folder = Path(rfdlight.__file__).parent / "attacks"
    assert {path.stem for path in folder.glob("*.py")} - {"__init__", "base", *HELPERS} == set(NAMES["attack"])
