"""What every attack has to obey, whatever it does; a new attack gets these tests from its name alone."""

import ast
import inspect
import sys
from pathlib import Path
from pkgutil import resolve_name

import pytest
import torch
from harness import ENGINE_COLUMNS, CoinFlip, Constant, Linear, Mapped, Run, drive, images, labelled, one_by_one
from torch import nn

import rfdlight
from rfdlight.attacks import SignOPT
from rfdlight.core.registry import NAMES
from rfdlight.engine import SuccessCriterion

EPS = {"linf": 0.08, "l2": 2.0}
MARGINS = ("clean_margin", "final_margin")
HELPERS = {"ascent", "opening", "options", "square_l2", "voting"}
"""Files of attacks that are not attacks themselves."""
BASE = {"rfdlight.attacks.base", *(f"rfdlight.attacks.{helper}" for helper in HELPERS)}
BASE |= {"rfdlight.attacks.pgd"}  # of which FGSM is the one-step form
BASE |= {f"rfdlight.{module}" for module in ("clock", "errors", "losses", "norms", "rng", "tensors", "threat")}


def attack_class(name):
    return resolve_name(NAMES["attack"][name])


OPTIONS = {
    "boundary": {"spherical_step": 0.05, "source_step": 0.02},
    "hsja": {"gap": 0.13, "init_probes": 4},
    "nes": {"pairs": 3},
    "pgd": {"steps": 4},
    "signopt": {"starting_points": 2, "samples": 8},
    "zo_signsgd": {"samples": 5},
}
"""Options by attack that let it take several steps within the budgets of these tests."""

CASES = [
    (name, norm, targeted)
    for name in sorted(NAMES["attack"])
    for norm in attack_class(name).norms
    for targeted in ([False, True] if attack_class(name).has_targeted_form else [False])
]


TARGETED, IN_L2 = {"square", "signflip"}, {"square", "hsja"}
"""Whose targeted forms, and whose l2 forms beside their linf ones, are tested by default: one that reads scores and one
that reads labels. The others' are slow tests."""


def is_slow(name, norm, targeted):
    second = norm != attack_class(name).norms[0]
    return (targeted and name not in TARGETED) or (second and name not in IN_L2)


@pytest.fixture(
    params=[
        pytest.param(
            (name, norm, targeted),
            id=f"{name}-{norm}{'-targeted' * targeted}",
            marks=[pytest.mark.slow] * is_slow(name, norm, targeted),
        )
        for name, norm, targeted in CASES
    ]
)
def make(request):
    """Build the attack anew: no test may depend on what another left in it."""
    name, norm, targeted = request.param
    made = attack_class(name)
    # An image of another class is far away: what starts there needs room to arrive within these budgets.
    eps = EPS[norm] * (4 if targeted and made.needs_starting_point else 1)
    return lambda: made(eps=eps, norm=norm, targeted=targeted, **OPTIONS.get(name, {}))


def aims(attack, victim, y):
    """The target and start of each row, for attacks that want them."""
    if not attack.targeted:
        return {}
    target = (y + 1) % 5
    if not attack.needs_starting_point:
        return {"target": target}
    starting_points, classes = labelled(victim, (3, 16, 16))
    return {"target": target, "starting_points": starting_points[(classes == target[:, None]).long().argmax(1)]}


@pytest.fixture
def label_attack(make):
    if make().access != "decision":
        pytest.skip("reads scores")
    return make


def linear(x):
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(1, *x.shape[1:], generator=generator)
    return Linear(weight, float(0.3 - (x * weight).flatten(1).sum(1).min()))


def watched(attack, seen):
    """Check the promises of the base class at every call of the engine."""
    ask, tell, init = attack.ask, attack.tell, attack.init
    kept = {}

    def checked_init(x, y, seed):
        given = x.clone(), y.clone(), seed.clone()
        columns = init(x, y, seed)
        assert torch.equal(x, given[0])
        assert torch.equal(y, given[1])
        assert torch.equal(seed, given[2])
        assert not columns.keys() & set(ENGINE_COLUMNS)
        form = {name: (column.dtype, column.shape[1:]) for name, column in columns.items()}
        assert kept.setdefault("form", form) == form
        assert all(len(column) == len(x) for column in columns.values())
        return columns

    def checked_ask(state):
        kept["own"] = {name: state[name].clone() for name in ENGINE_COLUMNS}
        assert {name: (state[name].dtype, state[name].shape[1:]) for name in kept["form"]} == kept["form"]
        points = ask(state)
        assert points.shape == state["x"].shape
        assert points.dtype == state["x"].dtype
        assert points.min() >= 0
        assert points.max() <= 1
        kept["points"] = points.clone()
        return points

    def checked_tell(state, points, answer):
        shapes = {"labels": state["y"].shape, "scores": (len(points), answer.shape[-1]), "gradients": points.shape}
        assert answer.shape == shapes[attack.access]
        tell(state, points, answer)
        assert torch.equal(points, kept["points"])
        for name, before in kept["own"].items():
            assert torch.equal(state[name], before), f"the attack changed the engine's column {name}"
        assert {name: (state[name].dtype, state[name].shape[1:]) for name in kept["form"]} == kept["form"]
        seen.append(len(points))

    attack.init, attack.ask, attack.tell = checked_init, checked_ask, checked_tell
    return attack


@pytest.mark.parametrize("victim", ["network", "linear", "constant", "coin flip"])
def test_columns_inputs_points_and_counts_keep_their_promises(make, victim, network, clean):
    x, y = clean
    y = y if victim == "network" else torch.zeros_like(y)
    chosen = {"network": network, "linear": linear(x), "constant": Constant(), "coin flip": CoinFlip()}[victim]
    asked = []
    rule = SuccessCriterion("never" if victim == "coin flip" else "sequential")
    run = Run(chosen, watched(make(), asked), x, y, budget=40, deterministic=victim != "coin flip", criterion=rule)
    assert asked
    assert sum(asked) == run.total["attack"] + run.total["gradient"] + run.total["success_check"]
    assert run.total["attack"] == int(run.column("attack").sum())
    assert run.total["success_check"] == int(run.column("success_check").sum())
    assert run.total["criterion"] == int(run.column("criterion").sum())
    assert sum(run.total.values()) == sum(shape[0] for shape in run.shapes) == run.oracle.forwarded
    assert set(run.shapes) == {(4, 3, 16, 16)}
    run.engine.ledger.check(run.oracle.forwarded)


@pytest.mark.parametrize("budget", [0, 1, 2, 3, 7, 10, 100])
def test_an_unbreakable_victim_is_asked_exactly_the_budget(make, budget):
    x, y = images(5, (3, 4, 4)), torch.zeros(5, dtype=torch.int64)
    run = Run(Constant(), make(), x, y, budget=budget)
    for record in run.records:
        assert record.attack + record.gradient + record.success_check == record.billed == budget
        assert record.success_query is None
        assert record.verdict == "robust"
    assert sum(run.total.values()) == run.oracle.forwarded


@pytest.mark.parametrize("budget", [0, 1, 2, 3, 7, 10, 100])
@pytest.mark.parametrize("victim", ["linear", "coin flip"])
def test_no_budget_is_exceeded(make, budget, victim):
    x, y = images(6, (3, 4, 4)), torch.zeros(6, dtype=torch.int64)
    torch.manual_seed(budget)
    chosen = linear(x) if victim == "linear" else CoinFlip()
    criterion = SuccessCriterion(clean_evaluations=3, final_evaluations=5)
    run = Run(chosen, make(), x, y, budget=budget, criterion=criterion, deterministic=victim == "linear", pool_size=6)
    assert len(run.records) == 6
    for record in run.records:
        assert record.attack + record.gradient + record.success_check == record.billed <= budget
        assert record.success_query is None or 1 <= record.success_query <= record.billed
        assert record.first_9_vote_success is None or record.first_9_vote_success <= record.billed
        # Only an image that is broken, or was wrong, may leave budget unspent.
        wrong = record.attack == 0
        assert record.billed == budget or record.success_query is not None or wrong
    assert sum(run.total.values()) == run.oracle.forwarded


def test_declared_points_are_in_the_ball_and_judged_again_as_broken(make, network, clean):
    attack = make()
    patient = isinstance(attack, SignOPT)  # a step of its line search alone takes a dozen queries
    run = Run(network, attack, *clean, budget=500 if patient else 100)
    adversarial = [record for record in run.records if record.success_query is not None]
    assert len(adversarial) >= (0 if attack.targeted and attack.needs_starting_point else 1 if attack.targeted else 3)
    for record in run.records:
        assert record.linf <= attack.eps + 1e-6 if attack.norm == "linf" else record.l2 <= attack.eps * (1 + 1e-4)
        assert (record.verdict == "adversarial") == (record.final_adversarial == 1)
        assert record.success_query is None or record.verdict == "adversarial"


def test_what_the_papers_criterion_calls_broken_is_broken_on_a_deterministic_victim(make, network, clean):
    run = Run(network, make(), clean[0][:6], clean[1][:6], budget=100, criterion=SuccessCriterion("paper"))
    assert all(r.verdict == "adversarial" for r in run.records if r.success_query is not None)


def test_records_do_not_depend_on_pool_order_or_chunks(make, network, clean):
    x, y = clean
    y = y.clone()
    y[3] = (y[3] + 1) % 5
    arrangements = [
        {"pool_size": 4},
        {"pool_size": 7, "order": [9, 3, 0, 7, 1, 8, 2, 6, 5, 4]},
        {"pool_size": 8, "chunk": 3, "order": list(range(9, -1, -1)), "lockstep": True},
    ]
    records = [Run(network, make(), x, y, budget=60, **arrangement).records for arrangement in arrangements]
    assert len({record.final_margin for record in records[0]}) >= 8, "the victim is too simple to tell runs apart"
    for other in records[1:]:
        assert other == records[0]


def test_removing_images_changes_no_other(make, network, clean):
    x, y = clean
    whole = Run(network, make(), x, y, budget=30).records
    part = Run(network, make(), x, y, budget=30, order=[8, 2, 5]).records
    assert part == [whole[i] for i in (2, 5, 8)]


def test_another_seed_changes_what_random_attacks_ask(make, network, clean):
    x, y = clean
    answer, aimed = one_by_one(network), aims(make(), network, y[:2])
    first, again, other = (
        torch.stack([p for _, p, _, _ in drive(make(), answer, x[:2], y[:2], budget=60, seed=seed, **aimed)])
        for seed in (torch.tensor([1, 2]), torch.tensor([1, 2]), torch.tensor([3, 4]))
    )
    assert torch.equal(first, again)
    ancestors = {cls.__module__ for cls in type(make()).__mro__ if cls.__module__.startswith("rfdlight.attacks")}
    draws = any("rng" in inspect.getsource(sys.modules[module]) for module in ancestors - {"rfdlight.attacks.base"})
    assert torch.equal(first, other) != draws


def test_label_attacks_cannot_see_scores(label_attack, network, clean):
    plain = Run(network, label_attack(), *clean, budget=60).records
    # Powers of two and labels alone keep ties apart to the last bit, where attacks bisect to.
    for change in (
        lambda z: 1024 * z,
        lambda z: z / 8,
        lambda z: nn.functional.one_hot(z.argmax(1), z.shape[1]).float(),
    ):
        mapped = Run(Mapped(network, change), label_attack(), *clean, budget=60).records
        for before, after in zip(plain, mapped, strict=True):
            # The criterion looks twice at clean images near the boundary, which it sees in the scores.
            hidden = {*MARGINS, "criterion"}
            assert {k: v for k, v in before.items() if k not in hidden} == {
                k: v for k, v in after.items() if k not in hidden
            }


def test_label_attacks_are_given_labels_alone(label_attack, network, clean):
    attack = label_attack()
    tell, kinds = attack.tell, set()

    def spy(state, points, answer):
        kinds.add((answer.dtype, answer.ndim, *(k for k, v in state.items() if v.shape[1:] == (5,))))
        tell(state, points, answer)

    attack.tell = spy
    Run(network, attack, *clean, budget=10)
    assert kinds == {(torch.int64, 1)}


def test_a_state_goes_on_from_a_file_at_every_query(make, network, clean):
    x, y = clean[0][:3], clean[1][:3]
    answer = one_by_one(network)
    aimed = aims(make(), network, y)
    plain = drive(make(), answer, x, y, budget=50, **aimed)
    saved = drive(make(), answer, x, y, budget=50, saved=True, **aimed)
    for (_, points, _, state), (_, same, _, loaded) in zip(plain, saved, strict=True):
        assert torch.equal(points, same)
        assert state.keys() == loaded.keys()
        assert all(torch.equal(state[name], loaded[name]) for name in state)


def test_rows_do_not_see_each_other(make, network, clean):
    x, y = clean[0][:3], clean[1][:3]
    answer = one_by_one(network)
    seed = torch.tensor([11, 12, 13])
    aimed = aims(make(), network, y)
    together = drive(make(), answer, x, y, budget=40, seed=seed, **aimed)
    alone = [
        drive(
            make(),
            answer,
            x[i, None],
            y[i, None],
            budget=40,
            seed=seed[i, None],
            **{name: value[i, None] for name, value in aimed.items()},
        )
        for i in range(3)
    ]
    for (_, points, _, _), *each in zip(together, *alone, strict=True):
        for i in range(3):
            assert torch.equal(points[i], each[i][1][0])


def test_two_equal_evaluations_per_query_give_the_plain_trajectory_at_twice_the_bill(make, network, clean):
    x, y = clean[0][:5], clean[1][:5]
    plain = Run(network, make(), x, y, budget=60).records
    twice = Run(network, make(), x, y, budget=120, eot=2).records
    for before, after in zip(plain, twice, strict=True):
        for name in ("attack", "gradient", "success_check", "billed", "success_query"):
            assert after[name] == (before[name] and 2 * before[name])
        for name in ("candidates", "verdict", "final_margin", "linf", "l2"):
            assert after[name] == before[name]


def test_initially_wrong_images_are_never_asked(make, network, clean):
    x, y = clean
    run = Run(network, make(), x, (y + 1) % 5, budget=50)
    for record in run.records:
        assert (record.queries, record.billed, record.candidates) == (0, 0, 0)
        assert record.clean_wrong == 1
        assert record.verdict == "misclassified"
        assert record.success_query is None
        assert record.linf == 0
    assert run.total["attack"] == 0


@pytest.mark.parametrize("rule", ["sequential", "single", "never", "paper"])
@pytest.mark.parametrize("query_counting", ["exact", "paper"])
def test_a_coin_flipping_victim_is_finished_with_finite_numbers(make, rule, query_counting):
    x, y = images(8, (3, 4, 4)), torch.zeros(8, dtype=torch.int64)
    criterion = SuccessCriterion(rule, final_evaluations=10, clean_evaluations=5)
    run = Run(
        CoinFlip(),
        make(),
        x,
        y,
        budget=25,
        deterministic=False,
        pool_size=8,
        criterion=criterion,
        query_counting=query_counting,
    )
    assert len(run.records) == 8
    for record in run.records:
        numbers = [value for value in record.values() if isinstance(value, float)]
        assert torch.tensor(numbers).isfinite().all()
        assert record.billed <= 25
        assert query_counting == "paper" or record.attack + record.gradient + record.success_check <= 25
        assert record.final_evaluations == 10
    assert sum(run.total.values()) == run.oracle.forwarded


class LabelNoise(nn.Module):
    """Right everywhere, but one answer in five is another class."""

    def forward(self, x):
        other = torch.randint(1, 3, (len(x),)) * (torch.rand(len(x)) < 0.2)
        return 3 * nn.functional.one_hot(other, 3).float() + 0 * x.flatten(1).sum(1, keepdim=True)


@pytest.mark.parametrize("victim", [LabelNoise, CoinFlip])
def test_no_attack_is_credited_with_images_that_a_thousand_draws_call_robust(make, victim):
    # An image is wrongly called adversarial with probability at most 0.05, at one in five wrong answers about never
    # (decision 13's simulation): 7 of 40 or more would come in 1 of 300 runs at the stated level.
    x, y = images(40, (3, 4, 4)), torch.zeros(40, dtype=torch.int64)
    criterion = SuccessCriterion(clean_evaluations=20, final_evaluations=1000)
    run = Run(victim(), make(), x, y, budget=60, batch_size=200, pool_size=40, criterion=criterion, deterministic=False)
    assert len(run.records) == 40
    credited = [r for r in run.records if r.success_query is not None and r.verdict == "robust"]
    assert len(credited) <= (2 if victim is LabelNoise else 6)
    assert victim is CoinFlip or all(r.billed > 0 and r.verdict == "robust" for r in run.records)


@pytest.mark.parametrize("name", sorted(NAMES["attack"]))
def test_an_attack_file_imports_torch_the_standard_library_and_base_modules_alone(name):
    tree = ast.parse(Path(inspect.getfile(attack_class(name))).read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            parent = node.module or ""
            packages = ("rfdlight", "rfdlight.attacks")
            modules = [f"{parent}.{a.name}" for a in node.names] if parent in packages else [parent]
        else:
            continue
        for module in modules:
            top = module.partition(".")[0]
            assert module in BASE or top == "torch" or top in sys.stdlib_module_names, f"{name} imports {module}"


def test_every_attack_file_has_a_short_name():
    folder = Path(rfdlight.__file__).parent / "attacks"
    assert {path.stem for path in folder.glob("*.py")} - {"__init__", "base", *HELPERS} == set(NAMES["attack"])
