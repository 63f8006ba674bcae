"""The command line: what is typed reaches the object that it means."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from pkgutil import resolve_name

import pytest
import torch
import yaml
from harness import others_slow

from rfdlight import _io
from rfdlight.attacks import Attack, RayS, Square
from rfdlight.cli.commands import COMMANDS, function_of
from rfdlight.cli.main import MODELS, make
from rfdlight.cli.sweep.experiment import Cell, read_cells
from rfdlight.core.registry import NAMES
from rfdlight.data import CIFAR10, Digits
from rfdlight.defenses import Defense, FeatureNoise, InputNoise
from rfdlight.records.records import read_records

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def defenses(cli) -> list[Defense]:
    return [callback for callback in cli.trainer.callbacks if isinstance(callback, Defense)]


def first_line(documented) -> str:
    return documented.__doc__.strip().partition("\n")[0]


# Names and options


@pytest.mark.parametrize(
    ("attack", "defense", "data"),
    [
        ("rays", "feature_noise", "digits"),
        ("square", "input_noise", "cifar10"),
    ],
)
def test_short_names_reach_their_classes(built, attack, defense, data):
    classes = {
        "rays": RayS, "square": Square, "digits": Digits, "cifar10": CIFAR10,
        "feature_noise": FeatureNoise, "input_noise": InputNoise,
    }  # fmt: skip
    cli = built("test", "--attack", attack, f"--defense={defense}", "--data", data)
    assert type(cli.model.attack) is classes[attack]
    assert [type(found) for found in defenses(cli)] == [classes[defense]]
    assert type(cli.datamodule) is classes[data]


def test_options_reach_their_objects_by_value(built):
    cli = built(
        "test", "--attack", "square", "--attack.p", "0.1", "--attack.eps=0.3", "--data.num_images", "7",
        "--data.seed", "3", "--model.budget", "9", "--model.criterion", "single", "--model.query_counting", "paper",
        "--model.batch_size", "5", "--model.pool_size", "11", "--model.final_evaluations", "41", "--model.seed", "4",
        "--model.victim", "some.json", "--defense", "feature_noise", "--defense.layers", "[layer1,layer2]",
        "--defense.sigma", "[0.1,0.2]", "--seed_everything", "8", "--run", "here",
    )  # fmt: skip
    assert isinstance(cli.model.attack, Attack)
    assert (cli.model.attack.p, cli.model.attack.eps, cli.model.attack.norm) == (0.1, 0.3, "linf")
    assert (cli.datamodule.num_images, cli.datamodule.seed) == (7, 3)
    module = cli.model
    config = module.config
    assert (config.budget, config.criterion, config.final_evaluations, config.query_counting) == (
        9,
        "single",
        41,
        "paper",
    )
    assert (config.batch_size, config.pool_size, config.seed, module.victim_spec) == (5, 11, 4, "some.json")
    (defense,) = defenses(cli)
    assert (defense.layers, defense.sigma) == (["layer1", "layer2"], [0.1, 0.2])
    assert cli.config["test"]["seed_everything"] == 8
    assert cli.trainer.default_root_dir == "here"
    assert not Path("here").exists()


def test_eps_and_victim_are_left_to_the_data_by_default(built):
    cli = built("test", "--attack", "rays")
    assert cli.model.attack.eps is None
    assert cli.model.victim_spec is None
    assert type(cli.datamodule) is Digits
    assert defenses(cli) == []


def test_options_may_stand_before_their_selector(built):
    cli = built(
        "test", "--attack.eps", "0.3", "--defense.sigma=0.7", "--attack", "rays", "--data.num_images=5",
        "--data=digits", "--defense", "input_noise",
    )  # fmt: skip
    assert (type(cli.model.attack), cli.model.attack.eps) == (RayS, 0.3)
    assert [(type(found), found.sigma) for found in defenses(cli)] == [(InputNoise, 0.7)]
    assert cli.datamodule.num_images == 5


LISTED = """
attack: rays
defense:
  - class_path: feature_noise
    init_args: {sigma: 0.1, layers: layer1}
  - input_noise
"""


@pytest.mark.parametrize("form", others_slow(["flow", "appended", "yaml"], 1))
def test_several_defenses_act_in_their_order(built, form):
    Path("listed.yaml").write_text(LISTED)
    both = "[{class_path: feature_noise, init_args: {sigma: 0.1, layers: layer1}}, input_noise]"
    args = {
        "flow": ["--attack", "rays", "--defense", both],
        "appended": [
            "--attack", "rays", "--defense+=feature_noise", "--defense.sigma=0.1", "--defense.layers=layer1",
            "--defense+=input_noise",
        ],
        "yaml": ["-c", "listed.yaml"],
    }[form]  # fmt: skip
    cli = built("test", *args)
    assert [(type(found), found.sigma) for found in defenses(cli)] == [(FeatureNoise, 0.1), (InputNoise, 0.02)]
    assert defenses(cli)[0].layers == ["layer1"]


def test_fit_takes_a_network_and_an_optimizer(built):
    cli = built("fit", "--model.network", "resnet8", "--model.optimizer", "torch.optim.Adam",
                "--model.optimizer.lr", "0.01", "--trainer.max_epochs", "3")  # fmt: skip
    assert cli.model.network_name == "resnet8"
    assert cli.trainer.max_epochs == 3
    optimizer = cli.model.optimizer(torch.nn.Linear(1, 1).parameters())
    assert (type(optimizer), optimizer.param_groups[0]["lr"]) == (torch.optim.Adam, 0.01)


def test_a_fraction_is_a_number_where_a_number_is_expected(built):
    Path("own_attack.py").write_text(OWN)
    Path("own.yaml").write_text("attack: {class_path: own_attack.Own, init_args: {rates: [8/255, 0.25], name: null}}")
    made = built("test", "-c", "own.yaml", "--attack.loose", "3/4", "--run", "1/2")
    assert made.model.attack.given == (None, 0.75, [8 / 255, 0.25])
    assert made.config.test.run == "1/2"
    made = built("test", "-c", "own.yaml", "--attack.rates=[1/4]", "--attack.loose=-8/255")
    assert made.model.attack.given == (None, -8 / 255, [0.25])
    sys.modules.pop("own_attack")


OWN = """
from rfdlight.attacks import Square

class Own(Square):
    def __init__(self, name: str | None = "x", loose: float = 1.0, rates: list[float] = [1.0]):
        super().__init__(eps=0.1)
        self.given = (name, loose, rates)
"""

# Configs


def test_later_files_and_options_override_earlier_ones_key_by_key(built):
    Path("a.yaml").write_text(
        "model: {budget: 5, batch_size: 8, pool_size: 16}\nattack: {class_path: square, init_args: {p: 0.1}}\n"
    )
    Path("b.yaml").write_text("model: {budget: 6}\nattack: {class_path: square, init_args: {eps: 0.3}}\n")
    cli = built("test", "-c", "a.yaml", "--config=b.yaml", "--model.batch_size", "4")
    assert (cli.model.config.budget, cli.model.config.batch_size, cli.model.config.pool_size) == (6, 4, 16)
    assert (type(cli.model.attack), cli.model.attack.p, cli.model.attack.eps) == (Square, 0.1, 0.3)


def test_an_attack_on_the_command_line_keeps_the_radius_of_the_file(built):
    Path("a.yaml").write_text("attack: {class_path: square, init_args: {p: 0.1, eps: 0.3}}\n")
    cli = built("test", "-c", "a.yaml", "--attack", "rays")
    assert (type(cli.model.attack), cli.model.attack.eps) == (RayS, 0.3)


def test_other_data_than_the_digits_has_its_own_defaults(built):
    ways = [("--data.seed", "1", "--data", "cifar10"), ("-c", "cifar10.yaml")]
    Path("cifar10.yaml").write_text("data: cifar10\n")
    assert built("test", "--attack", "rays").datamodule.num_images == 200
    for options in ways:
        assert built("test", "--attack", "rays", *options).datamodule.num_images == 1000
    assert built("test", "--attack", "rays", "--data.num_images", "7", "--data", "cifar10").datamodule.num_images == 7


def test_a_file_may_describe_a_component(built):
    Path("attack.yaml").write_text("class_path: square\ninit_args: {p: 0.1}\n")
    cli = built("test", "--attack", "attack.yaml", "--attack.eps", "0.3")
    assert (type(cli.model.attack), cli.model.attack.p, cli.model.attack.eps) == (Square, 0.1, 0.3)


def test_a_packaged_config_is_found_by_name_from_anywhere(built):
    cli = built("fit", "-c", "fit/resnet8_digits", "--trainer.max_epochs", "2")
    assert (type(cli.datamodule), cli.model.network_name) == (Digits, "resnet8")
    assert cli.trainer.max_epochs == 2


def test_a_file_in_the_working_folder_hides_a_packaged_config(built):
    Path("fit").mkdir()
    Path("fit/resnet8_digits").write_text("model: {network: resnet20}\n")
    assert built("fit", "-c", "fit/resnet8_digits").model.network_name == "resnet20"


SHIPPED = sorted(
    path.relative_to(_io.shipped_folder("configs")) for path in _io.shipped_folder("configs").rglob("*.yaml")
)
EXPERIMENTS = [config for config in SHIPPED if config.parts[0] == "experiment"]
CALIBRATED = [config for config in SHIPPED if config.parts[0] == "calibrated"]
CONFIGS = [config for config in SHIPPED if config not in (*EXPERIMENTS, *CALIBRATED)]


@pytest.mark.parametrize(
    "config",
    [pytest.param(each, marks=() if each in CONFIGS[:2] else pytest.mark.slow) for each in CONFIGS],
    ids=str,
)
def test_every_shipped_config_instantiates_and_its_resolved_form_gives_itself_again(built, config):
    command = ["fit"] if config.parts[0] == "fit" else ["test", "--attack", "rays"]
    first = built(*command, "-c", config.as_posix(), "--run", "first")
    first.save_config()
    given = yaml.safe_load((_io.shipped_folder("configs") / config).read_text())
    again = built(command[0], "-c", "first/config.yaml", "--run", "again")
    again.save_config()
    resolved, repeated = (yaml.safe_load(Path(run, "config.yaml").read_text()) for run in ("first", "again"))
    assert resolved.pop("run") == "first"
    assert repeated.pop("run") == "again"
    assert resolved == repeated
    for name, value in given["model"].items():
        assert isinstance(value, dict) or resolved["model"][name] == value
    assert type(first.datamodule) is type(again.datamodule)
    assert first.datamodule.batch_size == resolved["data"]["init_args"]["batch_size"]


def distinct(cells: list[Cell]) -> Iterator[Cell]:
    """The cells that have a part which no cell before them has."""
    seen = set()
    for cell in cells:
        parts = {(name, str(part)) for name, part in cell.config.items()}
        if parts - seen:
            yield cell
        seen |= parts


@pytest.mark.parametrize(
    ("config", "end"),
    [
        *[pytest.param(each, 1, id=f"first of {each}") for each in EXPERIMENTS[::5]],
        *[pytest.param(each, None, id=str(each), marks=pytest.mark.slow) for each in EXPERIMENTS],
    ],
)
def test_every_part_of_an_experiment_instantiates_and_its_resolved_form_gives_itself_again(built, config, end):
    for cell in [*distinct(read_cells(_io.shipped_folder("configs") / config))][:end]:
        Path("cell.yaml").write_text(yaml.safe_dump(cell.config))
        first = built("test", "-c", "cell.yaml", "--run", cell.name)
        first.save_config()
        again = make(["test", "-c", f"{cell.name}/config.yaml", "--run", "again"])
        settings, repeated = ({**cli.config.test.as_dict(), "config": None, "run": None} for cli in (first, again))
        assert repeated == settings
        resolved = yaml.safe_load(Path(cell.name, "config.yaml").read_text())
        assert cell.config["model"].items() <= resolved["model"].items()
        _io.find_shipped("checkpoints", cell.config["model"]["victim"], ".json")


@pytest.mark.parametrize("config", CALIBRATED, ids=str)
def test_a_shipped_calibration_is_of_the_shipped_weights(built, config):
    path = _io.shipped_folder("configs") / config
    written = yaml.safe_load(path.read_text())
    facts = written["calibration"]
    card = json.loads(_io.find_shipped("checkpoints", facts["victim"], ".json").read_text())
    assert facts["weights_sha256"] == card["sha256"]
    assert len(facts["image_ids_sha256"]) == 64
    if config == CALIBRATED[0]:
        (defense,) = defenses(built("test", "--attack", "rays", "--defense", str(config)))
    else:  # what the parser makes of such a file, without a parser
        assert written.keys() <= {"class_path", "init_args", "calibration", "recommendation"}
        defense = resolve_name(NAMES["defense"].get(written["class_path"], written["class_path"]))(
            **written["init_args"]
        )
    assert defense.sigma > 0


# Help


def test_ctrl_c_during_a_command_is_one_line(command, monkeypatch):
    def interrupted(**arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("rfdlight.cli.layers.layers", interrupted)
    said = command("layers", "resnet8-digits")
    assert (said.status, said.out, said.err) == (130, "", "rfdlight: interrupted\n")


def test_the_help_lists_every_command(command):
    said = command("--help")
    assert said.status == 0
    known = {"fit", "test", "analyze", "calibrate", "completion", "doctor", "export", "layers", "recommend",
             "reevaluate", "report", "scales", "sweep"}  # fmt: skip
    assert {*MODELS, *COMMANDS} == known
    for name in (*MODELS, *COMMANDS):
        assert f"    {name} " in said.out
    assert first_line(function_of("report")) in " ".join(said.out.split())


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("fit", ["--model.network", "--trainer.help"]),
        ("test", ["--attack", "--model.budget", "--model.eot", "--model.defended", "rays, signflip"]),
        ("report", ["--output", "--budgets", "--details"]),
    ],
)
def test_the_help_of_a_command_begins_with_its_docstring(command, name, flags):
    said = command(name, "--help")
    assert said.status == 0
    text = " ".join(said.out.split())
    assert first_line(MODELS[name] if name in MODELS else function_of(name)) in text
    for flag in flags:
        assert flag in text
    assert "--trainer.devices" not in said.out


def test_the_options_of_the_trainer_have_a_help_of_their_own(command):
    said = command("test", "--trainer.help")
    assert said.status == 0
    assert "--trainer.devices" in said.out
    assert "--model.budget" not in said.out


def test_the_help_of_an_attack_has_its_docstring_and_its_options(command):
    said = command("test", "--attack.help", "rays")
    text = " ".join(said.out.split())
    assert said.status == 0
    assert first_line(RayS).rstrip(".") in text
    assert "--attack.eps" in text
    assert "Radius of the ball in pixel units" in text


@pytest.mark.slow
def test_the_card_warns_of_a_budget_that_cannot_reach_the_ball(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    said = command("test", "--attack", "nes", "--data.num_images", "10", "--model.budget", "100", "--model.batch_size",
                   "20", "--model.eot", "10", "--run", "here", "--attack.pairs", "2",
                   "--model.criterion", "single", "--model.sanity_checks", "false")  # fmt: skip
    assert said.status == 0
    assert "warning  this budget allows 2 steps of 0.01" in " ".join(said.out.split("\n")).replace("  ", "  ")


@pytest.mark.slow
def test_the_card_warns_of_rounded_scores(command):
    size = ["--data.num_images", "2", "--model.budget", "1", "--model.sanity_checks", "false"]
    said = command("test", "--attack", "square", *size, "--model.precision", "bfloat16", "--run", "here")
    assert said.status == 0
    assert "warning bfloat16 rounds the scores, which hides small changes" in " ".join(said.out.split())


# A user's own code


def test_a_users_module_in_the_working_folder_is_found(built, monkeypatch):
    monkeypatch.chdir(EXAMPLES)
    monkeypatch.delitem(sys.modules, "my_noise", raising=False)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if Path(path or ".").resolve() != EXAMPLES])
    cli = built("test", "--attack", "rays", "--defense", "my_noise.LaplaceNoise", "--defense.sigma", "0.3")
    (defense,) = defenses(cli)
    assert type(defense) is importlib.import_module("my_noise").LaplaceNoise
    assert defense.sigma == 0.3
    monkeypatch.delitem(sys.modules, "my_noise")


# Seeds

TINY = ("--data.num_images", "3", "--model.budget", "6", "--model.batch_size", "3", "--model.sanity_checks", "false")


def sorted_lines(run: str) -> list[bytes]:
    return sorted(Path(run, "records.jsonl").read_bytes().splitlines())


def test_a_run_repeats_to_the_byte_also_from_its_own_config_and_another_seed_does_not(command):
    assert command("test", "--attack", "square", *TINY, "--run", "one").status == 0
    assert command("test", "--attack", "square", *TINY, "--run", "two", "--model.pool_size", "2").status == 0
    assert command("test", "-c", "one/config.yaml", "--run", "three").status == 0
    assert command("test", "-c", "one/config.yaml", "--run", "four", "--model.seed", "1").status == 0
    assert len(read_records(Path("one/records.jsonl"))) == 3
    assert sorted_lines("one") == sorted_lines("two") == sorted_lines("three")
    assert sorted_lines("one") != sorted_lines("four")
