import os
import sys

import pytest
import yaml

from rfdlight.cli.command_line import expand
from rfdlight.cli.values import with_names
from rfdlight.core.registry import NAMES, component, names, resolve, short_name
from rfdlight.errors import UserError

RAYS = NAMES["attack"]["rays"]
SQUARE = NAMES["attack"]["square"]
DIGITS = NAMES["data"]["digits"]
FEATURE = NAMES["defense"]["feature_noise"]
INPUT = NAMES["defense"]["input_noise"]


def test_a_short_name_leads_to_a_class_that_leads_back():
    for kind, listed in NAMES.items():
        for name in listed:
            assert short_name(kind, component(kind, name)) == name


def test_short_names_are_unique_across_kinds_but_for_adversaries_that_are_attacks():
    names = [name for kind, listed in NAMES.items() for name in listed if kind != "adversary"]
    assert len(names) == len(set(names))
    assert not set(NAMES["adversary"]) & (set(NAMES["data"]) | set(NAMES["defense"]))


def test_a_class_without_a_short_name_is_called_by_its_path():
    assert short_name("attack", UserError) == "rfdlight.errors.UserError"


@pytest.mark.parametrize("value", ["my_attack.MyAttack", "configs/attack/rays.yaml", "rays.yaml", RAYS])
def test_paths_stay(value):
    assert resolve("attack", value) == value


def arguments(given):
    return expand(["report", *given])[0][1:]


@pytest.mark.parametrize(
    ("given", "expanded"),
    [
        (["--attack", "rays"], ["--attack", RAYS]),
        (["--attack=rays"], [f"--attack={RAYS}"]),
        (["--defense+=feature_noise"], [f"--defense+={FEATURE}"]),
        (["--defense+", "feature_noise"], ["--defense+", FEATURE]),
        (["--attack.class_path", "rays"], ["--attack.class_path", RAYS]),
        (["--attack.class_path=rays"], [f"--attack.class_path={RAYS}"]),
        (["--attack.help", "rays"], ["--attack.help", RAYS]),
        (["--attack.help=rays"], [f"--attack.help={RAYS}"]),
        (["--attack.help"], ["--attack.help"]),
        (["--attack.help", "--data", "digits"], ["--attack.help", "--data", DIGITS]),
        (["--defense", "null"], ["--defense", "null"]),
        (["--attack", "rays", "--data", "digits"], ["--attack", RAYS, "--data", DIGITS]),
        (["--attack.name", "rays"], ["--attack.name", "rays"]),
        (["--run", "rays", "--model.victim", "digits"], ["--run", "rays", "--model.victim", "digits"]),
        (["--attacks", "rays"], ["--attacks", "rays"]),
        (["--attack"], ["--attack"]),
        (["--run", "", "word", "--", "other"], ["--run", "", "word", "--", "other"]),
        ([], []),
        # an adversary is chosen by an option of the model
        (
            ["--model.adversary.eps", "0.1", "--model.adversary", "fgsm"],
            ["--model.adversary", NAMES["adversary"]["fgsm"], "--model.adversary.eps", "0.1"],
        ),
        (["--adversary", "fgsm"], ["--adversary", "fgsm"]),
        # a selector comes before its own options
        (["x", "--attack.eps", "1", "--attack", "rays"], ["x", "--attack", RAYS, "--attack.eps", "1"]),
        (["--attack.eps=1", "--x", "2", "--attack=rays"], [f"--attack={RAYS}", "--attack.eps=1", "--x", "2"]),
        (["--attack.eps", "-1", "--attack=rays"], [f"--attack={RAYS}", "--attack.eps", "-1"]),
        (["--attack.eps=1", "--attack.class_path", "rays"], ["--attack.class_path", RAYS, "--attack.eps=1"]),
        (["--attack", "rays", "--attack.eps", "1"], ["--attack", RAYS, "--attack.eps", "1"]),
        (
            ["--data.seed=1", "--attack.eps=1", "--attack=rays", "--data=digits"],
            [f"--data={DIGITS}", "--data.seed=1", f"--attack={RAYS}", "--attack.eps=1"],
        ),
        # appended components keep their order among their options
        (
            ["--defense+=input_noise", "--defense.scale=1", "--defense+=feature_noise", "--defense.scale=2"],
            [f"--defense+={INPUT}", "--defense.scale=1", f"--defense+={FEATURE}", "--defense.scale=2"],
        ),
    ],
)
def test_every_form_of_a_selector(given, expanded):
    before = list(given)
    assert _apart(arguments(given)) == _apart(expanded)
    assert given == before
    assert _apart(arguments(expanded)) == _apart(expanded)


def _apart(args):
    """Options and values apart, as the parser reads them in both forms."""
    return [part for arg in args for part in (arg.split("=", 1) if arg.startswith("--") else [arg])]


@pytest.mark.parametrize("form", [["--defense", "{}"], ["--defense={}"]])
def test_yaml_on_the_command_line_is_written_out(form):
    text = "[feature_noise, {class_path: input_noise, init_args: {sigma: 1e-3, layers: [layer1]}}]"
    args = arguments([part.replace("{}", text) for part in form])
    value = args[-1].removeprefix("--defense=")
    assert yaml.safe_load(value) == [
        FEATURE,
        {"class_path": INPUT, "init_args": {"sigma": 0.001, "layers": ["layer1"]}},
    ]
    assert "\n" not in value


@pytest.mark.parametrize(
    "args",
    [["--attack", "squar"], ["--attack=squar"], ["--attack.class_path", "squar"], ["--attack.help=squar"]],
)
def test_an_unknown_name_on_the_command_line_names_the_nearest(args):
    with pytest.raises(UserError, match=r"^unknown attack 'squar'; did you mean square or adaptive_square\?$"):
        arguments(args)


@pytest.mark.parametrize("value", ["RayS", {"class_path": "RayS"}, ["square", "RayS"], "digits"])
def test_an_unknown_name_in_a_value_is_refused(value):
    with pytest.raises(UserError, match=r"^unknown attack '(RayS'; did you mean rays|digits'; )"):
        with_names(value, "attack")


@pytest.mark.parametrize(
    ("kind", "value", "expanded"),
    [
        ("attack", None, None),
        ("attack", 3, 3),
        ("defense", [], []),
        ("defense", ["feature_noise", "input_noise"], [FEATURE, INPUT]),
        (
            "attack",
            {"class_path": "square", "init_args": {"eps": 0.1, "name": "rays"}},
            {"class_path": SQUARE, "init_args": {"eps": 0.1, "name": "rays"}},
        ),
        ("defense", {"class_path": "input_noise", "calibration": {"drop": 0.02}}, {"class_path": INPUT}),
        ("adversary", {"class_path": "pgd"}, {"class_path": NAMES["adversary"]["pgd"]}),
    ],
)
def test_short_names_in_values(kind, value, expanded):
    assert with_names(value, kind) == expanded
    assert with_names(expanded, kind) == expanded


# Components of other packages


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Entry points of a package `theirs` with one module that can be imported and one that cannot."""
    (tmp_path / "theirs_good.py").write_text("class Theirs:\n    pass\n")
    (tmp_path / "theirs_bad.py").write_text("raise RuntimeError('needs\\na licence')\n")
    monkeypatch.syspath_prepend(tmp_path)
    os.utime(tmp_path, (0, 0))
    assert "mine" not in names("attack")  # a package that is installed later is found
    (tmp_path / "theirs-1.0.dist-info").mkdir()
    (tmp_path / "theirs-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (tmp_path / "theirs-1.0.dist-info/entry_points.txt").write_text(
        "[rfdlight.attacks]\nmine = theirs_good:Theirs\nrays = theirs_good:Theirs\nbroken = theirs_bad:Broken\n"
        "[rfdlight.victims]\nnet = theirs_good:Theirs\n[rfdlight.criteria]\nstrict = theirs_good:Theirs\n"
    )
    yield
    for name in ("theirs_good", "theirs_bad"):
        sys.modules.pop(name, None)


def test_names_of_other_packages_are_listed_without_an_import(installed):
    assert names("attack") == sorted([*NAMES["attack"], "mine", "broken"])
    assert names("criterion") == sorted([*NAMES["criterion"], "strict"])
    assert (names("victim"), names("adversary")) == (["net"], ["fgsm", "pgd", "trades"])
    assert not {"theirs_good", "theirs_bad"} & sys.modules.keys()


def test_a_name_of_another_package_leads_to_its_class_and_back(installed):
    assert resolve("attack", "mine") == "theirs_good.Theirs"
    assert resolve("victim", "net") == "theirs_good.Theirs"
    assert short_name("attack", sys.modules["theirs_good"].Theirs) == "mine"
    assert resolve("attack", "rays") == RAYS, "a name of ours wins"


def test_an_entry_point_that_cannot_be_imported_is_one_line_that_names_its_package(installed):
    with pytest.raises(UserError) as caught:
        resolve("attack", "broken")
    assert "attack 'broken': cannot import theirs_bad:Broken, registered by the package theirs" in str(caught.value)
    assert "RuntimeError: needs a licence" in str(caught.value)


def test_an_unknown_name_may_be_near_to_one_of_another_package(installed):
    with pytest.raises(UserError, match=r"did you mean mine\?$"):
        resolve("attack", "mime")
