"""Which images targeted attacks start from."""

import pytest
import torch
from PIL import Image
from torch import nn

from rfdlight.data.sources import ImageFiles, Images, UnreadableImageError
from rfdlight.engine import Oracle
from rfdlight.errors import UserError
from rfdlight.evaluation.clean_answers import find_starting_points


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
    pixels, classes = find_starting_points(oracle, images(levels, labels), 3, torch.device("cpu"))
    assert classes.tolist() == [0] * 5 + [1, 1, 2]
    assert (pixels[:, 0, 0, 0] * 255).round().long().tolist() == classes.tolist()
    assert pixels.dtype == torch.float32
    # 11 images in padded passes of 4.
    assert oracle.forwarded == 12


@pytest.mark.parametrize(("levels", "labels", "shown"), [([0, 1, 0], [0, 1, 2], 1), ([0, 1], [0, 1], 0)])
def test_a_class_without_a_right_image_is_refused_in_one_line(levels, labels, shown):
    with pytest.raises(UserError, match=f"on none of the first {shown} test images of class 2$"):
        find_starting_points(Oracle(BySum(), 4), images(levels, labels), 3, torch.device("cpu"))


class Fussy(BySum):
    """Raises at level 7, answers NaN at level 8, and says all else as `BySum`."""

    def forward(self, x):
        level = (x[:, 0, 0, 0] * 255).round()
        if (level == 7).any():
            raise ValueError("too hard")
        return torch.where((level == 8)[:, None], torch.nan, super().forward(x))


def test_a_pass_in_which_the_victim_fails_has_no_start():
    labels, levels = [0, 1, 1, 1, 2, 2, 2, 2, 2], [0, 7, 8, 1, 7, 7, 2, 8, 2]
    oracle = Oracle(Fussy(), 1)
    pixels, classes = find_starting_points(oracle, images(levels, labels), 3, torch.device("cpu"))
    assert classes.tolist() == [0, 1, 2, 2]
    assert (pixels[:, 0, 0, 0] * 255).round().long().tolist() == classes.tolist()


def test_a_class_that_the_victim_fails_on_alone_is_refused_in_one_line():
    with pytest.raises(UserError, match=r"on none of the first 2 test images of class 1$"):
        find_starting_points(Oracle(Fussy(), 1), images([0, 7, 8, 2], [0, 1, 1, 2]), 3, torch.device("cpu"))


def files(tmp_path, adversarial, unreadable):
    """Two images each of the classes 0 to 2, some of which are broken."""
    labels = [0, 0, 1, 1, 2, 2]
    paths = [tmp_path / f"{i}.png" for i in range(6)]
    for i, path in enumerate(paths):
        Image.new("RGB", (2, 2), (labels[i],) * 3).save(path)
        if i in adversarial:
            path.write_bytes(b"no image")
    return ImageFiles(paths, torch.tensor(labels), [path.name for path in paths], unreadable)


@pytest.mark.parametrize(("batch_size", "unreadable"), [(1, "quarantine"), (4, "skip")])
def test_an_image_that_cannot_be_read_is_no_start_and_is_told(tmp_path, capsys, batch_size, unreadable):
    found = find_starting_points(
        Oracle(BySum(), batch_size), files(tmp_path, {0, 3}, unreadable), 3, torch.device("cpu")
    )
    assert found[1].tolist() == [0, 1, 2, 2]
    assert (found[0][:, 0, 0, 0] * 255).round().long().tolist() == [0, 1, 2, 2]
    told = capsys.readouterr().err
    assert [told.count(str(tmp_path / f"{i}.png")) for i in range(6)] == [1, 0, 0, 1, 0, 0]


def test_a_start_that_cannot_be_read_ends_the_run_where_that_was_asked_for(tmp_path):
    with pytest.raises(UnreadableImageError, match=r"3\.png"):
        find_starting_points(Oracle(BySum(), 1), files(tmp_path, {3}, "refuse"), 3, torch.device("cpu"))
