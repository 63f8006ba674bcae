import json

import pytest
import torch
from safetensors import safe_open

from rfdlight.results.images import KeptImages

IDS = [f"{number:03d}" for number in range(10)]


@pytest.mark.parametrize(("most", "chosen"), [(0, []), (1, ["000"]), (4, ["000", "003", "006", "009"]), (99, IDS)])
def test_the_chosen_are_spread_evenly_and_never_more(most, chosen, tmp_path):
    assert KeptImages(IDS, most, tmp_path).chosen == chosen


def test_only_the_chosen_that_came_are_stored_in_their_order(tmp_path):
    for image_id in ("006", "001", "000"):
        kept = KeptImages(IDS, 4, tmp_path)  # as if each image came in an attempt of its own
        x = torch.full((1, 2, 2), float(image_id))
        point = x + 0.5
        kept(image_id, x, point)
        for row in (x, point):
            row.zero_()  # the pool uses its rows again
    with safe_open(tmp_path / "images.safetensors", "pt") as file:
        assert json.loads(file.metadata()["ids"]) == ["000", "006"]
        assert file.get_tensor("clean")[:, 0, 0, 0].tolist() == [0.0, 6.0]
        assert file.get_tensor("adversarial")[:, 0, 0, 0].tolist() == [0.5, 6.5]


def test_nothing_is_stored_of_images_that_were_not_chosen(tmp_path):
    image = torch.zeros(1, 2, 2)
    KeptImages(IDS, 0, tmp_path)("000", image, image)
    KeptImages(IDS, 4, tmp_path)("001", image, image)
    assert not any(tmp_path.iterdir())


def test_a_damaged_file_is_begun_anew(tmp_path):
    (tmp_path / "images.safetensors").write_bytes(b"no tensors")
    KeptImages(IDS, 4, tmp_path)("003", torch.zeros(1, 2, 2), torch.ones(1, 2, 2))
    with safe_open(tmp_path / "images.safetensors", "pt") as file:
        assert json.loads(file.metadata()["ids"]) == ["003"]
