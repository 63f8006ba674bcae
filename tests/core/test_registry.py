import importlib

import pytest
import yaml

from rfdlight.cli.short_names import expand_args, expand_config
from rfdlight.core.registry import NAMES, resolve, short_name
from rfdlight.errors import UserError

RAYS = NAMES["attack"]["rays"]
SQUARE = NAMES["attack"]["square"]
DIGITS = NAMES["data"]["digits"]
FEATURE = NAMES["defense"]["feature_noise"]
INPUT = NAMES["defense"]["input_noise"]


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, listed in NAMES.items() for name in listed])
def test_a_short_name_is_its_file_and_leads_to_a_class_that_leads_back(kind, name):
    path = resolve(kind, name)
    module, _, attribute = path.rpartition(".")
    chosen = getattr(importlib.import_module(module), attribute)
    assert isinstance(chosen, type)
    assert module.rsplit(".", 1)[1] == name
    assert short_name(kind, chosen) == name


def test_short_names_are_unique_across_kinds_but_for_adversaries_that_are_attacks():
    names = [name for kind, listed in NAMES.items() for name in listed if kind != "adversary"]
    assert len(names) == len(set(names))
    assert not set(NAMES["adversary"]) & (set(NAMES["data"]) | set(NAMES["defense"]))


def test_a_lone_name_of_both_kinds_is_the_attack():
    assert expand_config({"class_path": "pgd"}) == {"class_path": NAMES["attack"]["pgd"]}
    assert expand_config({"adversary": {"class_path": "pgd"}}) == {
        "adversary": {"class_path": NAMES["adversary"]["pgd"]}
    }


def test_an_adversary_is_chosen_by_an_option_of_the_model():
    chosen = NAMES["adversary"]["fgsm"]
    assert expand_args(["--model.adversary.eps", "0.1", "--model.adversary", "fgsm"]) == [
        "--model.adversary",
        chosen,
        "--model.adversary.eps",
        "0.1",
    ]
    assert expand_args(["--adversary", "fgsm"]) == ["--adversary", "fgsm"]


def test_a_class_without_a_short_name_is_called_by_its_path():
    assert short_name("attack", UserError) == "rfdlight.errors.UserError"


@pytest.mark.parametrize("value", ["my_attack.MyAttack", "configs/attack/rays.yaml", "rays.yaml", RAYS])
def test_paths_stay(value):
    assert resolve("attack", value) == value
    assert expand_args(["--attack", value]) == ["--attack", value]
    assert expand_config({"attack": value}) == {"attack": value}


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
        (["--attack.help", "-c", "x"], ["--attack.help", "-c", "x"]),
        (["--defense", "null"], ["--defense", "null"]),
        (["--attack", "rays", "--data", "digits"], ["--attack", RAYS, "--data", DIGITS]),
        (["--attack.name", "rays"], ["--attack.name", "rays"]),
        (["--run", "rays", "--model.victim", "digits"], ["--run", "rays", "--model.victim", "digits"]),
        (["--attacks", "rays"], ["--attacks", "rays"]),
        (["--attack"], ["--attack"]),
        ([], []),
    ],
)
def test_every_form_of_a_selector(given, expanded):
    before = list(given)
    assert expand_args(given) == expanded
    assert given == before


@pytest.mark.parametrize(
    ("given", "expanded"),
    [
        (["test", "--attack.eps", "1", "--attack", "rays"], ["test", "--attack", RAYS, "--attack.eps", "1"]),
        (["--attack.eps=1", "--x", "2", "--attack=rays"], [f"--attack={RAYS}", "--attack.eps=1", "--x", "2"]),
        (["--attack.eps=1", "--attack.class_path", "rays"], ["--attack.class_path", RAYS, "--attack.eps=1"]),
        (["--attack", "rays", "--attack.eps", "1"], ["--attack", RAYS, "--attack.eps", "1"]),
        (
            ["--data.seed=1", "--attack.eps=1", "--attack=rays", "--data=digits"],
            [f"--data={DIGITS}", "--data.seed=1", f"--attack={RAYS}", "--attack.eps=1"],
        ),
    ],
)
def test_a_selector_comes_before_its_own_options(given, expanded):
    assert expand_args(given) == expanded


def test_appended_components_keep_their_order_among_their_options():
    args = ["--defense+=input_noise", "--defense.scale=1", "--defense+=feature_noise", "--defense.scale=2"]
    expected = [f"--defense+={INPUT}", "--defense.scale=1", f"--defense+={FEATURE}", "--defense.scale=2"]
    assert expand_args(args) == expected


@pytest.mark.parametrize("form", [["--defense", "{}"], ["--defense={}"]])
def test_yaml_on_the_command_line_is_expanded_at_any_depth(form):
    text = "[feature_noise, {class_path: input_noise, init_args: {sigma: 1e-3, layers: [layer1]}}]"
    args = expand_args([part.replace("{}", text) for part in form])
    value = args[-1].removeprefix("--defense=")
    assert yaml.safe_load(value) == [
        FEATURE,
        {"class_path": INPUT, "init_args": {"sigma": 0.001, "layers": ["layer1"]}},
    ]
    assert "\n" not in value


def test_text_that_is_no_yaml_is_left_to_the_parser():
    assert expand_args(["--defense", "[feature_noise"]) == ["--defense", "[feature_noise"]


@pytest.mark.parametrize(
    "args",
    [["--attack", "squar"], ["--attack=squar"], ["--attack.class_path", "squar"], ["--attack.help=squar"]],
)
def test_an_unknown_name_on_the_command_line_names_the_nearest(args):
    with pytest.raises(UserError, match=r"^unknown attack 'squar'; did you mean square\?$"):
        expand_args(args)


@pytest.mark.parametrize(
    "config",
    [{"attack": "RayS"}, {"test": {"attack": {"class_path": "RayS"}}}, {"attack": ["square", "RayS"]}],
)
def test_an_unknown_name_in_yaml_names_the_nearest(config):
    with pytest.raises(UserError, match=r"^unknown attack 'RayS'; did you mean rays.*\?$"):
        expand_config(config)


def test_a_name_of_another_kind_is_unknown():
    with pytest.raises(UserError, match=r"^unknown attack 'digits'; "):
        expand_config({"attack": "digits"})


@pytest.mark.parametrize(
    ("config", "expanded"),
    [
        ({"attack": "rays"}, {"attack": RAYS}),
        ({"attack": None, "defense": []}, {"attack": None, "defense": []}),
        ({"defense": ["feature_noise", "input_noise"]}, {"defense": [FEATURE, INPUT]}),
        (
            {"test": {"attack": {"class_path": "square", "init_args": {"eps": 0.1, "name": "rays"}}}},
            {"test": {"attack": {"class_path": SQUARE, "init_args": {"eps": 0.1, "name": "rays"}}}},
        ),
        (
            {"defense": ["feature_noise", {"class_path": "input_noise", "init_args": {"layers": ["layer1"]}}]},
            {"defense": [FEATURE, {"class_path": INPUT, "init_args": {"layers": ["layer1"]}}]},
        ),
        # a file that describes one component, as `--attack configs/attack/rays.yaml` and nested files do
        ({"class_path": "rays", "init_args": {"eps": 1}}, {"class_path": RAYS, "init_args": {"eps": 1}}),
        # classes of the parser's own naming are not ours to know
        (
            {"model": {"optimizer": {"class_path": "Adam"}}},
            {"model": {"optimizer": {"class_path": "Adam"}}},
        ),
        (3, 3),
        ("rays", "rays"),
        (["rays"], ["rays"]),
    ],
)
def test_short_names_in_yaml(config, expanded):
    assert expand_config(config) == expanded


def test_expanding_twice_changes_nothing():
    once = expand_config({"attack": "rays", "defense": ["input_noise"], "data": {"class_path": "digits"}})
    assert expand_config(once) == once
    args = expand_args(["--attack.eps=1", "--attack", "rays", "--defense", "[input_noise]"])
    assert expand_args(args) == args
