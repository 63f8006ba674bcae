"""Bad input is refused in one line that names the argument and what would be right, before anything is written."""

import os
import sys
from pathlib import Path

import huggingface_hub
import pytest

from .faulty_files import FAULTY, write_checkpoints, write_configs, write_run, write_victims

RAYS = "test --attack rays "
CALIBRATE = "calibrate resnet8-digits --data digits --defense input_noise "
RECOMMEND = "recommend resnet8-digits --data digits "
ANALYZE = "analyze resnet8-digits --data digits "

PARSED = {
    # commands and names of components
    "": "expected a command: fit, test, analyze, ",
    "tets": "unknown command 'tets'; did you mean test?",
    "test": "attack: expected a value, got none; known: standard, ",
    "test --attack rayz": "unknown attack 'rayz'; did you mean rays?",
    "test -c name.yaml": "unknown attack 'rayz'; did you mean rays?",
    RAYS + "--defense feature_nose": "unknown defense 'feature_nose'; did you mean feature_noise or ",
    RAYS + "--data digit": "unknown data 'digit'; did you mean digits?",
    "fit --model.adversary pdg": "unknown adversary 'pdg'; did you mean pgd?",
    RAYS + "-c fit/resnet8_digit": "unknown config 'fit/resnet8_digit'; did you mean fit/resnet8_digits",
    RAYS + "--model.criterion jury": "unknown criterion 'jury'; known: never, ",
    # options
    RAYS + "--model.budgte 3": "model.budgte: unknown option; did you mean model.budget",
    RAYS + "--modle.budget=3": "modle.budget: unknown option; did you mean model.budget?",
    RAYS + "--eps 0.1": "eps: unknown option; did you mean attack.eps",
    RAYS + "--attack.epsilon 0.1": "attack.epsilon: unknown option; did you mean attack.eps",
    RAYS + "--defense feature_noise --defense.layer x": "defense.layer: unknown option; did you mean defense.layers",
    RAYS + "-c key.yaml": "model.budgte: unknown option; did you mean model.budget?",
    "test -c option.yaml": "attack.epsilon: unknown option; did you mean attack.eps",
    "report a_file --outptu x": "outptu: unknown option; did you mean output?",
    "report": "runs: expected at least one run directory, got none",
    "scales timm:resnet8": "data: expected a value, got none; known: cifar10, ",
    RAYS + "surplus": "expected options, which begin with --, got 'surplus'",
    RAYS + "--model.budget": "--model.budget: expected one argument",
    RAYS + "--defense.sigma 3": "defense: expected --defense NAME for its options, got '3'; known: aaa, ",
    # values
    RAYS + "--attack.eps small": "attack.eps: expected a number, got 'small'",
    RAYS + "--attack.norm l3": "attack.norm: unknown value 'l3'; did you mean l2?",
    RAYS + "--model.budget 1.5": "model.budget: expected a whole number, got '1.5'",
    RAYS + "-c null_model.yaml": "model.budget: expected a value, got null",
    RAYS + "-c group.yaml": "model: expected a mapping of settings, got 3",
    RAYS + "--defense nowhere.Noise": "defense: No module named 'nowhere'",
    RAYS + "--defense faulty.Unrelated": "defense: Import path faulty.Unrelated does not correspond to a subclass of ",
    # files
    RAYS + "-c list.yaml": "the config list.yaml must be a mapping of settings, got ['budget']",
    RAYS + "--config=broken.yaml": "cannot read the config broken.yaml: while parsing a flow node ",
    "test --attack rays --defense calibrated/resnet20-featur.yaml": "the file 'calibrated/resnet20-featur.yaml' does ",
    RAYS + "-c deep.yaml": "cannot read the config deep.yaml: expected at most 50 levels of nesting, got more",
}
"""Lines that parsing refuses, and the beginning of the error."""

MADE = {
    "calibrate resnet8-digits --data digits --defense aaa": "defense: expected a noise, got AAA; ",
    RAYS + "--attack.eps 0": "attack.eps must be a positive number of pixel units, got 0.0",
    RAYS + "--attack.norm l2": "attack.norm of RayS must be linf, got l2",
    "test --attack square --attack.norm l2": "attack.eps must be given for l2: the data's reference radius, 0.2, ",
    RAYS + "--model.budget -1": "model.budget must be at least 0, got -1",
    RAYS + "-c negative.yaml": "defense.sigma must be at least 0, got -1.0",
    RAYS + "--defense feature_noise --defense.sigma 1 --defense.layers stem*": "no layer matches 'stem*'; the network ",
    RAYS + "--data.num_images 600": "data.num_images must be from 1 to 599 for this data, got 600",
    RAYS + "--data cifar10": "cifar10 needs a data root: give --data.root FOLDER or set RFDLIGHT_DATA; ",
    RAYS + "--seed_everything -1": "seed_everything: -1 is not in bounds, numpy accepts from 0 to 4294967295",
    RAYS + "--trainer.accelerator abacus": "You selected an invalid accelerator name",
    RAYS + "--trainer.precision bf16-mixed": "--trainer.precision: expected 32-true, got bf16-mixed; ",
    RAYS + "--trainer.strategy fsdp": "--trainer.strategy: expected ddp, got fsdp",
    RAYS + "--model.victim resnet8-digit": "unknown victim 'resnet8-digit'; did you mean resnet8-digits or ",
    RAYS + "--model.victim timm:resnet88": "unknown network 'resnet88'; did you mean resnet8 or ",
    RAYS + "--model.victim missing.json": "cannot read the victim card missing.json: No such file or directory",
    RAYS + "--model.victim altered.json": "altered.safetensors is not the file its card describes: expected sha256 0",
    RAYS + "--model.victim three.json": "the victim 'three.json' is for 3 classes, images (3, 32, 32), the data ",
    RAYS + "--model.victim faulty.ThreeOutputs": "the victim 'faulty.ThreeOutputs' must return logits of shape ",
    RAYS + "--model.victim faulty.Unsure": "the victim answered NaN or infinity; attacks need finite scores",
    RAYS + "--run taken": "taken already holds another run; give another folder, or move that one",
    "fit --model.network resnet88": "unknown network 'resnet88'; did you mean resnet8 or ",
    "fit --data.batch_size 2000": "data.batch_size must be at most the 1198 training images, got 2000",
    "fit --model.network resnet8 --model.checkpoint code.pt": "code.pt cannot be read as tensors without running ",
    CALIBRATE + "--target_drop 2": "target_drop: expected a number in (0, 1), got 2.0; 0.02 is 2 points",
    CALIBRATE + "--defense.sigma 0": "defense.sigma: expected a positive number, got 0",
    CALIBRATE + "--data.selection first --data.num_images 598": "data: expected at least 2 readable images that are ",
    CALIBRATE + "--sweep layers": "--sweep layers: expected a defense with layers, got InputNoise",
    CALIBRATE + "--output calibrated.json": "--output: expected a file that ends in .yaml, got 'calibrated.json'",
    RECOMMEND + "--confirm 0": "confirm: expected at least 1, got 0",
    RECOMMEND + "--num_images 398": "num_images: expected at most 397, got 398; 399 test images of digits are not ",
    RECOMMEND + "--attack pgd": "--attack: expected a black-box attack, got pgd",
    RECOMMEND + "--attack.targeted true": "attack.targeted: unknown option; ",
    ANALYZE + "--step 0": "step: expected a positive number, got 0.0",
    ANALYZE + "--num_images 400": "num_images: expected at most 399 test images that are not attacked, got 400",
    "layers resnt20-cifar10": "unknown victim 'resnt20-cifar10'; did you mean resnet20-cifar10 or ",
    "layers resnet8-digits --depth 0": "depth: expected at least 1, got 0",
    "layers timm:resnet20": "--image_size: expected a number, got none; timm does not specify the image size of ",
    "layers timm:test_vit --image_size 3": "timm:test_vit does not take images of 3 x 3 x 3: Input height (3) should ",
    "scales timm:resnet8 --data digits": "victim: expected a shipped name or a victim card, beside which the scales ",
    "scales resnet8-digits --data digits --num_images 0": "num_images must be from 1 to 1198, the training images of ",
    "report a_file": "expected a run directory, got a_file",
    "report finished --budgets 0": "budgets: expected numbers of queries of at least 1, got 0",
    "sweep grid.yaml": "cell shipped-wrong: unknown attack 'sqare'; did you mean square or adaptive_square?",
}
"""Lines that a component, a command or the trainer refuses, and the beginning of the error."""

GRID = """
common: {data: digits, model: {budget: 4}}
axes: {victim: {shipped: {}}, attack: {square: {attack: square}, wrong: {attack: sqare}}}
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory):
    """A folder with everything that the command lines above name."""
    folder = tmp_path_factory.mktemp("bad_input")
    (folder / "faulty.py").write_text(FAULTY)
    write_victims(folder)
    write_checkpoints(folder)
    write_configs(folder)
    write_run(folder / "finished")
    (folder / "taken").mkdir()
    (folder / "taken/records.jsonl").write_text("someone's work\n")
    (folder / "a_file").write_text("")
    (folder / "grid.yaml").write_text(GRID)
    yield folder
    sys.modules.pop("faulty", None)


def names(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if "__pycache__" not in path.parts}


@pytest.mark.parametrize(
    "cases",
    [
        PARSED,
        {line: MADE[line] for line in list(MADE)[::3]},
        pytest.param({line: MADE[line] for line in MADE if line not in list(MADE)[::3]}, marks=pytest.mark.slow),
    ],
    ids=["parsed", "made", "made too"],
)
def test_bad_input_is_one_line_status_2_and_nothing_written(cases, prepared, command, monkeypatch):
    monkeypatch.chdir(prepared)
    before = names(prepared)
    wrong = {}
    for line, expected in cases.items():
        said = command(*line.split())
        one = said.err.startswith(f"rfdlight: {expected}") and said.err.count("\n") == 1
        if not one or (said.status, said.out) != (2, ""):
            wrong[line] = said
    assert not wrong
    assert names(prepared) == before


def test_pretrained_weights_that_cannot_be_fetched(elsewhere, command, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(elsewhere))
    said = command("fit", "--model.network", "resnet18", "--model.pretrained", "true", "--run", "run")
    assert said.status == 2
    assert said.err.startswith("rfdlight: cannot fetch the pretrained weights of 'resnet18': ")
    assert said.err.count("\n") == 1
    assert not (elsewhere / "run").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_run_directory_that_cannot_be_made(elsewhere, command):
    (elsewhere / "closed").mkdir(mode=0o500)
    said = command("test", "--attack", "rays", "--run", "closed/run")
    assert (said.status, said.err) == (2, "rfdlight: cannot make the run directory closed/run: Permission denied\n")
