import numpy as np
import pytest

from rfdlight.records import images

IDS = [f"{number:03d}" for number in range(10)]


@pytest.mark.parametrize(
    ("most", "chosen"), [(0, {}), (1, {"000": 0}), (4, {"000": 0, "002": 2, "005": 5, "007": 7}), (99, IDS)]
)
def test_the_chosen_are_spread_evenly_and_never_more(most, chosen):
    assert images.chosen(IDS, most) == (chosen if isinstance(chosen, dict) else {name: int(name) for name in IDS})


def part(folder, number, image_id):
    """A file of one image, whose clean pixels and final point tell its id."""
    path = folder / f"image-{number}.safetensors"
    x = np.full((1, 2, 2), float(image_id), np.float32)
    images.save(path, {image_id: (x, x + 0.5)})
    return path


def gathered(folder):
    clean, final, ids = images.read_images(folder / images.FILE)
    return ids, clean[:, 0, 0, 0].tolist(), final[:, 0, 0, 0].tolist()


def test_the_images_of_all_attempts_are_gathered_in_order_of_id(tmp_path):
    images.gather(tmp_path, [part(tmp_path, 0, "005"), part(tmp_path, 1, "000")])
    assert gathered(tmp_path) == (["000", "005"], [0.0, 5.0], [0.5, 5.5])
    images.gather(tmp_path, [part(tmp_path, 2, "002")])
    images.gather(tmp_path, [])
    assert gathered(tmp_path) == (["000", "002", "005"], [0.0, 2.0, 5.0], [0.5, 2.5, 5.5])
    assert [path.name for path in tmp_path.iterdir()] == [images.FILE]


def test_an_image_that_is_attacked_anew_has_its_new_point(tmp_path):
    images.gather(tmp_path, [part(tmp_path, 0, "005"), part(tmp_path, 1, "000")])
    path = tmp_path / "image-0.safetensors"
    images.save(path, {"005": (np.full((1, 2, 2), 5.0), np.full((1, 2, 2), 7.0))})
    images.gather(tmp_path, [path])
    assert gathered(tmp_path) == (["000", "005"], [0.0, 5.0], [0.5, 7.0])


def test_without_an_image_there_is_no_file_and_damaged_files_count_as_empty(tmp_path):
    images.gather(tmp_path, [])
    assert not list(tmp_path.iterdir())
    (tmp_path / images.FILE).write_bytes(b"no tensors")
    (tmp_path / "image-0.safetensors").write_bytes(b"no tensors")
    images.gather(tmp_path, [tmp_path / "image-0.safetensors", part(tmp_path, 1, "002")])
    assert gathered(tmp_path) == (["002"], [2.0], [2.5])
