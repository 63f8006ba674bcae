import os
import re
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rfdlight.data import tree as class_tree
from rfdlight.data.cifar10 import CIFAR10
from rfdlight.errors import UserError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def read(root, split="test"):
    return CIFAR10(root=str(root)).images(split)


def only_cache(cache: Path) -> Path:
    (path,) = cache.iterdir()
    return path


def fails(root, text, split="test"):
    with pytest.raises(UserError) as caught:
        read(root, split)
    assert str(caught.value) == text


def test_the_tree_has_every_drawn_image_under_its_name(tree, drawn):
    images = read(tree)
    assert images.pixels.shape == (20, 3, 32, 32)
    position = {name: i for i, name in enumerate(images.ids)}
    for name, label, pixels in drawn:
        row = position[f"cifar10/test/{name}"]
        assert images.labels[row] == label
        assert np.array_equal(images.pixels[row].permute(1, 2, 0).numpy(), pixels)


@pytest.mark.parametrize("split", ["train", "test"])
def test_both_forms_give_the_same_images_ids_and_subset(tree, archive, split):
    one, other = read(tree, split), read(archive, split)
    assert one.ids == other.ids
    assert torch.equal(one.pixels, other.pixels)
    assert torch.equal(one.labels, other.labels)
    subsets = [CIFAR10(root=str(root), num_images=13).attacked().ids for root in (tree, archive)]
    assert subsets[0] == subsets[1]


@pytest.mark.parametrize("split", ["train", "test"])
def test_images_are_counted_without_a_cache(tree, archive, cache, split):
    (tree / split / "cat" / "one_more.png").touch()  # counted, not decoded
    assert CIFAR10(root=str(tree)).count(split) == 21
    assert CIFAR10(root=str(archive)).count(split) == 20
    assert not cache.exists()


def test_nothing_is_fetched_to_be_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(CIFAR10, "_fetch", lambda self, root: pytest.fail("fetched"))
    with pytest.raises(UserError, match="no CIFAR-10 under"):
        CIFAR10(root=str(tmp_path), download=True).count("test")


def test_the_data_is_found_below_a_folder_of_its_name_and_by_the_environment(tree, tmp_path, monkeypatch):
    expected = read(tree).ids
    (tmp_path / "above").mkdir()
    tree.rename(tmp_path / "above" / "cifar10")
    monkeypatch.setenv("RFDLIGHT_DATA", str(tmp_path / "above"))
    assert CIFAR10().images("test").ids == expected


def test_the_splits_never_share_an_id_though_their_files_are_the_same(tree):
    assert not set(read(tree, "train").ids) & set(read(tree, "test").ids)


def test_an_absent_class_folder_changes_no_label(tree):
    for path in (tree / "test" / "bird").iterdir():
        path.unlink()
    (tree / "test" / "bird").rmdir()
    labels = dict(zip(read(tree).ids, read(tree).labels.tolist(), strict=True))
    assert set(labels.values()) == set(range(10)) - {2}
    assert all(CLASSES[label] in name for name, label in labels.items())


def test_the_second_read_decodes_nothing(tree, monkeypatch):
    first = read(tree)
    monkeypatch.setattr(class_tree, "decode", None)
    second = read(tree)
    assert torch.equal(first.pixels, second.pixels)
    assert torch.equal(first.labels, second.labels)
    assert first.ids == second.ids


def test_a_changed_image_is_never_served_from_the_old_cache(tree):
    before = read(tree)
    name = before.ids[4].rsplit("/", 1)[1]
    path = next((tree / "test").glob(f"*/{name}"))
    times = path.stat()
    Image.fromarray(np.full((32, 32, 3), 9, dtype="uint8")).save(path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    after = read(tree)
    assert (after.pixels[4] == 9).all()
    rest = [i for i in range(20) if i != 4]
    assert torch.equal(after.pixels[rest], before.pixels[rest])


@pytest.mark.parametrize("read_one", [read, lambda root: CIFAR10(root=str(root)).count("test")])
def test_a_file_name_that_is_not_utf_8_is_refused_in_one_line(tree, read_one):
    path = next((tree / "test" / "cat").iterdir())
    os.rename(path, os.fsencode(path.parent) + b"/caf\xe9.png")
    with pytest.raises(UserError) as caught:
        read_one(tree)
    assert str(caught.value) == f"expected names in UTF-8, got {path.parent}/caf\\udce9.png: rename it"


def test_an_image_moved_to_another_class_gets_the_new_label(tree):
    before = read(tree)
    path = next((tree / "test" / "cat").iterdir())
    path.rename(tree / "test" / "dog" / path.name)
    after = read(tree)
    name = f"cifar10/test/{path.name}"
    assert before.labels[before.ids.index(name)] == 3
    assert after.labels[after.ids.index(name)] == 5


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "other"])
def test_a_damaged_cache_is_rebuilt(tree, cache, damage, monkeypatch):
    expected = read(tree)
    path = only_cache(cache)
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(content[:-1000])
    elif damage == "flipped":
        content[-1] ^= 1
        path.write_bytes(content)
    else:
        path.write_bytes(b"" if damage == "empty" else b"{}" * 100)
    again = read(tree)
    assert torch.equal(again.pixels, expected.pixels)
    assert torch.equal(again.labels, expected.labels)
    assert only_cache(cache) == path
    monkeypatch.setattr(class_tree, "decode", None)
    assert torch.equal(read(tree).pixels, expected.pixels)


def test_a_cache_that_cannot_be_written_is_done_without(tree, cache):
    cache.parent.mkdir()
    cache.write_text("a file where the folder should be")
    assert len(read(tree)) == 20


def test_a_failed_write_leaves_no_file_behind(tree, cache, monkeypatch):
    def full(tensors, path, metadata):
        Path(path).write_bytes(b"part")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(class_tree, "save_file", full)
    assert len(read(tree)) == 20
    assert list(cache.iterdir()) == []


def test_an_interrupted_write_leaves_no_file_behind(tree, cache, monkeypatch):
    def interrupted(tensors, path, metadata):
        raise KeyboardInterrupt

    monkeypatch.setattr(class_tree, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        read(tree)
    assert list(cache.iterdir()) == []


def test_writers_at_the_same_time_leave_one_whole_cache(tree, cache, monkeypatch):
    ready = threading.Barrier(4)
    write = class_tree.save_file

    def together(tensors, path, metadata):
        ready.wait(timeout=600)
        write(tensors, path, metadata)

    monkeypatch.setattr(class_tree, "save_file", together)
    results = []
    threads = [threading.Thread(target=lambda: results.append(read(tree))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    monkeypatch.setattr(class_tree, "decode", None)
    assert torch.equal(read(tree).pixels, results[0].pixels)
    assert only_cache(cache).suffix == ".safetensors"


@pytest.mark.parametrize("content", [b"", b"no image", "cut"])
def test_an_unreadable_image_is_named(tree, content, cache):
    path = next((tree / "test" / "ship").iterdir())
    path.write_bytes(path.read_bytes()[:200] if content == "cut" else content)
    with pytest.raises(UserError) as caught:
        read(tree)
    assert str(caught.value).startswith(f"cannot read the image {path}: ")
    assert not cache.exists()


def test_a_folder_named_as_an_image_is_none(tree):
    (tree / "test" / "ship" / "a.png").mkdir()
    assert len(read(tree)) == 20


def test_an_image_of_another_size_is_named(tree):
    path = next((tree / "test" / "ship").iterdir())
    Image.new("RGB", (40, 33)).save(path)
    fails(tree, f"expected images of 32 x 32, {path} has 33 x 40")


def test_a_grey_image_has_three_equal_channels(tree):
    path = next((tree / "test" / "ship").iterdir())
    Image.new("L", (32, 32), 77).save(path)
    images = read(tree)
    assert (images.pixels[images.ids.index(f"cifar10/test/{path.name}")] == 77).all()


def test_a_folder_that_is_no_class_names_the_nearest(tree):
    (tree / "test" / "dog").rename(tree / "test" / "dogs")
    fails(tree, f"unknown class folder in {tree / 'test'}: 'dogs'; did you mean dog or frog?")


def test_a_file_name_in_two_classes_is_refused(tree):
    path = next((tree / "test" / "ship").iterdir())
    (tree / "test" / "cat" / path.name).write_bytes(path.read_bytes())
    fails(tree, f"expected one image per file name, found {path.name} 2 times below {tree / 'test'}")


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
