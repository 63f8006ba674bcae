"""The real CIFAR-10: run where RFDLIGHT_DATA has it. (The other tests of this folder hide that variable.)"""

import pytest
from pixels import NEEDS_PIXELS, ROOT

from rfdlight.data.cifar10 import CIFAR10

pytestmark = NEEDS_PIXELS


def _means(images) -> list[float]:
    return images.pixels.sum((0, 2, 3)).div(len(images) * 32 * 32).tolist()


def test_the_test_split_is_whole_and_balanced():
    data = CIFAR10(root=ROOT, num_images=1000)
    test = data.images("test")
    assert len(test) == 10_000
    assert data.image_shape == (3, 32, 32)
    assert len(set(test.ids)) == 10_000
    assert test.labels.bincount().tolist() == [1000] * 10
    assert data.attacked().labels.bincount().tolist() == [100] * 10
    assert len(data.held_out()) == 9000


@pytest.mark.slow
def test_the_training_split_has_the_official_channel_means():
    train = CIFAR10(root=ROOT).images("train")
    assert train.labels.bincount().tolist() == [5000] * 10
    assert _means(train) == pytest.approx([125.307, 122.950, 113.865], abs=5e-4)
