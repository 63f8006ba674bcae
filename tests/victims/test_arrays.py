"""Functions on NumPy arrays as victims: their answers, what needs more than answers, and how a run knows them again."""

import logging

import numpy as np
import pytest
import torch
from torch import nn

import rfdlight as rfd
from rfdlight.attacks import PGD, Square
from rfdlight.errors import ResumeError, UserError
from rfdlight.evaluation import fingerprint
from rfdlight.victims.digest import weights_digest

from .faulty_server import CLASSES, SHAPE, WEIGHTS, linear

QUICK = {"eps": 0.1, "budget": 12, "batch_size": 4, "sanity_checks": False}


def labelled(count=4):
    x = torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(3))
    return x, torch.from_numpy(linear(x.numpy()).argmax(1))


def softmax(x):
    scores = np.exp(linear(x))
    return scores / scores.sum(1, keepdims=True)


class Network(nn.Module):
    """The same classifier in torch."""

    def forward(self, x):
        return (x.reshape(len(x), -1, 1) * torch.from_numpy(WEIGHTS)).sum(1)


def test_pixels_go_out_as_they_are_and_answers_come_back():
    seen = []
    victim = rfd.wrap(lambda x: seen.append(x.copy()) or linear(x).astype(np.float64), CLASSES)
    x, _ = labelled()
    for given in (x, x.contiguous(memory_format=torch.channels_last), x.double(), x.requires_grad_()):
        answer = victim(given)
        assert (answer.dtype, answer.requires_grad) == (torch.float32, False)
        assert np.array_equal(answer.numpy(), linear(x.detach().numpy()))
    assert all((each.dtype, each.shape, each.flags.c_contiguous) == (np.float32, x.shape, True) for each in seen)


def test_a_run_on_a_function_is_the_run_on_the_network():
    data = labelled()
    runs = [rfd.evaluate(victim, data, **QUICK) for victim in (rfd.wrap(linear, CLASSES), Network())]
    assert runs[0].facts.totals == runs[1].facts.totals
    for one, other in zip(*(run.records for run in runs), strict=True):
        assert one.clean_margin == pytest.approx(other.clean_margin, abs=1e-5)
        assert (one.verdict, one.billed) == (other.verdict, other.billed)


@pytest.mark.parametrize(
    ("predict", "message"),
    [
        (
            lambda x: linear(x)[1:],
            r"expected logits of shape \(2, 3\), floats, for 2 images, got float32 of shape \(1, 3\)",
        ),
        (lambda x: linear(x)[:, 1:], r"got float32 of shape \(2, 2\)"),
        (lambda x: linear(x).argmax(1), r"got int64 of shape \(2,\)"),
        (lambda x: None, "got NoneType"),
        (lambda x: [[1.0], [1.0, 2.0]], "got list"),
    ],
)
def test_an_answer_of_another_form_is_one_line(predict, message):
    with pytest.raises(UserError, match=message):
        rfd.wrap(predict, CLASSES)(torch.zeros(2, *SHAPE))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("net",), "predict: expected a function of a batch of pixels, got str"),
        ((nn.Flatten(),), "predict: expected a function on NumPy arrays, got a torch.nn.Module"),
        ((linear, 1), "classes: expected a whole number of at least 2, got 1"),
        ((linear, 3.0), "classes: expected a whole number"),
    ],
)
def test_arguments_that_cannot_be_used_are_one_line(arguments, message):
    with pytest.raises(UserError, match=message):
        rfd.wrap(*arguments, **({"classes": 3} if len(arguments) == 1 else {}))


@pytest.mark.parametrize(
    ("predict", "message"),
    [
        (lambda x: linear(x) * np.nan, "NaN"),
        (lambda x: 1 / 0, "ZeroDivisionError"),
        (lambda x: linear(x[..., :3]), "cannot reshape|broadcast"),
    ],
)
def test_a_function_that_fails_ends_the_run_in_one_line(predict, message):
    with pytest.raises(UserError, match=message) as caught:
        rfd.evaluate(rfd.wrap(predict, CLASSES), labelled(), **QUICK)
    assert "\n" not in str(caught.value)


def test_an_image_on_which_the_function_fails_leaves_the_run():
    x, y = labelled()

    def predict(pixels):
        found = linear(pixels)
        found[np.abs(pixels - x[2].numpy()).max((1, 2, 3)) <= 0.1 + 1e-6] = np.nan
        return found

    run = rfd.evaluate(rfd.wrap(predict, CLASSES), (x, y), **QUICK)
    assert (len(run.records), len(run.facts.failed)) == (3, 1)


def test_probabilities_become_their_logarithms_with_a_floor():
    victim = rfd.wrap(softmax, CLASSES, outputs="probabilities")
    x, y = labelled()
    assert torch.allclose(victim(x).softmax(1), torch.from_numpy(softmax(x.numpy())), atol=1e-6)
    sure = rfd.wrap(lambda x: np.array([[1.0, 0.0]]), 2, outputs="probabilities")
    assert torch.allclose(sure(x[:1]), torch.tensor([[0.0, np.log(1e-12)]], dtype=torch.float32))
    run = rfd.evaluate(victim, (x, y), **QUICK)
    assert run.clean_accuracy.value == 1


def test_logits_given_as_probabilities_are_one_line():
    with pytest.raises(UserError, match=r"outputs: expected probabilities, of sum 1 .* logits need outputs='logits'"):
        rfd.evaluate(rfd.wrap(linear, CLASSES, outputs="probabilities"), labelled(), **QUICK)


def test_probabilities_given_as_logits_are_a_warning(caplog):
    with caplog.at_level(logging.WARNING, "rfdlight"):
        rfd.evaluate(rfd.wrap(softmax, CLASSES), labelled(), **QUICK)
    assert "the victim answers with probabilities" in caplog.text
    assert "outputs='probabilities'" in caplog.text


def test_attacks_by_gradients_are_refused_before_the_first_image():
    calls = []
    victim = rfd.wrap(lambda x: calls.append(len(x)) or linear(x), CLASSES)
    with pytest.raises(UserError, match="the attack pgd needs gradients, which a victim outside torch does not have"):
        rfd.evaluate(victim, labelled(), PGD(eps=0.1), budget=5)
    assert calls == [1, 2]  # the number of classes, and the form of the answer


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("precision", "bfloat16", "model.precision: expected float32 for a victim outside torch, .*, got bfloat16; "),
        ("precision", "tf32", "model.precision: expected float32 for a victim outside torch, .*, got tf32; "),
        ("channels_last", True, "model.channels_last: expected auto or false for a victim outside torch, .*, got true"),
    ],
)
def test_arithmetic_and_memory_of_torch_are_refused_before_the_first_image(tmp_path, name, value, message):
    calls = []
    victim = rfd.wrap(lambda x: calls.append(len(x)) or linear(x), CLASSES)
    with pytest.raises(UserError, match=message):
        rfd.evaluate(victim, labelled(), **QUICK, out=tmp_path / "run", **{name: value})
    assert calls == [1, 2]
    assert not (tmp_path / "run").exists()


def test_the_sanity_checks_of_a_run_that_was_not_refused_are_made():
    run = rfd.evaluate(rfd.wrap(linear, CLASSES), labelled(), **{**QUICK, "sanity_checks": True})
    assert run.facts.sanity_checks is not None
    assert not any("channels_last" in reason for reason in run.facts.sanity_checks.skipped.values())


def test_noise_in_hidden_layers_is_refused():
    for layers in (None, "layer1"):
        with pytest.raises(UserError, match="feature noise needs layers inside the victim, and a Wrapped has none"):
            rfd.evaluate(rfd.wrap(linear, CLASSES), labelled(), defense=rfd.FeatureNoise(layers=layers), **QUICK)


@pytest.mark.parametrize(
    "defense", [rfd.InputNoise(0.05), rfd.LogitNoise(0.05), rfd.AAA()], ids=lambda d: type(d).__name__
)
def test_defenses_of_pixels_and_logits_act(defense):
    x, y = labelled()
    run = rfd.evaluate(rfd.wrap(linear, CLASSES), (x, y), defense=defense, **QUICK)
    assert run.facts.defense != "none"
    assert run.facts.deterministic == (type(defense) is rfd.AAA)
    assert len(run.records) == 4


def test_it_is_never_compiled(caplog):
    with caplog.at_level(logging.INFO, "rfdlight"):
        run = rfd.evaluate(rfd.wrap(linear, CLASSES), labelled(), compile=True, **QUICK)
    assert not run.facts.compiled
    assert "the victim runs eagerly, not compiled: that needs a network of torch" in caplog.text


def test_a_run_goes_on_with_the_same_description_alone(tmp_path):
    settings = {**QUICK, "out": tmp_path / "run"}
    data = labelled()
    first = rfd.evaluate(rfd.wrap(linear, CLASSES, description="version 7"), data, **settings)
    assert "version 7, weights unknown" in fingerprint.read(tmp_path / "run")["victim"]
    again = rfd.evaluate(rfd.wrap(linear, CLASSES, description="version 7"), data, resume=True, **settings)
    assert again.records == first.records
    with pytest.raises(ResumeError, match="victim is Wrapped, version 8, weights unknown, was Wrapped, version 7"):
        rfd.evaluate(rfd.wrap(linear, CLASSES, description="version 8"), data, resume=True, **settings)


def test_the_code_of_the_function_is_in_the_fingerprint(tmp_path):
    rfd.evaluate(rfd.wrap(linear, CLASSES), labelled(), Square(eps=0.1), budget=2, out=tmp_path / "run")
    assert f"code of {linear.__module__}" in fingerprint.read(tmp_path / "run")


def test_victims_with_other_descriptions_have_other_digests():
    one, other = (rfd.wrap(linear, CLASSES, description=text) for text in "ab")
    assert weights_digest(one) != weights_digest(other)
    assert weights_digest(one) == weights_digest(rfd.wrap(linear, CLASSES, description="a"))


def test_a_standard_evaluation_takes_it(tmp_path):
    run = rfd.standard(rfd.wrap(linear, CLASSES), labelled(2), eps=0.3, budget=10, out=tmp_path / "standard")
    assert "weights unknown" in run.settings.victim
