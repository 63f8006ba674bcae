"""Which images targeted attacks start from."""

import pytest
import torch
from torch import nn

from rfdlight.data.base import Images
from rfdlight.engine import Oracle
from rfdlight.errors import UserError
from rfdlight.modules.starts import find_starts


class BySum(nn.Module):
    """The class of an image is its first pixel's level, except that level 200 hides in each class."""

    def forward(self, x):
        level = (x[:, 0, 0, 0] * 255).round().long()
        return nn.functional.one_hot(level.clamp_max(2), 3).float()


def images(levels, labels):
    pixels = torch.tensor(levels, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    return Images(pixels, torch.tensor(labels), [str(i) for i in range(len(labels))])


def test_starts_are_right_images_of_every_class_at_most_five_each():
    labels = [0] * 7 + [1, 1, 1] + [2]
    levels = [0] * 7 + [0, 1, 1] + [2]
    oracle = Oracle(BySum(), 4)
    pixels, classes = find_starts(oracle, images(levels, labels), 3, torch.device("cpu"))
    assert classes.tolist() == [0] * 5 + [1, 1, 2]
    assert (pixels[:, 0, 0, 0] * 255).round().long().tolist() == classes.tolist()
    assert pixels.dtype == torch.float32
    # 11 images in padded passes of 4.
    assert oracle.forwarded == 12


@pytest.mark.parametrize(("levels", "labels", "shown"), [([0, 1, 0], [0, 1, 2], 1), ([0, 1], [0, 1], 0)])
def test_a_class_without_a_right_image_is_refused_in_one_line(levels, labels, shown):
    with pytest.raises(UserError, match=f"on none of the first {shown} test images of class 2$"):
        find_starts(Oracle(BySum(), 4), images(levels, labels), 3, torch.device("cpu"))
