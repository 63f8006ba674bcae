"""Scales of features: measured rightly, stored beside the card, and refused where they are another victim's."""

import hashlib
import re

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from rfdlight import _io
from rfdlight.data import Images
from rfdlight.data.digits import Digits
from rfdlight.defenses import FeatureNoise
from rfdlight.errors import UserError
from rfdlight.training.classifier import Classifier
from rfdlight.training.export import export_victim
from rfdlight.victims import Victim
from rfdlight.victims.card import load_victim, read_card
from rfdlight.victims.scales import calibration_images, measure_scales, read_scales, save_scales, scales_path

ONE = ["layer1:output"]


def some_images(count: int, seed: int = 0) -> Images:
    pixels = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return Images(pixels, torch.zeros(count, dtype=torch.int64), [f"{number:03d}" for number in range(count)])


class Reshaped(nn.Module):
    """Four, three and two dimensions: channels, tokens, and features of known values."""

    def __init__(self):
        super().__init__()
        self.image, self.tokens, self.features = nn.Identity(), nn.Identity(), nn.Identity()

    def forward(self, x):
        x = self.image(x)
        return self.features(self.tokens(x.flatten(2).transpose(1, 2))[:, 5])


@pytest.mark.parametrize("batch_size", [3, 20])
def test_scales_are_the_deviations_over_the_images_averaged_over_the_positions(batch_size):
    images = some_images(20)
    measured, looked_at = measure_scales(
        Reshaped(), images, ["image:input", "tokens:output", "features:output"], batch_size
    )
    x = images.pixels.double() / 255
    deviation = x.std(0, correction=0)  # (3, 32, 32)
    torch.testing.assert_close(measured["image:input"].double(), deviation.mean((1, 2)), rtol=1e-6, atol=0)
    torch.testing.assert_close(measured["tokens:output"].double(), deviation.mean((1, 2)), rtol=1e-6, atol=0)
    torch.testing.assert_close(measured["features:output"].double(), deviation[:, 0, 5], rtol=1e-6, atol=0)
    assert {scale.dtype for scale in measured.values()} == {torch.float32}
    assert looked_at == 20


def test_a_small_deviation_around_a_large_mean_is_not_lost():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Identity()

        def forward(self, x):
            return self.last(x.flatten(1).double() + 1e5)

    images = some_images(30)
    exact = (images.pixels.float() / 255).flatten(1).double().std(0, correction=0)
    measured = measure_scales(Shifted(), images, ["last:output"])[0]["last:output"]
    torch.testing.assert_close(measured.double(), exact, rtol=1e-4, atol=0)


def test_measuring_is_in_eval_mode_and_leaves_the_victim_as_it_was(victim):
    images = some_images(6)
    expected = measure_scales(victim.eval(), images, ONE)[0]["layer1:output"]
    victim.train()
    weights = {key: value.clone() for key, value in victim.state_dict().items()}
    assert torch.equal(measure_scales(victim, images, ONE)[0]["layer1:output"], expected)
    assert victim.training
    assert all(torch.equal(value, weights[key]) for key, value in victim.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in victim.modules())


def test_what_has_no_scales_is_refused_and_leaves_no_hook():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.pair, self.number, self.unused = nn.Identity(), nn.Identity(), nn.Identity()

        def forward(self, x):
            self.pair((x, x))
            return self.number(x.mean((1, 2, 3)))

    for path, text in (
        ("pair", "the activation pair:output: expected a tensor of 2 to 4 dimensions, 2 rows, got a tuple"),
        ("number", r"the activation number:output: expected a tensor of 2 to 4 dimensions, 2 rows, got \(2,\)"),
        ("unused", "the forward pass never calls the layer unused.*"),
    ):
        odd = Odd()
        with pytest.raises(UserError, match=f"^{text}$"):
            measure_scales(odd, some_images(2), [f"{path}:output"])
        assert not any(module._forward_hooks for module in odd.modules())


def test_layers_that_are_bypassed_or_called_twice_or_have_other_rows_are_refused_by_name():
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.twice = nn.MultiheadAttention(32, 1, batch_first=True), nn.Identity()
            self.sequence = nn.Identity()

        def forward(self, x):
            rows = self.twice(self.twice(x.mean(1)))
            return self.attention(rows, rows, rows)[0].mean(1) + self.sequence(rows.transpose(0, 1)).mean(0)

    for path, text in (
        ("attention.out_proj", "never calls the layer attention.out_proj"),
        ("twice", "calls the layer twice more than once"),
        ("sequence", "sequence:output: expected .* 5 rows"),
    ):
        with pytest.raises(UserError, match=text):
            measure_scales(Attending(), some_images(5), [f"{path}:output"])


# Which images


def test_calibration_images_are_training_images_and_the_same_in_any_order(digits, monkeypatch):
    chosen = calibration_images(digits, 20)
    assert len(set(chosen.ids)) == 20
    assert all(name.startswith("digits/train/") for name in chosen.ids)
    other = Digits()
    train = other.images("train")
    other._splits["train"] = train.take(list(range(len(train)))[::-1])
    assert calibration_images(other, 20).ids == chosen.ids


@pytest.mark.parametrize("count", [0, -1, 1199])
def test_more_images_than_there_are_is_refused(digits, count):
    text = rf"^num_images must be from 1 to 1198, the training images of digits, got {count}$"
    with pytest.raises(UserError, match=text):
        calibration_images(digits, count)


# Files


@pytest.fixture
def stored(tmp_path, card):
    """Scales beside the card `tmp_path / "tiny.json"`."""
    path = tmp_path / "tiny.scales.safetensors"
    save_scales(path, {"layer1:output": torch.rand(16), "layer3:output": torch.rand(64)}, card.sha256, "digits", 7)
    return path


def test_scales_come_with_the_victim_that_a_card_describes(tmp_path, card, stored):
    assert scales_path(tmp_path / "tiny.json") == stored
    victim, _ = load_victim(tmp_path / "tiny.json")
    with safe_open(stored, framework="pt") as file:
        assert file.metadata() == {
            "weights_sha256": card.sha256, "data": "digits", "split": "train", "num_images": "7"
        }  # fmt: skip
        assert victim.feature_scales.keys() == set(file.keys())
        assert all(torch.equal(victim.feature_scales[key], file.get_tensor(key)) for key in victim.feature_scales)
    assert load_victim(tmp_path / "tiny.json", scales=False)[0].feature_scales == {}


def test_a_card_without_scales_loads_as_ever(tmp_path, card):
    assert load_victim(tmp_path / "tiny.json")[0].feature_scales == {}


def test_scales_of_other_weights_are_refused(tmp_path, card, stored):
    save_scales(stored, {"layer1:output": torch.ones(16)}, 64 * "0", "digits", 7)
    text = (
        f"{stored} was measured with other weights than its card's: expected sha256 {card.sha256[:16]}..., "
        "got 0000000000000000...; remove it or measure anew: rfdlight scales"
    )
    with pytest.raises(UserError, match=f"^{re.escape(text)}$"):
        load_victim(tmp_path / "tiny.json")


def test_scales_that_do_not_say_their_weights_are_refused(tmp_path, card, stored):
    save_file({"layer1:output": torch.ones(16)}, stored)
    with pytest.raises(UserError, match=r"was measured with other weights than its card's: .*, got None\.\.\.; "):
        load_victim(tmp_path / "tiny.json")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02."])
def test_what_is_no_safetensors_is_refused(card, stored, content):
    stored.write_bytes(content)
    with pytest.raises(UserError, match=f"^{re.escape(str(stored))} is not a readable safetensors file: .+") as caught:
        read_scales(stored, card.sha256)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bad", [torch.tensor([1.0, -1.0]), torch.tensor([1.0, torch.nan]), torch.ones(2, 2)])
def test_what_are_no_standard_deviations_is_refused(card, stored, bad):
    save_scales(stored, {"layer1:output": bad}, card.sha256, "digits", 7)
    with pytest.raises(UserError, match=r"does not hold standard deviations, at least 0 and one per feature$"):
        read_scales(stored, card.sha256)


def test_scales_that_cannot_be_written_are_one_line(tmp_path):
    with pytest.raises(UserError, match=rf"^cannot write {re.escape(str(tmp_path))}/no/x: .+"):
        save_scales(tmp_path / "no" / "x", {"a:output": torch.ones(1)}, "", "digits", 1)


# Where they come from


def test_an_exported_victim_has_the_scales_of_its_default_points(tmp_path, digits, victim):
    module = Classifier("resnet8")
    module.victim = victim
    card = export_victim(module, digits, tmp_path, "rfdlight fit", seed=0, seconds=0.0)
    loaded, _ = load_victim(tmp_path / "victim.json")
    assert loaded.feature_scales.keys() == {"layer3:output"}
    expected, _ = measure_scales(loaded, calibration_images(digits), ["layer3:output"])
    torch.testing.assert_close(loaded.feature_scales, expected, rtol=1e-4, atol=0)
    with safe_open(tmp_path / "victim.scales.safetensors", framework="pt") as file:
        assert file.metadata() == {
            "weights_sha256": card.sha256, "data": "digits", "split": "train", "num_images": "512"
        }  # fmt: skip
    with FeatureNoise(0.5, scale="feature").on(loaded), torch.no_grad():
        x = digits.attacked().pixels.float() / 255
        assert not torch.equal(loaded(x), loaded(x))


@pytest.mark.parametrize("name", ["resnet8-digits", "resnet20-cifar10", "resnet20-at-cifar10"])
def test_a_shipped_victim_comes_with_the_scales_of_its_three_stages(name):
    path = _io.find_shipped("checkpoints", name, ".json")
    scales = load_victim(path)[0].feature_scales
    assert {key: len(scale) for key, scale in scales.items()} == {
        "layer1:output": 16, "layer2:output": 32, "layer3:output": 64
    }  # fmt: skip
    assert all(bool((scale > 0).all()) for scale in scales.values())
    with safe_open(scales_path(path), framework="pt") as file:
        facts = file.metadata()
    assert facts == {
        "weights_sha256": read_card(path).sha256, "data": read_card(path).data, "split": "train", "num_images": "512"
    }  # fmt: skip


def test_the_shipped_scales_of_the_digits_are_those_that_are_measured(digits):
    victim: Victim = load_victim(_io.find_shipped("checkpoints", "resnet8-digits", ".json"))[0]
    points = [f"layer{stage}:output" for stage in (1, 2, 3)]
    measured, _ = measure_scales(victim, calibration_images(digits), points)
    torch.testing.assert_close(measured, victim.feature_scales, rtol=1e-4, atol=0)
    weights = _io.shipped_folder("checkpoints") / "resnet8-digits.safetensors"
    assert read_scales(weights.with_suffix(".scales.safetensors"), hashlib.sha256(weights.read_bytes()).hexdigest())
