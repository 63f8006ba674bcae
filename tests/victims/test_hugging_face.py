"""Image classifiers of transformers: their processors' settings, and tiny networks saved to a folder."""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image

import rfdlight as rfd
from rfdlight.data.conversion import unit_range
from rfdlight.data.preparation import Preparation
from rfdlight.errors import UserError
from rfdlight.victims import hugging_face
from rfdlight.victims.resolve import load, resolve_victim

CONFIG = SimpleNamespace(num_channels=3)


@pytest.mark.parametrize(
    ("settings", "preparation"),
    [
        ({"size": {"height": 20, "width": 30}, "resample": 2}, Preparation((20, 30), "bilinear", 1.0, "squash")),
        (
            {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}}
            | {"resample": 3},
            Preparation((224, 224), "bicubic", 224 / 256, "center"),
        ),
        ({"size": {"shortest_edge": 224}, "crop_pct": 0.875}, Preparation((224, 224), "bilinear", 0.875, "center")),
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875}, Preparation((384, 384), "bilinear", 1.0, "center")),
        ({"do_resize": False}, None),
    ],
)
def test_sizes_and_crops_are_those_of_the_processor(settings, preparation):
    assert hugging_face._preparation(settings, "hf:x") == preparation


def test_the_side_before_a_crop_is_computed_back_exactly():
    for resized in range(1, 600):
        for cut in (resized, max(1, resized * 7 // 8), max(1, resized // 2)):
            assert int(cut / hugging_face._share(cut, resized)) == resized


def test_mean_and_std_are_in_pixel_units():
    settings = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.2]}
    assert hugging_face._normalisation(settings, CONFIG, "hf:x") == ([0.5, 0.4, 0.3], [0.2, 0.2, 0.2])
    mean, std = hugging_face._normalisation(settings | {"rescale_factor": 2 / 255}, CONFIG, "hf:x")
    assert (mean, std) == ([0.25, 0.2, 0.15], [0.1, 0.1, 0.1])
    assert hugging_face._normalisation({"do_normalize": False}, CONFIG, "hf:x") == ([0.0] * 3, [1.0] * 3)


def test_what_rfdlight_cannot_do_is_refused():
    with pytest.raises(UserError, match="expected a processor with the interpolation nearest, bilinear, bicubic"):
        hugging_face._preparation({"resample": 1, "size": {"height": 4, "width": 4}}, "hf:x")
    with pytest.raises(UserError, match="got one with an offset"):
        hugging_face._normalisation({"rescale_offset": True}, CONFIG, "hf:x")


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(UserError, match=r"expected the package transformers, got none; pip install 'rfdlight\[hf\]'"):
        load("hf:somewhere")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Tiny networks of random weights with their processors, by name."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    vit = transformers.ViTForImageClassification(
        transformers.ViTConfig(**sizes, image_size=16, patch_size=8, num_labels=10)
    )
    resnet = transformers.ResNetForImageClassification(
        transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], num_labels=10)
    )
    folder = tmp_path_factory.mktemp("hf")
    for name, network in (("vit", vit), ("resnet", resnet)):
        network.save_pretrained(folder / name)
        transformers.ViTImageProcessor(
            size={"height": 16, "width": 16}, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]
        ).save_pretrained(folder / name)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_the_logits_are_those_of_the_processor_and_the_network(saved, name):
    transformers = pytest.importorskip("transformers")
    data = rfd.data.Digits(num_images=3)
    raw = data.images("test").read([0, 1, 2])
    loaded = resolve_victim(f"hf:{saved / name}", None, data)
    assert data.image_shape == (3, 16, 16)
    x = unit_range(data.images("test").read([0, 1, 2]))
    pictures = [Image.fromarray(each.permute(1, 2, 0).numpy()) for each in raw]
    given = transformers.AutoImageProcessor.from_pretrained(saved / name)(pictures, return_tensors="pt")
    network = transformers.AutoModelForImageClassification.from_pretrained(saved / name).eval()
    with torch.no_grad():
        expected, found = network(**given).logits, loaded.module(x)
    assert (expected - found).abs().max() <= 0.02 * (
        expected.amax() - expected.amin()
    )  # resizing rounds to whole pixels


@pytest.mark.slow
def test_a_run_and_noise_in_a_hidden_layer(saved):
    data = rfd.data.Digits(num_images=3)
    defense = rfd.FeatureNoise(0.1, layers="resnet.encoder.stages.0")
    run = rfd.evaluate(f"hf:{saved / 'resnet'}", data, "square", defense=defense, budget=5, sanity_checks=False)
    assert "resnet.encoder.stages.0" in run.facts.defense
    assert "weights digest" in run.facts.victim


@pytest.mark.slow
def test_wrong_folders_weights_and_classes_are_one_line(saved, tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = transformers.ViTConfig.from_pretrained(saved / "vit")
    transformers.ViTModel(config).save_pretrained(tmp_path / "headless")
    transformers.ViTImageProcessor().save_pretrained(tmp_path / "headless")
    (tmp_path / "empty").mkdir()
    for name, message in (
        ("headless", "is no trained image classifier: expected all weights, got none for classifier"),
        ("empty", "cannot load the image classifier"),
        ("gone", "cannot load the image classifier"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            load(f"hf:{tmp_path / name}")
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"must return logits of shape"):
        resolve_victim(f"hf:{saved / 'vit'}", None, Seven(num_images=2))


class Seven(rfd.data.Digits):
    """The digits, with 3 classes fewer."""

    num_classes = 7
