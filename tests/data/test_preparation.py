"""How images come to the size of a network."""

import pytest
import torch
from harness import others_slow
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from rfdlight.data.digits import Digits
from rfdlight.data.given import GivenImages
from rfdlight.data.preparation import Preparation
from rfdlight.data.sources import Images
from rfdlight.errors import UserError

MODES = {"nearest": v2.InterpolationMode.NEAREST, "bilinear": v2.InterpolationMode.BILINEAR}
MODES["bicubic"] = v2.InterpolationMode.BICUBIC


def drawn(height, width, count=2):
    return torch.randint(256, (count, 3, height, width), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize(("size", "crop"), [(24, 0.875), (64, 1.0)])
@pytest.mark.parametrize(("height", "width"), [(30, 47), (51, 33)])
def test_it_is_torchvisions_resize_and_centre_crop(interpolation, size, crop, height, width):
    usual = v2.Compose([v2.Resize(int(size / crop), MODES[interpolation], antialias=True), v2.CenterCrop(size)])
    pixels = drawn(height, width)
    prepared = Preparation(size, interpolation, crop)(pixels)
    assert prepared.shape == (2, 3, size, size)
    assert prepared.dtype == torch.uint8
    assert torch.equal(prepared, usual(pixels))


@pytest.mark.parametrize(("size", "crop"), [(24, 0.875), (64, 1.0)])
def test_squashed_images_lose_their_proportions_and_nothing_else(size, crop):
    side = int(size / crop)
    usual = v2.Compose([v2.Resize((side, side), MODES["bicubic"], antialias=True), v2.CenterCrop(size)])
    pixels = drawn(30, 47)
    prepared = Preparation(size, crop=crop, crop_mode="squash")(pixels)
    assert torch.equal(prepared, usual(pixels))
    assert not torch.equal(prepared, Preparation(size, crop=crop)(pixels))


def test_an_image_that_fits_is_left_as_it_is():
    pixels = drawn(32, 32)
    assert Preparation(32)(pixels) is pixels
    assert not torch.equal(Preparation(32, crop=0.9)(pixels), pixels)


@pytest.mark.parametrize(
    ("size", "crop", "line"),
    [
        (0, 1.0, "data.size must be at least 1, got 0"),
        (8, 0.0, "the crop of a preparation must lie in (0, 1], got 0.0"),
        (8, 1.1, "the crop of a preparation must lie in (0, 1], got 1.1"),
    ],
)
def test_numbers_out_of_range_are_refused(size, crop, line):
    with pytest.raises(UserError) as caught:
        Preparation(size, crop=crop)
    assert str(caught.value) == line


def test_an_unknown_crop_mode_is_refused():
    with pytest.raises(UserError, match=r"^unknown crop_mode of a preparation 'border'"):
        Preparation(8, crop_mode="border")


def test_images_are_prepared_as_they_are_read_and_alike_alone_or_together():
    images = Images(drawn(32, 32, 5), torch.zeros(5, dtype=torch.int64), list("abcde"))
    enlarged = images.prepared(Preparation(48))
    together = enlarged.read([0, 1, 2, 3, 4])
    assert together.shape == (5, 3, 48, 48)
    assert all(torch.equal(enlarged.read([i])[0], together[i]) for i in range(5))
    assert images.read([0]).shape == (1, 3, 32, 32), "the stored images are left alone"
    assert torch.equal(enlarged.take([4, 1]).read([0, 1]), together[[4, 1]])


def test_images_that_are_given_to_another_evaluation_stay_prepared():
    source = Images(drawn(40, 30, 3), torch.tensor([0, 1, 0]), list("abc")).prepared(Preparation(24))
    given = GivenImages(source, 2)
    assert given.image_shape == (3, 24, 24)
    assert torch.equal(given.attacked().read([0, 1, 2]), source.read([0, 1, 2]))


def test_a_size_of_the_user_wins_over_the_networks_but_not_over_its_interpolation():
    data = Digits(size=40)
    assert data.image_shape == (3, 40, 40)
    data.prepare(Preparation(64, "bilinear", 0.9))
    assert data.preparation == Preparation(40, "bilinear", 0.9)
    free = Digits()
    assert free.image_shape == (3, 32, 32)
    free.prepare(Preparation(64, "bilinear", 0.9))
    assert free.image_shape == (3, 64, 64)
    x, _, _ = next(iter(free.train_dataloader()))
    assert x.shape[1:] == (3, 64, 64)


@pytest.mark.parametrize("validation", others_slow([0, 10, 55], 2))
def test_held_out_images_are_balanced_and_never_trained_on(validation):
    data = Digits(validation=validation, batch_size=32)
    train, held = data.images("train"), data.images("validation")
    assert len(held) == validation
    assert not set(train.ids) & set(held.ids)
    assert set(train.ids) | set(held.ids) == set(Digits().images("train").ids)
    assert not set(held.ids) & set(data.images("test").ids)
    counts = torch.bincount(held.labels, minlength=10)
    assert counts.max() - counts.min() <= 1
    seen = {image for _, _, ids in data.train_dataloader() for image in ids}
    assert not seen & set(held.ids)
    loader = data.val_dataloader()
    assert (isinstance(loader, DataLoader) and len(loader)) if validation else loader == []


@pytest.mark.parametrize(
    ("validation", "line"),
    [
        (-1, "data.validation must be at least 0, got -1"),
        (1198, "data.validation must be below the 1198 training images, got 1198"),
    ],
)
def test_too_many_or_too_few_held_out_images_are_refused(validation, line):
    with pytest.raises(UserError) as caught:
        Digits(validation=validation).images("train")
    assert str(caught.value) == line
