"""Checkpoints as other programs write them: where their weights lie, what is beside them, and what is no checkpoint."""

import argparse
import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from rfdlight.errors import UserError
from rfdlight.victims.networks import create_network
from rfdlight.victims.weights import load_checkpoint, start_from

TEST = (
    "test --attack random_noise --data.num_images 2 --model.budget 1 --model.batch_size 4 --model.final_evaluations 40 "
    "--model.keep_images 0 --model.sanity_checks false --model.victim empty.net --run r --model.checkpoint "
)


def network() -> nn.Module:
    torch.manual_seed(0)
    return create_network("resnet8", num_classes=10).eval()


def other() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return create_network("resnet8", num_classes=10).state_dict()


def under(prefix: str, state: dict | None = None) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in (state or network().state_dict()).items()}


def stored(content, name: str = "weights.pth") -> Path:
    torch.save(content, name)
    return Path(name)


def loaded(path: Path | str) -> tuple[bool, str]:
    """Whether the weights of `network` were loaded, and what was said of the choice."""
    into = create_network("resnet8", num_classes=10)
    _, note = load_checkpoint(into, Path(path), "resnet8")
    expected = network().state_dict()
    return all(torch.equal(tensor, expected[name]) for name, tensor in into.state_dict().items()), note


def momentum() -> dict:
    made = network()
    optimizer = torch.optim.SGD(made.parameters(), lr=0.1, momentum=0.9)
    made(torch.rand(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


@pytest.fixture
def empty(elsewhere):
    """The victim of the command lines: the network of the digits with zeros for weights."""
    Path("empty.py").write_text(
        "from rfdlight.victims.card import load_victim\n"
        "from rfdlight.victims.resolve import card_path\n"
        "def net():\n"
        "    victim = load_victim(card_path('resnet8-digits'))[0]\n"
        "    for parameter in victim.parameters():\n"
        "        parameter.data.zero_()\n"
        "    return victim\n"
        "def good():\n"
        "    return load_victim(card_path('resnet8-digits'))[0].state_dict()\n"
    )
    sys.path.insert(0, str(elsewhere))
    import empty

    yield empty
    sys.modules.pop("empty", None)


def clean() -> float:
    return json.loads(Path("r/summary.json").read_text())["mean_logits"]["clean"]["value"]


@pytest.mark.slow
def test_a_run_says_that_it_took_the_averaged_weights_and_how_to_take_the_others(command, empty):
    """https://github.com/Sense-X/UniFormer/issues/87"""
    good = empty.good()
    stored({"state_dict": {k: torch.zeros_like(v) for k, v in good.items()}, "state_dict_ema": good, "epoch": 3})
    said = command(*TEST.split(), "weights.pth")
    assert (said.status, said.err) == (0, "")
    assert clean() == 1
    told = json.loads(Path("r/summary.json").read_text())["run"]["victim"]
    assert all(word in told for word in ("'state_dict_ema.network'", "EMA", "'state_dict.network'", "weights.pth#"))
    said = command(*TEST.replace("--run r", "--run plain").split(), "weights.pth#state_dict")
    assert said.status == 0
    assert json.loads(Path("plain/summary.json").read_text())["mean_logits"]["clean"]["value"] < 1


@pytest.mark.slow
def test_a_run_takes_weights_below_net_with_counters_of_another_tool_and_without_those_of_batch_norm(command, empty):
    """https://github.com/cg563/simple-blackbox-attack/issues/21, https://github.com/pytorch/pytorch/issues/8481,
    https://github.com/pytorch/pytorch/issues/8430, https://github.com/Lyken17/pytorch-OpCounter/issues/82
    """
    state = {f"module.{k}": v for k, v in empty.good().items() if "num_batches_tracked" not in k}
    stored({"net": {**state, "module.total_ops": torch.zeros(1)}, "acc": 95.1, "epoch": 200})
    said = command(*TEST.split(), "weights.pth")
    assert (said.status, said.err) == (0, "")
    assert clean() == 1


PLACES = {
    "net": lambda: {"net": under("module."), "acc": 95.1},
    "params": lambda: {"params": under("")},
    "three levels": lambda: {"a": {"b": {"model": under("module.")}}},
    "list": lambda: [network().state_dict(), momentum()],
    "tuple": lambda: {"checkpoint": (network().state_dict(), 3)},
    "beside an optimizer": lambda: {"model": under(""), "optimizer": momentum(), "scaler": {}},
    "options of a script": lambda: {"model": under(""), "args": argparse.Namespace(lr=0.1)},
    "Lightning": lambda: {"state_dict": {**under("model."), "criterion.weight": torch.ones(10)}, "epoch": 3},
    "old batch norm": lambda: {name: t for name, t in under("").items() if "num_batches_tracked" not in name},
    "counters of thop": lambda: {**under(""), "total_ops": torch.zeros(1), "layer1.total_params": torch.zeros(1)},
    "averaged model": lambda: {**under("module."), "n_averaged": torch.tensor(3)},
    "normalisation before": lambda: {"0.mean": torch.ones(3), "0.std": torch.ones(3), **under("1.")},
    "the same twice": lambda: {"state_dict": under(""), "model": under("")},
    "averaged below a wrapper": lambda: {"model": other(), "ema": {**under("module."), "n_averaged": torch.tensor(3)}},
    "model_ema": lambda: {"model_ema": under(""), "state_dict": other()},
    "averaged within one state dict": lambda: {"state_dict": {**under("net.", other()), **under("net_ema.")}},
    "best beside the last": lambda: {"best_model": other(), "model": under("")},
}


@pytest.mark.parametrize("name", PLACES)
def test_weights_are_found_wherever_scripts_keep_them(elsewhere, name):
    right, note = loaded(stored(PLACES[name]()))
    assert right
    assert ("--model.checkpoint weights.pth#" in note) == (name.startswith(("averaged ", "model_ema", "best"))
                                                           and name != "averaged model")  # fmt: skip


def test_a_part_of_a_checkpoint_is_chosen_by_its_name(elsewhere):
    stored({"model": other(), "teacher": {"module": under("")}})
    assert loaded("weights.pth#teacher") == (True, "")
    with pytest.raises(UserError, match=r"unknown part of the checkpoint weights\.pth: 'techer'; did you mean teacher"):
        loaded("weights.pth#techer")


def test_of_several_weights_without_a_convention_none_is_guessed(elsewhere):
    path = stored({"student": under("backbone."), "teacher": under("backbone.", other())})
    with pytest.raises(
        UserError, match=r"'student\.backbone', 'teacher\.backbone'; choose one: .*weights\.pth#student"
    ):
        loaded(path)


def test_a_fine_tuning_starts_from_the_same_places(elsewhere):
    path = stored({"net": {**under("module."), "module.aux.weight": torch.ones(1)}})
    told = start_from(create_network("resnet8", num_classes=3), path, "resnet8")
    assert "2 of a new head: fc.bias, fc.weight" in told
    assert "aux.weight" in told


REFUSED = {
    "a layer too many": (lambda: {**under(""), "aux.weight": torch.ones(3)}, ["1 other tensors", "aux.weight"]),
    "a deeper network": (lambda: create_network("resnet20", num_classes=10).state_dict(), ["60 other tensors"]),
    "optimizer alone": (momentum, ["lacks 44"]),
    "integers": (lambda: {k: v.to(torch.int8) for k, v in under("").items()}, ["int8", "float32"]),
    "complex numbers": (lambda: {k: v.cfloat() for k, v in under("").items()}, ["complex64"]),
    "NumPy": (lambda: {k: v.numpy() for k, v in under("").items()}, ["without running code", "state dict"]),
    "a whole model": (lambda: nn.Linear(2, 2), ["without running code", "state dict"]),
    "one tensor": (lambda: torch.ones(3), ["no tensors"]),
    "tensors without names": (lambda: list(under("").values()), ["lacks 44"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_checkpoint_of_something_else_is_one_line(elsewhere, name):
    make, hints = REFUSED[name]
    with pytest.raises(UserError) as caught:
        loaded(stored(make()))
    assert all(hint in str(caught.value) for hint in ["weights.pth", *hints]), caught.value
    assert "\n" not in str(caught.value)


def test_a_checkpoint_that_holds_itself_or_lists_without_end_is_read_in_no_time(elsewhere):
    content = {"state_dict": under("")}
    content["self"] = content
    lists = [1]
    for _ in range(40):
        lists = [lists] * 10
    content["lists"] = lists
    assert loaded(stored(content)) == (True, "")


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "another format"),
        (b"<!DOCTYPE html><html></html>", "another format"),
        (b"", "empty"),
        (b"PK\x03\x04" + bytes(40), "cannot be read"),
    ],
)
def test_a_file_that_is_no_weights_is_one_line(elsewhere, content, hint):
    """https://github.com/huggingface/transformers/issues/27923"""
    Path("weights.safetensors.pth").write_bytes(content)
    with pytest.raises(UserError, match=hint):
        loaded("weights.safetensors.pth")


def test_a_buffer_that_the_code_computes_may_stand_in_the_file_if_it_is_the_same(elsewhere):
    into = nn.Linear(2, 2)
    into.register_buffer("position_ids", torch.arange(4), persistent=False)
    path = stored({**into.state_dict(), "position_ids": torch.arange(4)})
    load_checkpoint(into, path, "own")
    path = stored({**into.state_dict(), "position_ids": torch.ones(4)})
    with pytest.raises(UserError, match="1 other tensors"):
        load_checkpoint(into, path, "own")
