import json

import pytest
import torch
from safetensors import safe_open

from rfdlight.records import images
from rfdlight.records.images import KeptImages, gather

IDS = [f"{number:03d}" for number in range(10)]


@pytest.mark.parametrize(("most", "chosen"), [(0, []), (1, ["000"]), (4, ["000", "002", "005", "007"]), (99, IDS)])
def test_the_chosen_are_spread_evenly_and_never_more(most, chosen, tmp_path):
    assert KeptImages(IDS, most, tmp_path / "part").chosen == chosen


@pytest.fixture(autouse=True)
def journal(tmp_path):
    (tmp_path / "journal").mkdir()


def part(folder, number):
    return images.part(folder, number, 0)


def ids_and_pixels(folder):
    with safe_open(folder / "images.safetensors", "pt") as file:
        clean, adversarial = (file.get_tensor(name)[:, 0, 0, 0].tolist() for name in ("clean", "adversarial"))
        return json.loads(file.metadata()["ids"]), clean, adversarial


def test_the_chosen_that_came_in_any_process_are_gathered_in_their_order(tmp_path):
    for number, image_id in enumerate(("005", "001", "000")):
        kept = KeptImages(IDS, 4, part(tmp_path, number))
        x = torch.full((1, 2, 2), float(image_id))
        point = x + 0.5
        kept(image_id, x, point)
        for row in (x, point):
            row.zero_()  # the pool uses its rows again
    gather(tmp_path)
    assert ids_and_pixels(tmp_path) == (["000", "005"], [0.0, 5.0], [0.5, 5.5])
    assert not any((tmp_path / "journal").iterdir())


def test_what_an_earlier_attempt_gathered_stays(tmp_path):
    for number, image_id in enumerate(("002", "007")):
        image = torch.full((1, 2, 2), float(number))
        KeptImages(IDS, 4, part(tmp_path, number))(image_id, image, image)
        gather(tmp_path)
    gather(tmp_path)
    assert ids_and_pixels(tmp_path)[0] == ["002", "007"]


def test_nothing_is_stored_of_images_that_were_not_chosen(tmp_path):
    image = torch.zeros(1, 2, 2)
    KeptImages(IDS, 0, part(tmp_path, 0))("000", image, image)
    KeptImages(IDS, 4, part(tmp_path, 0))("001", image, image)
    gather(tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["journal"]


def test_a_damaged_file_is_begun_anew(tmp_path):
    (tmp_path / "images.safetensors").write_bytes(b"no tensors")
    part(tmp_path, 0).write_bytes(b"no tensors")
    KeptImages(IDS, 4, part(tmp_path, 1))("002", torch.zeros(1, 2, 2), torch.ones(1, 2, 2))
    gather(tmp_path)
    assert ids_and_pixels(tmp_path) == (["002"], [0.0], [1.0])


def test_many_images_are_written_in_files_of_a_few_and_gathered_into_one(tmp_path):
    ids = [f"{number:03d}" for number in range(40)]
    kept = KeptImages(ids, len(ids), part(tmp_path, 0))
    for number in reversed(range(40)):
        kept(ids[number], torch.full((1, 2, 2), number / 40), torch.full((1, 2, 2), 1 - number / 40))
    sizes = [len(images.read_images(path)[2]) for path in (tmp_path / "journal").glob("images-*")]
    assert sorted(sizes) == [8, 16, 16]
    gather(tmp_path)
    clean, final, stored = images.read_images(tmp_path / images.FILE)
    assert list(stored) == ids
    assert clean[:, 0, 0, 0].tolist() == pytest.approx([number / 40 for number in range(40)])
    assert final[:, 0, 0, 0].tolist() == pytest.approx([1 - number / 40 for number in range(40)])
    assert not list((tmp_path / "journal").glob("images-*"))
