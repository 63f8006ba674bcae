import os
import re

import numpy as np
import pytest
import torch
from PIL import Image

from rfdlight.data.cifar10 import CIFAR10
from rfdlight.errors import UserError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def read(root, split="test"):
    return CIFAR10(root=str(root)).images(split)


def pixels_of(images):
    return images.read(list(range(len(images))))


def fails(root, text, split="test"):
    with pytest.raises(UserError) as caught:
        read(root, split)
    assert str(caught.value) == text


def test_the_tree_has_every_drawn_image_under_its_name(tree, drawn):
    images = read(tree)
    stored = pixels_of(images)
    assert stored.shape == (20, 3, 32, 32)
    position = {name: i for i, name in enumerate(images.ids)}
    for name, label, pixels in drawn:
        row = position[f"cifar10/test/{name}"]
        assert images.labels[row] == label
        assert np.array_equal(stored[row].permute(1, 2, 0).numpy(), pixels)


@pytest.mark.parametrize("split", ["train", "test"])
def test_both_forms_give_the_same_images_ids_and_subset(tree, archive, split):
    one, other = read(tree, split), read(archive, split)
    assert one.ids == other.ids
    assert torch.equal(pixels_of(one), pixels_of(other))
    assert torch.equal(one.labels, other.labels)
    subsets = [CIFAR10(root=str(root), num_images=13).attacked().ids for root in (tree, archive)]
    assert subsets[0] == subsets[1]


def test_the_data_is_found_below_a_folder_of_its_name_and_by_the_environment(tree, tmp_path, monkeypatch):
    expected = read(tree).ids
    (tmp_path / "above").mkdir()
    tree.rename(tmp_path / "above" / "cifar10")
    monkeypatch.setenv("RFDLIGHT_DATA", str(tmp_path / "above"))
    assert CIFAR10().images("test").ids == expected


def test_an_absent_class_folder_changes_no_label(tree):
    for path in (tree / "test" / "bird").iterdir():
        path.unlink()
    (tree / "test" / "bird").rmdir()
    labels = dict(zip(read(tree).ids, read(tree).labels.tolist(), strict=True))
    assert set(labels.values()) == set(range(10)) - {2}
    assert all(CLASSES[label] in name for name, label in labels.items())


def test_a_file_name_that_is_not_utf_8_is_refused_in_one_line(tree):
    path = next((tree / "test" / "cat").iterdir())
    os.rename(path, os.fsencode(path.parent) + b"/caf\xe9.png")
    with pytest.raises(UserError) as caught:
        read(tree)
    assert str(caught.value) == f"expected names in UTF-8, got {path.parent}/caf\\udce9.png: rename it"


@pytest.mark.parametrize("content", [b"", b"no image", "cut"])
def test_an_unreadable_image_is_named(tree, content):
    path = next((tree / "test" / "ship").iterdir())
    path.write_bytes(path.read_bytes()[:200] if content == "cut" else content)
    for split, action in (("test", CIFAR10(root=str(tree)).setup), ("train", CIFAR10(root=str(tree)).images)):
        with pytest.raises(UserError) as caught:
            action(split)
        assert str(caught.value).startswith(f"cannot read the image {path}: ")
        path.rename(tree / "train" / "ship" / path.name)
        path = tree / "train" / "ship" / path.name


def test_a_grey_image_has_three_equal_channels(tree):
    path = next((tree / "test" / "ship").iterdir())
    Image.new("L", (32, 32), 77).save(path)
    images = read(tree)
    assert (images.read([images.ids.index(f"cifar10/test/{path.name}")]) == 77).all()


def test_a_folder_that_is_no_class_names_the_nearest(tree):
    (tree / "test" / "dog").rename(tree / "test" / "dogs")
    fails(tree, f"unknown class folder in {tree / 'test'}: 'dogs'; did you mean dog or frog?")


def test_a_file_name_in_two_classes_is_refused(tree):
    path = next((tree / "test" / "ship").iterdir())
    (tree / "test" / "cat" / path.name).write_bytes(path.read_bytes())
    fails(
        tree,
        f"cifar10, test split: ids: expected an id of its own for every image, got cifar10/test/{path.name} 2 times; "
        "rename them",
    )


def test_an_empty_split_says_where_images_belong(tmp_path):
    (tmp_path / "test").mkdir()
    fails(tmp_path, f"expected images as {tmp_path}/test/<class>/<name>.jpg, found no class folders in {tmp_path}/test")


def test_no_root_says_how_to_get_the_data():
    fails(
        "",
        (
            "cifar10 needs a data root: give --data.root FOLDER or set RFDLIGHT_DATA; "
            "with --data.download true the official archive is fetched into it"
        ),
    )


def test_a_root_without_the_data_says_how_to_get_it(tmp_path):
    fails(
        tmp_path / "no",
        (
            f"no CIFAR-10 under {tmp_path}/no: expected cifar-10-batches-py/ or test/<class>/*.png; "
            "--data.download true fetches the official archive"
        ),
    )


def test_an_archive_with_wrong_checksums_is_refused_and_never_unpickled(tmp_path):
    archive = tmp_path / "cifar-10-batches-py"
    archive.mkdir()
    for name in ("test_batch", "batches.meta", *(f"data_batch_{i}" for i in range(1, 6))):
        # A pickle that would make a file.
        (archive / name).write_bytes(b"cos\nmkdir\n(V" + str(tmp_path / "canary").encode() + b"\ntR.")
    fails(tmp_path, f"the archive under {archive} is incomplete or damaged; remove it and use --data.download true")
    assert not (tmp_path / "canary").exists()


def test_nothing_is_fetched_where_the_data_is(tree, monkeypatch):
    monkeypatch.setattr("rfdlight.data.cifar10.datasets.CIFAR10", None)
    assert len(CIFAR10(root=str(tree), download=True).images("test")) == 20


def test_a_failed_fetch_is_one_line(tmp_path, monkeypatch):
    def offline(root, download):
        raise OSError("no route\nto host")

    monkeypatch.setattr("rfdlight.data.cifar10.datasets.CIFAR10", offline)
    text = f"cannot fetch the CIFAR-10 archive into {tmp_path}: no route to host"
    with pytest.raises(UserError, match=f"^{re.escape(text)}$"):
        CIFAR10(root=str(tmp_path), download=True).images("test")
