"""Image classifiers of transformers: their processors' settings, and tiny networks saved to a folder."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms.v2.functional import to_pil_image

import rfdlight as rfd
from rfdlight.data.conversion import unit_range
from rfdlight.data.preparation import Preparation
from rfdlight.errors import UserError
from rfdlight.victims import hugging_face
from rfdlight.victims.resolve import load, resolve_victim

RESIZES = {"do_resize": True, "resample": 2}


@pytest.mark.parametrize(
    ("settings", "preparation"),
    [
        ({"size": {"height": 20, "width": 30}}, Preparation((20, 30), "bilinear", 1.0, "squash")),
        (
            {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}}
            | {"resample": 3},
            Preparation((224, 224), "bicubic", 224 / 256, "center"),
        ),
        ({"size": {"shortest_edge": 224}, "crop_pct": 0.875}, Preparation((224, 224), "bilinear", 0.875, "center")),
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875}, Preparation((384, 384), "bilinear", 1.0, "squash")),
        ({"do_resize": False}, None),
    ],
)
def test_sizes_and_crops_are_those_of_the_processor(settings, preparation):
    assert hugging_face._preparation(RESIZES | settings, "hf:x") == preparation


def test_the_side_before_a_crop_is_computed_back_exactly():
    for resized in range(1, 300):
        for cut in range(1, resized + 1):
            assert int(cut / hugging_face._share(cut, resized)) == resized


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"resample": 1}, "resample"),
        ({"resample": 0}, "resample"),
        ({"size": {"longest_edge": 16}}, "size"),
        ({"size": {"shortest_edge": 16, "longest_edge": 20}}, "size"),
        ({"size": None}, "size"),
        ({"do_center_crop": True, "crop_size": {"height": 24, "width": 16}}, "crop_size"),
        ({"do_center_crop": True, "crop_size": None}, "crop_size"),
        ({"do_center_crop": True}, "crop_size"),
        ({"do_center_crop": True, "crop_size": {"shortest_edge": 12}}, "crop_size"),
        ({"do_center_crop": True, "crop_size": {"height": 12, "width": "x"}}, "crop_size"),
        ({"do_center_crop": True, "crop_size": {"height": 0, "width": 12}}, "crop_size"),
    ],
)
def test_settings_that_rfdlight_cannot_follow_are_refused(settings, word):
    with pytest.raises(UserError, match=rf"'hf:x': expected a processor with .*{word}"):
        hugging_face._preparation(RESIZES | {"size": {"height": 16, "width": 16}} | settings, "hf:x")


def followed(processor, channels=3):
    """Return the victim and the preparation that follow a processor of transformers."""
    network = nn.Identity()
    network.config = SimpleNamespace(num_channels=channels)
    preparation = hugging_face._preparation(processor.to_dict(), "hf:x")
    return hugging_face._normalised(network, processor, preparation, "hf:x"), preparation


SQUARE, SHORT, CROP = {"height": 16, "width": 16}, {"shortest_edge": 16}, {"height": 12, "width": 12}
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


@pytest.mark.parametrize(
    ("kind", "settings", "mean", "std"),
    [
        ("ViT", {"size": SQUARE, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}, [0.1, 0.2, 0.3], None),
        ("ViT", {"size": SQUARE, "image_mean": [0.3], "image_std": [0.5]}, [0.3], [0.5]),
        ("ViT", {"size": SQUARE, "do_normalize": False}, [0] * 3, [1] * 3),
        ("ViT", {"size": SQUARE, "rescale_factor": 2 / 255} | HALF, [0.25] * 3, [0.25] * 3),
        ("ViT", {"size": SQUARE, "do_rescale": False, "image_mean": [51] * 3, "image_std": [51] * 3}, [0.2] * 3, None),
        ("ViT", {"do_resize": False} | HALF, [0.5] * 3, [0.5] * 3),
        ("ViT", {"size": {"height": 2, "width": 2}} | HALF, [0.5] * 3, [0.5] * 3),  # no pixel inside of the border
        ("ViT", {"size": {"shortest_edge": 19}, "do_center_crop": True, "crop_size": CROP} | HALF, [0.5] * 3, None),
        ("CLIP", {"size": SHORT, "crop_size": CROP} | HALF, [0.5] * 3, [0.5] * 3),
        ("DeiT", {"size": SQUARE, "crop_size": CROP} | HALF, [0.5] * 3, [0.5] * 3),
        ("ConvNext", {"size": SHORT, "crop_pct": 0.875} | HALF, [0.5] * 3, [0.5] * 3),
        ("ConvNext", {"size": {"shortest_edge": 384}} | HALF, [0.5] * 3, [0.5] * 3),
        ("EfficientNet", {"size": SQUARE} | HALF, [0.5] * 3, [0.25] * 3),  # divides by the std twice
        ("EfficientNet", {"size": SQUARE, "rescale_factor": 2 / 255, "rescale_offset": True}, None, None),
    ],
)
def test_pixels_are_those_of_the_processor(kind, settings, mean, std):
    processor = getattr(pytest.importorskip("transformers"), f"{kind}ImageProcessor")(**settings)
    channels = 3 if mean is None else len(mean)
    victim, preparation = followed(processor, channels)
    for name, expected in (("mean", mean), ("std", std)):
        if expected is not None:
            assert getattr(victim, name).flatten().tolist() == pytest.approx(expected, rel=1e-5, abs=1e-7)
    if settings.get("size") == {"shortest_edge": 19}:  # halves of 19 - 12 pixels: torchvision crops one pixel beside
        return
    pixels = torch.randint(256, (channels, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    expected = processor(to_pil_image(pixels), return_tensors="pt")["pixel_values"]
    found = victim(unit_range(preparation(pixels[None]) if preparation is not None else pixels[None]))
    assert torch.allclose(found * victim.std, expected * victim.std, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("MobileViT", {"size": SHORT, "crop_size": CROP}),  # exchanges red and blue
        ("Levit", {"size": SHORT, "crop_size": SQUARE}),  # resizes to 256 / 224 of its size
        ("PoolFormer", {"size": SHORT, "crop_size": SQUARE}),  # resizes by crop_pct, and crops by crop_size
        ("ViT", {"size": SQUARE, "do_center_crop": True, "crop_size": {"height": 12, "width": 8}}),
        ("ViT", {"size": CROP, "do_pad": True, "pad_size": SQUARE}),
        ("ViT", {"size": SHORT}),  # other sizes for other proportions
        ("ViT", {"do_resize": False, "do_center_crop": True, "crop_size": CROP}),
        ("ViT", {"size": SQUARE, "image_mean": [0.5], "image_std": [0.5, 0.4]}),
        ("ViT", {"size": SQUARE, "image_std": [0.0] * 3}),
        ("ViT", {"size": SQUARE, "image_mean": "half"}),
    ],
)
def test_processors_that_do_more_are_refused(kind, settings):
    processor = getattr(pytest.importorskip("transformers"), f"{kind}ImageProcessor")(**settings)
    with pytest.raises(UserError, match=r"^'hf:x': expected an? (image )?processor") as caught:
        followed(processor)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("std", "black", "white"), [(-0.5, 1, -1), (0.0, "-inf", "inf")])
def test_the_channel_whose_std_is_not_above_0_is_named_with_its_pixels(std, black, white):
    settings = {"size": SQUARE, "image_mean": [0.5] * 3, "image_std": [0.25, std, 0.125]}
    processor = pytest.importorskip("transformers").ViTImageProcessor(**settings)
    with pytest.raises(UserError) as caught:
        followed(processor)
    assert f" {black} for black and {white} for white pixels in channel 2 of 3" in str(caught.value)
    assert str(caught.value).endswith(hugging_face._HINT)


def test_three_means_for_one_channel_are_refused():
    processor = pytest.importorskip("transformers").ViTImageProcessor(size=SQUARE, **HALF)
    with pytest.raises(UserError, match="'hf:x': expected an image processor for 1 channels"):
        followed(processor, channels=1)


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
        assert torch.equal(rfd.load_victim(f"hf:{saved / name}")(x), found)
    assert (expected - found).abs().max() <= 0.02 * (
        expected.amax() - expected.amin()
    )  # resizing rounds to whole pixels


def test_a_run_and_noise_in_a_hidden_layer(saved):
    data = rfd.data.Digits(num_images=3)
    defense = rfd.FeatureNoise(0.1, layers="resnet.encoder.stages.0")
    run = rfd.evaluate(f"hf:{saved / 'resnet'}", data, "square", defense=defense, budget=5, sanity_checks=False)
    assert "resnet.encoder.stages.0" in run.facts.defense
    assert "weights digest" in run.facts.victim


def test_loading_prints_nothing_and_draws_no_random_numbers(saved, capfd):
    state = torch.get_rng_state()
    load(f"hf:{saved / 'vit'}")
    assert capfd.readouterr() == ("", "")
    assert torch.equal(torch.get_rng_state(), state)


@pytest.fixture
def edited(saved, tmp_path):
    """Return a function that copies a network and edits one of its files; None removes a file or a setting."""

    def edit(file, changes):
        folder = shutil.copytree(saved / "vit", tmp_path / "edited")
        if changes is None:
            (folder / file).unlink()
        elif isinstance(changes, str):
            (folder / file).write_text(changes)
        else:
            (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | changes))
        return folder

    return edit


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("config.json", None),
        ("config.json", "{"),
        ("config.json", {"model_type": "bert"}),
        ("config.json", {"hidden_size": 32}),
        ("model.safetensors", None),
        ("model.safetensors", "weights"),
        ("preprocessor_config.json", None),
        ("preprocessor_config.json", "[]"),
        ("preprocessor_config.json", {"image_mean": None, "image_std": None}),
        ("preprocessor_config.json", {"size": "large"}),
        ("preprocessor_config.json", {"do_center_crop": True, "crop_size": {"height": "x", "width": "y"}}),
    ],
)
def test_damaged_files_are_one_line(edited, monkeypatch, file, changes):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = edited(file, changes)
    with pytest.raises(UserError, match=f"'hf:{folder}'") as caught:
        load(f"hf:{folder}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json"])
def test_code_beside_the_files_is_not_run_and_nobody_is_asked(edited, monkeypatch, file):
    kinds = {"AutoConfig": "code.A", "AutoModelForImageClassification": "code.A", "AutoImageProcessor": "code.A"}
    folder = edited(file, {"auto_map": kinds, "model_type": "code", "image_processor_type": "Code"})
    (folder / "code.py").write_text(f"open({str(folder / 'run')!r}, 'w')\n")
    monkeypatch.setattr("builtins.input", lambda *prompt: "y")
    with pytest.raises(UserError, match="cannot load the image classifier"):
        load(f"hf:{folder}")
    assert not (folder / "run").exists()


@pytest.mark.parametrize("place", ["", "./gone", "/gone/gone", "~/gone", "a/b/c", "config.json"])
def test_what_is_no_folder_is_refused_before_the_hub_is_called(saved, monkeypatch, place):
    monkeypatch.chdir(saved / "vit")
    with pytest.raises(UserError, match="expected hf:NAME of the hub or hf:FOLDER"):
        load(f"hf:{place}")


def test_networks_without_trained_heads_and_of_other_classes_are_refused(saved, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig.from_pretrained(saved / "vit")
    transformers.ViTModel(config).save_pretrained(tmp_path)
    transformers.ViTImageProcessor().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="expected all weights, got none for classifier"):
        load(f"hf:{tmp_path}")
    transformers.BertConfig().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="expected an image classifier of transformers, got a network of the type bert"):
        load(f"hf:{tmp_path}")
    with pytest.raises(UserError, match=r"must return logits of shape"):
        resolve_victim(f"hf:{saved / 'vit'}", None, Seven(num_images=2))


class Seven(rfd.data.Digits):
    """The digits, with 3 classes fewer."""

    num_classes = 7
