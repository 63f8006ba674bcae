import json

import pytest
import torch
from safetensors import safe_open

from rfdlight.results.images import KeptImages

IDS = [f"{number:03d}" for number in range(10)]


@pytest.mark.parametrize(("most", "chosen"), [(0, []), (1, ["000"]), (4, ["000", "003", "006", "009"]), (99, IDS)])
def test_the_chosen_are_spread_evenly_and_never_more(most, chosen):
    assert KeptImages(IDS, most).chosen == chosen


def test_only_the_chosen_that_came_are_stored_in_their_order(tmp_path):
    kept = KeptImages(IDS, 4)
    for image_id in ("006", "001", "000"):
        x = torch.full((1, 2, 2), float(image_id))
        point = x + 0.5
        kept(image_id, x, point)
        for row in (x, point):
            row.zero_()  # the pool uses its rows again
    kept.save(tmp_path)
    with safe_open(tmp_path / "images.safetensors", "pt") as file:
        assert json.loads(file.metadata()["ids"]) == ["000", "006"]
        assert file.get_tensor("clean")[:, 0, 0, 0].tolist() == [0.0, 6.0]
        assert file.get_tensor("adversarial")[:, 0, 0, 0].tolist() == [0.5, 6.5]


def test_nothing_is_stored_of_no_images(tmp_path):
    KeptImages(IDS, 0).save(tmp_path)
    KeptImages([], 4).save(tmp_path)
    KeptImages(IDS, 4).save(tmp_path)
    assert not (tmp_path / "images.safetensors").exists()
