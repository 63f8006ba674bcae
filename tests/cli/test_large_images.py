"""The whole path at 224 pixels on networks with random weights: layers, fine-tuning, an attack behind a defense."""

import json

import numpy as np
import pytest
from PIL import Image

CLASSES = {"cat": 0, "dog": 2}
"""The channel that is dark in the images of a class."""


@pytest.fixture
def pets(elsewhere):
    """A folder of images of 260 x 300."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 2)):
        for name, dark in CLASSES.items():
            folder = elsewhere / "pets" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (30, 26, 3), dtype=np.uint8)
                pixels[..., dark] //= 3
                Image.fromarray(pixels).resize((260, 300)).save(folder / f"{number}.jpg")
    return elsewhere


@pytest.mark.parametrize(
    ("network", "points", "crop"),
    [
        pytest.param("vit_tiny_patch16_224", "[blocks.0,", 0.9, marks=pytest.mark.slow),
        pytest.param("resnet50", "[maxpool,layer1,layer2,layer3]", 0.95, marks=pytest.mark.slow),
    ],
)
def test_fine_tuning_and_an_attack_within_a_bound_on_memory(pets, command, network, points, crop):
    assert f"default: --defense.layers '{points}" in command("layers", f"timm:{network}").out

    data = "--data folder --data.root pets --data.num_images 4"
    fit = f"fit {data} --data.batch_size 4 --model.network {network} --trainer.max_steps 2 --run fitted"
    fitted = command(*f"{fit} --model.optimizer torch.optim.SGD --model.optimizer.lr 0.001".split())
    assert fitted.status == 0
    card = json.loads((pets / "fitted/victim.json").read_text())
    assert (card["network"], card["num_classes"], card["image_shape"]) == (network, 2, [3, 224, 224])
    assert (card["preparation"]["size"], card["preparation"]["crop"]) == (224, crop)

    # An image of square takes up some 1.4 MB: three of them fit, in forward passes of two rows.
    test = f"test {data} --attack square --model.victim fitted/victim.json --model.budget 5 --run tested"
    cheap = "--model.criterion single --model.final_evaluations 40 --model.batch_size 2 "
    cheap += "--model.memory 0.0042 --model.sanity_checks false"
    tested = command(*f"{test} {cheap} --defense feature_noise --defense.sigma 0.1".split())
    assert tested.status == 0
    assert "up to 3 at a time" in tested.out
    records = [json.loads(line) for line in (pets / "tested/records.jsonl").read_text().splitlines()]
    assert sorted(record["id"] for record in records) == [
        f"folder/test/{name}/{number}.jpg" for name in CLASSES for number in range(2)
    ]
    assert all(record["linf"] <= 0.05 + 1e-6 for record in records)
