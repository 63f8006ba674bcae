"""Images in folders, read as they are needed."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from harness import Constant
from PIL import Image

from rfdlight.analysis.clean_cost import CleanCostMeter
from rfdlight.cli.doctor import check_data
from rfdlight.data import sources
from rfdlight.data.folder import ImageFolder
from rfdlight.data.imagenet import ImageNet
from rfdlight.data.preparation import Preparation
from rfdlight.data.sources import ImageFiles
from rfdlight.errors import UserError


def save(path: Path, shape=(20, 30), mode="RGB", seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = {"RGB": 3, "RGBA": 4, "L": 0}[mode]
    pixels = np.random.default_rng(seed).integers(256, size=(*shape, channels) if channels else shape, dtype="uint8")
    Image.fromarray(pixels, mode).save(path)


@pytest.fixture
def root(tmp_path):
    """Three classes, four images of several sizes, modes and formats each, in both splits."""
    for split in ("train", "test"):
        for c, name in enumerate(("cat", "dog", "eel")):
            for i in range(4):
                suffix, mode = (("png", "RGB"), ("JPEG", "RGB"), ("png", "L"), ("png", "RGBA"))[i]
                save(tmp_path / split / name / f"{name}{i}.{suffix}", (20 + i, 30 - i), mode, seed=10 * c + i)
    (tmp_path / "test" / "cat" / "notes.txt").write_text("no image")
    return tmp_path


def folder(root, **options):
    return ImageFolder(str(root), num_images=options.pop("num_images", 6), size=options.pop("size", 16), **options)


def says(line, call):
    with pytest.raises(UserError) as caught:
        call()
    assert str(caught.value) == line


def refuses(path, call):
    """Whether it refuses the image by name, in the words of Pillow."""
    with pytest.raises(UserError) as caught:
        call()
    assert str(caught.value).startswith(f"cannot read the image {path}: ")


def test_classes_are_the_folders_in_alphabetical_order_and_ids_name_the_files(root):
    data = folder(root)
    test = data.images("test")
    assert data.num_classes == 3
    assert test.ids[:4] == [f"folder/test/cat/cat{i}.{s}" for i, s in enumerate(("png", "JPEG", "png", "png"))]
    assert test.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4


@pytest.mark.parametrize("kind", [0, 2, 3])
def test_pixels_are_the_files_as_rgb(root, kind):
    path = root / "test" / "dog" / f"dog{kind}.png"
    expected = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)
    stored = ImageFiles([path], torch.tensor([0]), ["a"])
    assert torch.equal(stored.read([0])[0], expected)
    assert torch.equal(stored.prepared(Preparation(16)).read([0])[0], Preparation(16)(expected))


def test_nothing_is_read_that_was_not_asked_for(root, monkeypatch):
    read = []
    original = sources.read_bytes
    monkeypatch.setattr(sources, "read_bytes", lambda path: read.append(path) or original(path))
    data = folder(root, num_images=3, batch_size=4)
    data.setup("fit")
    assert data.image_shape == (3, 16, 16)
    assert read == []
    attacked = data.attacked()
    assert len(read) == 3
    list(data.test_dataloader())
    assert {path.name for path in read} == {image.rpartition("/")[2] for image in attacked.ids}


def test_a_subset_is_balanced(root):
    assert torch.bincount(folder(root).attacked().labels).tolist() == [2, 2, 2]


def test_a_test_split_may_be_called_val_and_stand_alone(root):
    (root / "test").rename(root / "val")
    for file in sorted((root / "train").rglob("*.*")):
        file.unlink()
    for empty in (root / "train").iterdir():
        empty.rmdir()
    (root / "train").rmdir()
    (root / "val").rename(root / "test")
    assert folder(root).num_classes == 3
    (root / "test").rename(root / "val")
    save(root / "train" / "cat" / "a.png")
    says(f"expected the folders of at least 2 classes in {root}/train, found cat alone", lambda: folder(root))
    save(root / "train" / "owl" / "a.png")
    with pytest.raises(UserError, match=f"unknown class folder in {root}/val: 'dog'"):
        folder(root).images("test")


@pytest.mark.parametrize(
    ("taken", "made", "line"),
    [
        (
            "test/eel/eel3.png",
            b"test/eel/\xe9el.png",
            "expected names in UTF-8, got {root}/test/eel/\\udce9el.png: rename it",
        ),
        ("train/eel", b"train/\xe9el", "expected names in UTF-8, got {root}/train/\\udce9el: rename it"),
        ("test/eel", b"test/\xe9el", "expected names in UTF-8, got {root}/test/\\udce9el: rename it"),
    ],
)
def test_a_name_that_is_not_utf_8_is_refused_before_anything_is_read(root, taken, made, line):
    os.rename(root / taken, os.fsencode(root) + b"/" + made)
    says(line.format(root=root), lambda: folder(root).setup("test"))


def test_training_images_are_cropped_at_random_and_have_the_size(root):
    data = folder(root, batch_size=12)
    torch.manual_seed(0)
    batches = [next(iter(data.train_dataloader()))[0] for _ in range(2)]
    assert batches[0].shape == (12, 3, 16, 16)
    assert not torch.equal(*batches)


def damage(root, name="cat1.JPEG"):
    path = root / "test" / "cat" / name
    path.write_bytes(path.read_bytes()[:200])
    return path


@pytest.mark.parametrize("content", [None, b"", b"GIF89a"])
def test_an_unreadable_file_is_refused_by_name_before_the_first_query(root, content):
    path = damage(root)
    if content is not None:
        path.write_bytes(content)
    data = folder(root, num_images=12, unreadable="refuse")
    refuses(path, lambda: data.setup("test"))


def test_an_unreadable_file_is_quarantined_with_its_reason_and_no_other_takes_its_place(root, capsys):
    path = damage(root)
    data = folder(root, num_images=12)
    data.setup("test")
    image_id = f"folder/test/cat/{path.name}"
    assert [*data.unreadable_images] == [image_id]
    assert data.unreadable_images[image_id].startswith(f"cannot read the image {path}: ")
    assert len(data.attacked()) == 11
    assert image_id not in data.attacked().ids
    assert sum(len(ids) for _, _, ids in data.test_dataloader()) == 11
    assert "cat1" not in capsys.readouterr().err, "the summary of the run says it"


def test_where_no_file_can_be_read_the_first_is_named(root):
    paths = sorted(path for path in (root / "test").rglob("*") if path.suffix != ".txt" and path.is_file())
    for path in paths:
        path.write_bytes(b"nothing")
    data = folder(root, num_images=len(paths))
    with pytest.raises(UserError, match=rf"^none of the 12 test images can be read; .*{paths[0]}: "):
        data.setup("test")


def test_with_skip_it_is_named_once_and_another_takes_its_place(root, capsys):
    path = damage(root)
    data = folder(root, num_images=9, unreadable="skip", seed=2)
    data.setup("test")
    attacked = data.attacked()
    assert torch.bincount(attacked.labels).tolist() == [3, 3, 3]
    assert f"folder/test/cat/{path.name}" not in attacked.ids
    assert list(data.test_dataloader())
    assert capsys.readouterr().err.count(str(path)) == 1


def test_with_skip_one_file_changes_one_image_and_smaller_subsets_stay_within_larger_ones(tmp_path):
    for name in ("cat", "dog", "eel"):
        for i in range(40):
            save(tmp_path / "test" / name / f"{name}{i:02d}.png", (8, 8), seed=i)
    asked = {count: set(folder(tmp_path, num_images=count).attacked().ids) for count in (12, 60)}
    adversarial = min(asked[60] - asked[12])
    assert adversarial.startswith("folder/test/cat"), "of the class that is drawn first"
    (tmp_path / adversarial.removeprefix("folder/")).write_bytes(b"no image")
    data = {count: folder(tmp_path, num_images=count, unreadable="skip") for count in (12, 60)}
    chosen = {count: set(data[count].attacked().ids) for count in (12, 60)}
    assert chosen[12] == asked[12]
    assert asked[60] - chosen[60] == {adversarial}
    assert len(chosen[60]) == 60
    assert chosen[12] <= chosen[60]
    assert not (chosen[60] | {adversarial}) & set(data[60].held_out().ids), "what cannot be read is not calibrated on"
    assert len(data[60].held_out()) == 59
    assert data[60].unreadable_images == {}, "another took its place"


def test_in_training_a_skipped_file_leaves_its_batch_shorter(root, capsys):
    path = root / "train" / "eel" / "eel2.png"
    path.write_bytes(b"nothing")
    data = folder(root, batch_size=12, unreadable="skip")
    for _ in range(2):
        (pixels, labels, ids) = next(iter(data.train_dataloader()))
        assert len(pixels) == len(labels) == len(ids) == 11
        assert f"folder/train/eel/{path.name}" not in ids
    assert capsys.readouterr().err.count(str(path)) == 1
    data = folder(root, batch_size=12, unreadable="refuse")
    refuses(path, lambda: next(iter(data.train_dataloader())))


@pytest.mark.parametrize("unreadable", ["quarantine", "skip"])
def test_the_shape_is_that_of_an_image_that_can_be_read(root, unreadable):
    damage(root, "cat0.png")
    data = ImageFolder(str(root), num_images=6, unreadable=unreadable)
    assert data.image_shape == (3, 21, 29)
    assert check_data(data)[0].found == "12 test images, the first of 3 x 21 x 29"


@pytest.mark.parametrize("unreadable", ["quarantine", "refuse"])
def test_where_no_image_can_be_read_there_is_no_shape(root, unreadable):
    paths = sorted((root / "test").rglob("*.[pJ]*"))
    for path in paths:
        path.write_bytes(b"nothing")
    data = ImageFolder(str(root), num_images=6, unreadable=unreadable)
    refuses(paths[0], lambda: data.image_shape)


def test_images_of_several_sizes_need_a_size(root):
    data = ImageFolder(str(root), num_images=6)
    says(
        "the images have several sizes, such as (20, 30) and (22, 28): give --data.size",
        lambda: list(data.test_dataloader()),
    )


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda root: ImageFolder(), "the data folder needs its place: give --data.root FOLDER"),
        (
            lambda root: ImageFolder(str(root / "no")),
            "expected images as {root}/no/test/<class>/<name>.jpg, there is no such folder",
        ),
        (lambda root: folder(root, workers=-1), "data.workers must be at least 0, got -1"),
        (
            lambda root: folder(root, std=(0.2, 0.0, 0.2)),
            "mean, std: expected means and positive deviations of pixels in [0, 1], got [0.485, 0.456, 0.406] and "
            "[0.2, 0.0, 0.2]; divide by 255",
        ),
    ],
)
def test_wrong_folders_and_numbers_are_refused(root, make, line):
    says(line.format(root=root), lambda: make(root))


@pytest.fixture
def imagenet(tmp_path, monkeypatch):
    """Sixty classes in the place of the thousand, with an image each, and a second one for the first."""
    monkeypatch.setattr(ImageNet, "num_classes", 60)
    for number in range(60):
        save(tmp_path / "val" / f"n{number:08d}" / f"ILSVRC2012_val_{number:08d}.JPEG", (8, 9), seed=number)
    save(tmp_path / "val" / "n00000000" / "ILSVRC2012_val_00099999.JPEG", (8, 9), seed=-1 % 2**32)
    return tmp_path


def test_imagenet_is_one_image_per_class_in_the_order_of_the_wordnet_ids(imagenet, monkeypatch):
    monkeypatch.setenv("RFDLIGHT_IMAGENET", str(imagenet))
    data = ImageNet(size=8, num_images=60)
    data.setup("test")
    attacked = data.attacked()
    assert sorted(attacked.labels.tolist()) == list(range(60))
    by_id = dict(zip(attacked.ids, attacked.labels.tolist(), strict=True))
    assert by_id["imagenet/val/ILSVRC2012_val_00000023.JPEG"] == 23


def test_imagenet_with_the_same_file_name_in_every_class_is_refused(tmp_path):
    for number in range(1000):
        (tmp_path / "val" / f"n{number:08d}").mkdir(parents=True)
        (tmp_path / "val" / f"n{number:08d}" / "0001.png").touch()
    says(
        "imagenet, test split: ids: expected an id of its own for every image, got imagenet/val/0001.png 1000 times; "
        "rename them",
        lambda: ImageNet(str(tmp_path)).setup("test"),
    )


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda root: None, "imagenet needs a data root: give --data.root FOLDER or set RFDLIGHT_IMAGENET"),
        (
            lambda root: root,
            "expected images as {root}/val/<class>/<name>.jpg, there is no such folder",
        ),
        (
            lambda root: save(root / "val" / "a.jpg") or root,
            "expected images as {root}/val/<class>/<name>.jpg, found no class folders in {root}/val",
        ),
        (
            lambda root: save(root / "val" / "n01440764" / "a.jpg") or root,
            "expected the 1000 class folders of ImageNet in {root}/val, found 1; other sets of classes are for "
            "--data folder",
        ),
    ],
)
def test_a_wrong_shape_of_imagenets_folders_is_said_in_one_line(tmp_path, monkeypatch, make, line):
    monkeypatch.delenv("RFDLIGHT_IMAGENET", raising=False)
    made = make(tmp_path)
    says(line.format(root=tmp_path), lambda: ImageNet(None if made is None else str(made)).setup("test"))


def test_what_cannot_be_read_is_not_calibrated_on(root):
    data = folder(root, num_images=6)
    attacked, free = data.attacked(), data.held_out()
    for image in (attacked.ids[0], free.ids[0]):
        (root / image.removeprefix("folder/")).write_bytes(b"no image")
    data = folder(root, num_images=6)
    free = data.held_out()
    assert attacked.ids[0] not in free.ids, "it was asked for, and is quarantined"
    meter = CleanCostMeter(Constant(), free)
    assert meter.images.ids == free.ids[1:]
    assert len(meter.undefended) == len(free.ids) - 1
    assert meter.undefended.tolist() == (meter.images.labels == 0).double().tolist()
    for image in free.ids[1:-1]:
        (root / image.removeprefix("folder/")).write_bytes(b"no image")
    with pytest.raises(UserError, match=r"^data: expected at least 2 readable images that are not attacked, got 1; "):
        CleanCostMeter(Constant(), folder(root, num_images=6).held_out())


@pytest.mark.parametrize(
    ("order", "expected"), [("text", ["1", "10", "2", "Zebra", "ant"]), ("natural", ["1", "2", "10", "ant", "Zebra"])]
)
def test_the_order_of_the_class_folders_makes_the_labels(tmp_path, order, expected):
    for name in ("1", "2", "10", "Zebra", "ant", ".git", "__MACOSX"):
        save(tmp_path / "test" / name / "more" / f"{name}.png")
    images = folder(tmp_path, class_order=order).images("test")
    assert images.ids == [f"folder/test/{name}/more/{name}.png" for name in expected]
    assert images.labels.tolist() == [0, 1, 2, 3, 4]


def test_16_bit_grey_values_are_scaled_and_those_of_8_bits_in_16_are_refused(tmp_path):
    values = np.array([[0, 128, 129, 65535, 32768]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    Image.fromarray(values % 256).save(tmp_path / "b.png")
    stored = ImageFiles([tmp_path / "a.png", tmp_path / "b.png"], torch.tensor([0, 0]), ["a", "b"], channels=1)
    assert stored.read([0]).flatten().tolist() == [0, 0, 1, 255, 128]
    refuses(tmp_path / "b.png", lambda: stored.read([1]))
