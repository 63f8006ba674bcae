"""Command lines that people type, after public reports: each works, or is refused in one line with status 2."""

import json
import math
import re
import sys
from pathlib import Path

import pytest
import yaml
from harness import others_slow

from rfdlight.attacks import PGD, Square
from rfdlight.core.balls import check_eps
from rfdlight.core.threat import ThreatModel
from rfdlight.data import Digits
from rfdlight.errors import UserError
from rfdlight.evaluation.config import settle_eps
from rfdlight.training import PGDAdversary

QUICK = ("--data.num_images", "3", "--data.selection", "first", "--model.budget", "2", "--model.sanity_checks", "false")


@pytest.fixture
def module(elsewhere):
    """Write a module of a user's own into the working folder; it is forgotten after the test."""
    written = []

    def write(name, text):
        (elsewhere / f"{name}.py").write_text(text)
        written.append(name)
        return name

    yield write
    for name in written:
        sys.modules.pop(name, None)


def refusal(said, *parts):
    """Check that a command line was refused in one line that has these parts, and return the line."""
    assert said.status == 2
    assert said.err.startswith("rfdlight: ")
    assert said.err.count("\n") == 1
    for part in parts:
        assert part in said.err
    return said.err


# A user's own module that fails

FAILING = {
    "syntax": ("def net(:\n", "SyntaxError", 1),
    "undefined": ("x = nothing\n", "NameError", 1),
    "leaving": ("import sys\nsys.exit('no checkpoint')\n", "no checkpoint", 2),
    "missing": ("\nimport a_module_nobody_has\n", "a_module_nobody_has", 2),
    "raising": ("raise RuntimeError('two\\nlines')\n", "two lines", 1),
}


@pytest.mark.parametrize(
    ("option", "fault"),
    others_slow(
        [
            *(("--model.victim", fault) for fault in FAILING),
            ("--attack", "leaving"),
            ("--defense", "undefined"),
            ("--data", "missing"),
        ],
        0,
        2,
    ),
)
def test_a_module_that_fails_when_it_is_imported_is_named_with_file_and_line(command, module, option, fault):
    """https://github.com/oobabooga/textgen/issues/3016"""
    text, reason, line = FAILING[fault]
    name = module(f"failing_{fault}", text)
    attack = () if option == "--attack" else ("--attack", "square")
    said = command("test", *attack, *QUICK, option, f"{name}.Mine")
    refusal(said, f"{name}.Mine", f"{name}.py, line {line}", reason)


MAKERS = {
    "exits": ("import sys\ndef make(): sys.exit('no checkpoint')\n", "no checkpoint"),
    "raises": ("def make():\n    return {}['weights']\n", "KeyError"),
}


@pytest.mark.parametrize("fault", others_slow(MAKERS, 1))
def test_a_function_that_fails_to_make_the_victim_is_named_with_file_and_line(command, module, fault):
    text, reason = MAKERS[fault]
    name = module(f"maker_{fault}", text)
    refusal(command("test", "--attack", "square", *QUICK, "--model.victim", f"{name}.make"), f"{name}.make", reason)


COMPONENTS = """
import sys
from rfdlight.attacks import RandomNoise
from rfdlight.data.digits import Digits
from rfdlight.defenses import InputNoise
class Key(RandomNoise):
    def __init__(self, eps: float = 0.1): raise KeyError("weights")
class Unknown(InputNoise):
    def __init__(self): super().__init__(sigmaa=3)
class Leaving(Digits):
    def __init__(self): sys.exit(3)
class Loading(Digits):
    def load(self, split): raise RuntimeError("no file")
class Asking(RandomNoise):
    def ask(self, state): raise IndexError("out of points")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "line", "where"),
    [
        (("--attack", "components.Key"), 7, "Key.__init__"),
        (("--attack", "square", "--defense", "components.Unknown"), 9, "Unknown.__init__"),
        (("--attack", "square", "--data", "components.Leaving"), 11, "Leaving.__init__"),
        (("--attack", "square", "--data", "components.Loading"), 13, "Loading.load"),
        (("--attack", "components.Asking"), 15, "Asking.ask"),
    ],
)
def test_a_component_that_fails_in_its_own_code_is_named_with_file_and_line(command, module, options, line, where):
    module("components", COMPONENTS)
    said = command("test", *options, "--model.budget", "2", "--model.victim", "resnet8-digits")
    refusal(said, f"components.py, line {line} in {where}")


def test_a_callback_whose_module_fails_is_named_with_file_and_line(command, module):
    module("failing_callback", "x = nothing\n")
    said = command("test", "--attack", "square", "--trainer.callbacks+=failing_callback.Mine")
    refusal(said, "trainer.callbacks", "failing_callback.py, line 1", "NameError")


def test_a_component_in_a_file_is_named_with_file_and_line(command, module):
    module("failing_defense", "def x(:\n")
    Path("mine.yaml").write_text("attack: square\ndefense: failing_defense.Mine\n")
    refusal(command("test", "-c", "mine.yaml"), "failing_defense.Mine", "failing_defense.py, line 1", "SyntaxError")


# Seeds


@pytest.mark.parametrize("seed", others_slow(["-1", "5000000000", "none"], 0))
@pytest.mark.parametrize("line", ["test --attack square", "fit"])
def test_a_seed_out_of_range_is_refused(command, line, seed):
    """https://github.com/Lightning-AI/pytorch-lightning/issues/21028"""
    refusal(command(*line.split(), "--seed_everything", seed), "seed_everything")


@pytest.mark.parametrize("seed", others_slow(["4294967295", "true", "false"], 1))
def test_the_largest_seed_a_drawn_one_and_none_are_taken(built, seed):
    taken = built("test", "--attack", "square", "--seed_everything", seed).config["test"]["seed_everything"]
    assert taken is False if seed == "false" else 0 <= taken <= 2**32 - 1


# Radii


@pytest.mark.parametrize("eps", others_slow(["12.75", "8", "1", "255/255"], 1, 3))
def test_an_linf_radius_on_the_scale_of_255_is_refused(command, eps):
    """https://github.com/MadryLab/mnist_challenge/issues/13"""
    shown = "1" if eps == "255/255" else eps
    refusal(command("test", "--attack", "square", "--attack.eps", eps, *QUICK), "attack.eps", f"{shown}/255")


def test_an_l2_ball_that_holds_every_image_is_refused_and_a_smaller_one_is_not(command):
    line = ("test", "--attack", "square", "--attack.norm", "l2", *QUICK)
    refusal(command(*line, "--attack.eps", "128"), "attack.eps", "128/255")
    settle_eps(Square(eps=54, norm="l2"), Digits())  # the diagonal of 3 x 32 x 32 pixels is 55.4


def test_a_reference_radius_of_ones_own_data_on_the_scale_of_255_is_refused(command, module):
    module("own_radius", "from rfdlight.data.digits import Digits\nclass Mine(Digits):\n    reference_eps = 8\n")
    line = ("--attack", "square", "--data", "own_radius.Mine", "--model.victim", "resnet8-digits", *QUICK)
    refusal(command("test", *line), "reference_eps", "8/255")


@pytest.mark.parametrize(
    "options", [("8",), pytest.param(("128", "--model.adversary.norm", "l2"), marks=pytest.mark.slow)]
)
def test_a_radius_of_a_training_that_holds_every_image_is_refused(command, options):
    line = ("fit", "--model.network", "resnet8", "--model.adversary", "pgd", "--model.adversary.eps", *options)
    refusal(command(*line, "--trainer.max_epochs", "1"), "model.adversary.eps", f"{options[0]}/255")


def test_a_radius_is_bound_where_its_ball_holds_every_image():
    check_eps(math.nextafter(1, 0), "linf", "eps")
    check_eps(1e9, "l2", "eps")
    check_eps(3.99, "l2", "eps", (1, 4, 4))
    for eps, norm, shape in [(1, "linf", None), (4, "l2", (1, 4, 4)), (math.inf, "l2", None), (0, "linf", None)]:
        with pytest.raises(UserError, match="eps"):
            check_eps(eps, norm, "eps", shape)
    for made in (lambda: ThreatModel("linf", 8), lambda: PGD(eps=8), lambda: PGDAdversary(eps=8)):
        with pytest.raises(UserError, match="eps"):
            made()


# Fractions


@pytest.mark.slow
def test_a_fraction_is_stored_as_the_number_that_it_is(command):
    assert command("test", "--attack", "square", "--attack.eps", "8/255", *QUICK, "--run", "run").status == 0
    assert json.loads(Path("run", "summary.json").read_text())["run"]["eps"] == 8 / 255
    stored = yaml.safe_load(Path("run/config.yaml").read_text())
    assert stored["attack"]["init_args"]["eps"] == 8 / 255


def test_a_folder_of_data_that_reads_like_a_fraction_stays_text(built):
    for name in ("a", "b"):
        Path("1/2/test", name).mkdir(parents=True)
    assert str(built("test", "--attack", "square", "--data", "folder", "--data.root", "1/2").datamodule.root) == "1/2"
    Path("data.yaml").write_text("data: {class_path: folder, init_args: {root: 1/2}}\n")
    assert str(built("test", "--attack", "square", "-c", "data.yaml").datamodule.root) == "1/2"


# Help, hints and versions


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("test", ["--attack", "--data", "--defense", "--model.budget"]),
        ("fit", ["--model.network", "--data", "--defense"]),
    ],
)
def test_the_help_of_a_command_is_short_and_names_what_people_type(command, monkeypatch, name, flags):
    monkeypatch.setenv("COLUMNS", "80")
    said = command(name, "--help")
    assert (said.status, said.err) == (0, "")
    assert len(said.out.splitlines()) < 130
    assert max(map(len, said.out.splitlines())) < 80
    assert "examples:" in said.out
    assert not re.search(r"Base class|subclass|CLASS_PATH|type:", said.out)
    assert all(re.search(rf"^  {flag}\b", said.out, re.MULTILINE) for flag in flags)
    assert "--trainer.max_steps" not in said.out
    assert "--trainer.help" in said.out
    trainers = command(name, "--trainer.help")
    assert trainers.status == 0
    assert "--trainer.max_steps" in trainers.out
    assert "--model.seed" not in trainers.out


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("test --attack rays --eps 0.1", "attack.eps"),
        ("test --attack rays --batch_size 3", "data.batch_size or model.batch_size"),
        ("fit --lr 0.1", "model.optimizer.lr"),
        ("fit --epochs 3", "trainer.max_epochs"),
        ("recommend resnet8-digits --data digits --eps 0.1", "attack.eps"),
    ],
)
def test_an_option_without_its_section_is_answered_with_the_whole_one(command, line, meant):
    refusal(command(*line.split()), "unknown option", meant)


def test_options_of_a_component_that_is_not_named_ask_for_its_name(command):
    refusal(command("test", "--attack.eps", "0.1"), "--attack NAME", "square")
    refusal(command("test", "--attack", "square", "--defense.sigma", "0.1"), "--defense NAME", "input_noise")
    refusal(command("fit", "--model.adversary.eps", "8/255"), "--model.adversary NAME", "trades")


@pytest.mark.parametrize("line", ["--version", "test --version", "fit --version"])
def test_the_version_is_printed(command, line):
    said = command(*line.split())
    assert said.status == 0
    assert re.fullmatch(r"rfdlight \d+(\.\d+)+\S*\n", said.out)


@pytest.mark.parametrize("line", ["--attack square --defense mime.yaml", "--attack square -c mime.yml"])
def test_a_missing_file_is_said_to_be_missing(command, line):
    Path("mine.yaml").write_text("class_path: input_noise\n")
    said = refusal(command("test", *line.split()), "does not exist", "mine.yaml")
    assert "calibrated" not in said


def test_layers_with_a_comma_are_hinted_to_be_a_list(command):
    noise = ("--defense", "feature_noise", "--defense.layers", "layer1,layer2", "--defense.sigma", "0.1")
    refusal(command("test", "--attack", "square", *noise, *QUICK), "[layer1,layer2]")


@pytest.mark.slow
def test_a_trial_run_of_the_trainer_makes_no_victim(command):
    line = ("fit", "--model.network", "resnet8", "--data.num_images", "10", "--trainer.enable_progress_bar", "false")
    said = command(*line, "--trainer.fast_dev_run", "true", "--run", "run")
    assert said.status == 0
    assert "fast_dev_run" in said.out
    assert "FLOPs" not in said.out
    assert not list(Path("run").glob("victim*"))


# Values that no library takes

HUGE = str(10**20)


@pytest.mark.parametrize(
    ("line", "setting"),
    others_slow(
        [
            (f"test --attack square --model.budget {HUGE}", "model.budget"),
            (f"test --attack square --model.budget {2**53}", "model.budget"),
            ("test --attack square --model.memory 1e300", "model.memory"),
            (f"test --attack nes --attack.pairs {HUGE}", "attack.pairs"),
            (f"test --attack square --data.size [{HUGE},3]", "data.size"),
            (f"test --attack square --trainer.devices {HUGE}", "the trainer"),
            (f"test --attack square --trainer.num_nodes {HUGE}", "trainer.num_nodes"),
            (f"layers resnet8-digits --depth {HUGE}", "depth"),
        ],
        1,
        3,
        5,
        7,
    ),
)
def test_a_number_that_is_too_large_is_refused(command, line, setting):
    refusal(command(*line.split()), setting)


@pytest.mark.parametrize("text", ["a\0b", "a\udcff"])
@pytest.mark.parametrize("option", ["--run", "--model.victim", "-c"])
def test_an_argument_with_a_nul_or_not_in_utf8_is_refused(command, option, text):
    refusal(command("test", "--attack", "square", *QUICK, option, text), "command line", "UTF-8")


def test_a_nul_in_a_configuration_is_refused(command):
    Path("mine.yaml").write_text('model: {victim: "a\\0b.json"}\n')
    refusal(command("test", "--attack", "square", "-c", "mine.yaml"), "mine.yaml", "NUL")


def test_two_equal_callbacks_are_refused(command):
    callback = "{class_path: lightning.pytorch.callbacks.ModelCheckpoint}"
    Path("mine.yaml").write_text(f"trainer: {{callbacks: [{callback}, {callback}]}}\n")
    refusal(command("test", "--attack", "square", *QUICK, "-c", "mine.yaml"), "the trainer", "ModelCheckpoint")
