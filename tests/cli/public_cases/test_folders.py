"""Folders and files of images: order of the classes, what is left out, and files that are sound and unusual."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rfdlight.data import Digits
from rfdlight.data.decoding import decode
from rfdlight.data.folder import ImageFolder
from rfdlight.data.imagenet import ImageNet
from rfdlight.data.preparation import Preparation
from rfdlight.errors import UserError


def save(path, level=100, mode="RGB", size=(6, 8), **options):
    """A grey image of one level, height and width."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size[::-1], level).convert(mode).save(path, **options)
    return path


def tree(root, *names, count=1):
    """Class folders with a few images each."""
    for name in names:
        for number in range(count):
            save(Path(root, name, f"{number}.png"))
    return Path(root)


def load(root, **options):
    """The test split of a folder."""
    return ImageFolder(str(root), **options).images("test")


def refused(call, *words):
    with pytest.raises(UserError) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line
    assert all(word in line for word in words), line


QUICK = ["--attack", "random_noise", "--model.budget", "2", "--model.sanity_checks", "false", "--run", "run"]


def digit_folders(root, name, per=2):
    """The first digits of each class as `<root>/test/<class>/<digit>_<number>.png`."""
    images, seen = Digits().images("test"), dict.fromkeys(range(10), 0)
    for position, digit in enumerate(images.labels.tolist()):
        if seen[digit] < per:
            folder = Path(root, "test", name(digit))
            folder.mkdir(parents=True, exist_ok=True)
            pixels = images.read([position])[0].permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(folder / f"{digit}_{seen[digit]}.png")
            seen[digit] += 1


def test_the_order_of_numbered_classes_can_be_chosen(nearest_mean, command):
    # https://github.com/raoyongming/DynamicViT/issues/17, https://github.com/fra31/sparse-rs/issues/4,
    # https://github.com/modestyachts/ImageNetV2/issues/10,
    # https://github.com/huggingface/pytorch-image-models/issues/222
    digit_folders("d", lambda digit: str(digit + 1))
    line = ["test", "--data", "folder", "--data.root", "d", "--model.victim", "nearest_mean.NearestMean", *QUICK]
    said = command(*line, "--data.class_order", "natural")
    assert said.status == 0
    assert said.err == ""
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["mean_logits"]["clean"]["value"] > 0.7
    assert summary["run"]["num_images"] == 20


@pytest.mark.parametrize(
    ("names", "text", "natural"),
    [
        (("1", "2", "10"), ["1", "10", "2"], ["1", "2", "10"]),
        (("img9", "img10", "img1"), ["img1", "img10", "img9"], ["img1", "img9", "img10"]),
        (("Zebra", "ant"), ["Zebra", "ant"], ["ant", "Zebra"]),
        (("007", "7", "08"), ["007", "08", "7"], ["007", "7", "08"]),
    ],
)
def test_both_orders_of_classes(tmp_path, names, text, natural):
    root = tree(tmp_path / "test", *names).parent
    for order, expected in (("text", text), ("natural", natural)):
        images = load(root, class_order=order)
        assert [images.ids[images.labels.tolist().index(i)].split("/")[2] for i in range(len(names))] == expected


def test_imagenet_by_numbers_is_sorted_as_chosen(tmp_path, monkeypatch):
    # https://github.com/modestyachts/ImageNetV2/issues/10
    monkeypatch.setattr(ImageNet, "num_classes", 12)
    for number in range(12):
        save(tmp_path / "val" / str(number) / f"{number}.png", level=number)
    for order, label in (("text", 4), ("natural", 2)):
        images = ImageNet(str(tmp_path), class_order=order).images("test")
        assert images.labels[images.ids.index("imagenet/val/2.png")] == label


def test_a_16_bit_grey_image_is_scaled(tmp_path):
    # https://github.com/python-pillow/Pillow/issues/2574, https://github.com/python-pillow/Pillow/issues/5991
    levels = np.arange(256, dtype=np.uint8).reshape(8, 32)
    paths = [tmp_path / "8.png", tmp_path / "16.png"]
    Image.fromarray(levels).save(paths[0])
    Image.fromarray(levels.astype(np.uint16) * 257).save(paths[1])
    for channels in (1, 3):
        eight, sixteen = (decode(path, path.read_bytes(), channels) for path in paths)
        assert eight.shape == (channels, 8, 32)
        assert torch.equal(eight, sixteen)
    between = tmp_path / "between.png"
    Image.fromarray(np.array([[0, 128, 129, 65535, 32768]], dtype=np.uint16)).save(between)
    assert decode(between, between.read_bytes(), 1).flatten().tolist() == [0, 0, 1, 255, 128]


def test_a_16_bit_image_of_8_bit_values_would_be_black_and_is_refused(tmp_path):
    path = tmp_path / "dark.png"
    Image.fromarray(np.full((4, 4), 200, dtype=np.uint16)).save(path)
    refused(lambda: decode(path, path.read_bytes()), str(path), "65,535", "at most 200")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_images_of_every_mode_have_the_channels_that_are_asked_for(tmp_path, mode):
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    if mode == "I;16":
        Image.fromarray(np.full((6, 8), 65535, np.uint16)).save(path)
    else:
        save(path, 255, mode)
    for channels in (1, 3):
        pixels = decode(path, path.read_bytes(), channels)
        assert pixels.shape == (channels, 6, 8)
        assert (pixels == 255).all()


def test_transparency_and_palettes_are_dropped_without_a_warning(tmp_path, recwarn):
    path = tmp_path / "a.png"
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.save(path, transparency=b"\x80\x80")
    assert decode(path, path.read_bytes())[:, 0, 0].tolist() == [10, 20, 30]
    assert not recwarn.list


def test_the_orientation_of_a_camera_is_not_applied(tmp_path):
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    save(path, exif=exif)
    assert decode(path, path.read_bytes()).shape == (3, 6, 8), "as in torchvision"


def test_other_suffixes_and_nested_images_are_read(tmp_path):
    # https://github.com/pytorch/vision/issues/735, https://github.com/huggingface/pytorch-image-models/issues/1335
    test = tree(tmp_path / "test", "ant", "bee", "cat")
    for name in ("a.webp", "b.BMP", "c.JPG", "d.jpeg"):
        save(test / "bee" / name)
    (test / "bee/0.png").unlink()
    save(test / "cat/more/deep/x.png")
    save(test / "cat/x.tif")
    save(test / "cat/y.gif")
    save(test / "top.png")
    (test / "ant/readme").write_text("text")
    (test / "ant/.DS_Store").write_text("of no account")
    images = load(tmp_path)
    assert images.ids == [
        "folder/test/ant/0.png",
        *(f"folder/test/bee/{name}" for name in ("a.webp", "b.BMP", "c.JPG", "d.jpeg")),
        "folder/test/cat/0.png",
        "folder/test/cat/more/deep/x.png",
    ]
    assert images.labels.tolist() == [0, 1, 1, 1, 1, 2, 2]
    assert (images.read(list(range(7))) - 100).abs().max() <= 1


@pytest.mark.parametrize("clutter", [".ipynb_checkpoints", "__MACOSX", "@eaDir", ".git", "$RECYCLE.BIN"])
def test_folders_that_programs_leave_behind_are_no_classes(tmp_path, clutter):
    # https://github.com/pytorch/vision/issues/2831, https://github.com/open-mmlab/mmpretrain/issues/507
    test = tree(tmp_path / "test", "ant", "bee")
    save(test / clutter / "ant-checkpoint.png")
    save(test / "ant" / clutter / "0.png")
    save(test / "bee/._0.png")
    data = ImageFolder(str(tmp_path))
    assert data.classes == ["ant", "bee"]
    images = load(tmp_path)
    assert len(images) == 2


@pytest.mark.parametrize("length", [9, 20, 40, 60])
def test_a_damaged_png_is_refused_in_the_words_of_pillow(tmp_path, length):
    path = save(tmp_path / "a.png", size=(40, 40))
    path.write_bytes(path.read_bytes()[:length])
    refused(lambda: decode(path, path.read_bytes()), f"cannot read the image {path}: ")


@pytest.mark.parametrize(
    ("content", "word"),
    [(b"", "damaged"), (b"no image", "expected PNG, JPEG, WebP or BMP"), (b"GIF89a", "another format")],
)
def test_what_is_no_image_says_what_is_expected(tmp_path, content, word):
    refused(lambda: decode(tmp_path / "a.png", content), word)


def test_a_webp_of_too_many_pixels_is_refused(tmp_path):
    content = bytearray(save(tmp_path / "a.webp", lossless=True).read_bytes())
    start = content.index(b"VP8L") + 9
    bits = int.from_bytes(content[start : start + 4], "little") >> 28 << 28 | 16383 << 14 | 16383
    content[start : start + 4] = bits.to_bytes(4, "little")
    refused(lambda: decode(tmp_path / "a.webp", bytes(content)), "89,478,485 pixels")


def test_a_jpeg_that_is_cut_off_is_refused_in_the_words_of_pillow(tmp_path):
    path = save(tmp_path / "a.jpg", size=(64, 64))
    path.write_bytes(path.read_bytes()[:-20])
    refused(lambda: decode(path, path.read_bytes()), "truncated")


def test_class_folders_without_splits_are_a_test_split(tmp_path):
    images = load(tree(tmp_path / "pets", "ant", "bee"))
    assert images.ids == ["folder/test/ant/0.png", "folder/test/bee/0.png"]
    refused(lambda: ImageFolder(str(tmp_path / "pets")).images("train"), "train")


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        (("Train/ant", "Validation/ant"), ("Train, Validation", "test")),
        (("valid/ant", "valid/bee"), ("valid", "rename")),
        (("test/ant",), ("2 classes", "ant")),
        (("test",), ("found no class folders",)),
    ],
)
def test_a_root_of_another_shape_is_one_line_with_a_hint(tmp_path, folders, words):
    tree(tmp_path, *folders)
    refused(lambda: ImageFolder(str(tmp_path)), *words)


def test_a_class_of_the_test_split_that_is_not_trained_names_the_nearest(tmp_path):
    tree(tmp_path / "train", "Cat", "Dog")
    tree(tmp_path / "test", "cat", "Dog")
    refused(lambda: ImageFolder(str(tmp_path)).images("test"), str(tmp_path / "test"), "'cat'", "Cat")


def test_a_class_without_test_images_keeps_its_label(tmp_path):
    tree(tmp_path / "train", "ant", "bee", "cat")
    tree(tmp_path / "test", "ant", "cat")
    images = load(tmp_path)
    assert images.labels.tolist() == [0, 2]


def test_links_to_files_and_class_folders_are_followed_and_those_within_a_class_are_not(tmp_path):
    test = tree(tmp_path / "test", "ant")
    (test / "bee").symlink_to(tree(tmp_path / "elsewhere", "bees") / "bees")
    (test / "ant/linked.png").symlink_to(test / "ant/0.png")
    (test / "ant/loop").symlink_to(test / "ant")
    (test / "ant/self").symlink_to(test / "ant/self")
    images = load(tmp_path)
    assert images.ids == [f"folder/test/{name}" for name in ("ant/0.png", "ant/linked.png", "bee/0.png")]


def test_a_folder_that_cannot_be_listed_is_one_line(tmp_path, monkeypatch):
    test = tree(tmp_path / "test", "ant", "bee")
    scandir = os.scandir

    def denied(path):
        if Path(path) == test / "bee":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    refused(lambda: ImageFolder(str(tmp_path)).images("test"), str(test / "bee"), "Permission denied")


def test_grey_images_of_any_height_and_width(tmp_path):
    test = tree(tmp_path / "test", "ant", "bee")
    save(test / "bee/wide.png", 50, size=(10, 40))
    data = ImageFolder(str(tmp_path), channels=1, size=(12, 20))
    assert (len(data.mean), data.image_shape) == (1, (1, 12, 20))
    x, _, _ = next(iter(data.test_dataloader()))
    assert x.shape == (3, 1, 12, 20)
    refused(lambda: ImageFolder(str(tmp_path), channels=1, mean=(0.5, 0.5, 0.5)), "data.mean", "data.channels")
    refused(lambda: ImageFolder(str(tmp_path), mean=(123.7, 116.3, 103.5)), "255")
    refused(lambda: ImageFolder(str(tmp_path), size=(12, 0)), "data.size", "at least 1")


@pytest.mark.parametrize(("height", "width"), [(30, 60), (60, 30), (20, 50)])
def test_the_middle_is_cut_in_the_proportions_of_the_result(height, width):
    ramp = torch.arange(width, dtype=torch.uint8).expand(1, 1, height, width)
    cut = Preparation((10, 20), "bilinear")(ramp)[0, 0, 5].float()
    assert cut.shape == (20,)
    assert abs(float(cut.mean()) - (width - 1) / 2) < 1, "the middle"
    step = max(10 / height, 20 / width)
    assert abs(float(cut.diff().mean()) - 1 / step) < 0.1 / step, "and the proportions"


def test_a_size_of_the_command_line_is_a_number_or_height_and_width(elsewhere, built, command):
    tree(elsewhere / "d/test", "ant", "bee")
    line = ("test", "--data", "folder", "--data.root", "d", "--attack", "rays")
    shaped = built(*line, "--data.size", "[12,20]", "--data.channels", "1")
    assert shaped.datamodule.image_shape == (1, 12, 20)
    assert built(*line, "--data.size", "12").datamodule.image_shape == (3, 12, 12)
    said = command(*line, "--data.size", "[12]")
    assert (said.status, said.err.count("\n")) == (2, 1)
    assert "data.size" in said.err


def test_with_skip_the_readable_images_of_a_small_set_are_attacked_and_counted(tmp_path):
    test = tree(tmp_path / "test", "ant", "bee", count=3)
    (test / "ant/1.png").write_bytes(b"no image")
    data = ImageFolder(str(tmp_path), unreadable="skip")
    data.setup("test")
    assert (data.num_images, len(data.attacked())) == (5, 5)
    for path in test.rglob("*.png"):
        path.write_bytes(b"no image")
    refused(lambda: ImageFolder(str(tmp_path), unreadable="skip").setup("test"), "none of the 6 test images")
