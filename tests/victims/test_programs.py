"""Victims in files of torch that hold their own code."""

import logging

import pytest
import torch
from harness import centred_network, labelled

import rfdlight as rfd
from rfdlight.errors import UserError
from rfdlight.victims.resolve import load, resolve_victim

QUICK = {"eps": 0.1, "budget": 6, "batch_size": 4, "sanity_checks": False}


@pytest.fixture(scope="module")
def network():
    return centred_network()


@pytest.fixture(scope="module", params=["torchscript", "torch-export"])
def spec(request, network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("programs")
    x = torch.rand(4, 3, 16, 16)
    if request.param == "torchscript":
        torch.jit.save(torch.jit.script(network), folder / "net.pt")
        return f"torchscript:{folder / 'net.pt'}"
    rows = ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(network, (x,), dynamic_shapes=rows), folder / "net.pt2")
    return f"torch-export:{folder / 'net.pt2'}"


def test_a_run_on_the_file_is_the_run_on_the_network(spec, network):
    x, y = labelled(network, count=4, seed=0)
    run = rfd.evaluate(spec, (x, y), "square", **QUICK)
    own = rfd.evaluate(network, (x, y), "square", **QUICK)
    assert run.facts.forwarded == run.facts.totals.total == own.facts.totals.total
    assert [record.verdict for record in run.records] == [record.verdict for record in own.records]
    assert "sha256" in run.facts.victim
    assert not run.facts.compiled


def test_gradients_pass_through(spec, network):
    x, y = labelled(network, count=2, seed=0)
    run = rfd.evaluate(spec, (x, y), rfd.attacks.PGD(eps=0.1), budget=3, sanity_checks=False)
    assert run.facts.totals.gradient


def test_wrong_classes_and_wrong_images_are_one_line(spec):
    data = rfd.data.Digits(num_images=2)
    with pytest.raises(
        UserError, match=r"must return logits of shape \(2, 10\)|does not take images of 3 x 32 x 32"
    ) as caught:
        resolve_victim(spec, None, data)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError) as caught:
        rfd.evaluate(spec, (torch.rand(2, 1, 16, 16), torch.zeros(2, dtype=torch.int64)), **QUICK)
    assert "\n" not in str(caught.value)


def test_noise_in_hidden_layers_is_refused(spec, network):
    data = labelled(network, count=2, seed=0)
    for layers in (None, "program.0"):
        with pytest.raises(UserError) as caught:
            rfd.evaluate(spec, data, defense=rfd.FeatureNoise(layers=layers), **QUICK)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["torchscript", "torch-export"])
def test_a_file_of_another_kind_or_none_is_one_line(scheme, tmp_path, capfd, caplog):
    (tmp_path / "net.pt").write_bytes(b"no archive")
    torch.save({"weight": torch.ones(2)}, tmp_path / "weights.pt")
    with caplog.at_level(logging.WARNING):
        for name, message in (
            ("net.pt", r"cannot read .*net\.pt as"),
            ("weights.pt", r"cannot read .*weights\.pt as"),
            ("gone.pt", r"cannot read the victim .*gone\.pt: No such file"),
            ("", "cannot read the victim"),
        ):
            with pytest.raises(UserError, match=message) as caught:
                load(f"{scheme}:{tmp_path / name}")
            assert "\n" not in str(caught.value)
    assert (caplog.text, *capfd.readouterr()) == ("", "", "")


def test_a_checkpoint_beside_a_file_is_refused(spec):
    with pytest.raises(UserError, match=r"--model.checkpoint is for timm:NAME or an import path"):
        load(spec, "weights.pt")
