import pytest
import torch
from sklearn.datasets import load_digits

from rfdlight.data.digits import Digits
from rfdlight.errors import UserError


@pytest.fixture(scope="module")
def digits() -> Digits:
    return Digits(num_images=50, batch_size=20)


@pytest.mark.parametrize(("split", "size"), [("train", 1198), ("test", 599)])
def test_splits_have_their_sizes_shapes_and_every_class(digits, split, size):
    images = digits.images(split)
    assert images.pixels.shape == (size, 3, 32, 32)
    assert images.pixels.dtype == torch.uint8
    assert images.labels.dtype == torch.int64
    assert len(images) == len(set(images.ids)) == size
    assert images.labels.unique().tolist() == list(range(10))


def test_the_splits_share_no_image_and_together_have_all(digits):
    indices = [{int(name.rsplit("/", 1)[1]) for name in digits.images(split).ids} for split in ("train", "test")]
    assert not indices[0] & indices[1]
    assert indices[0] | indices[1] == set(range(1797))


def test_an_id_leads_to_its_image_and_label(digits):
    stored = load_digits()
    test = digits.images("test")
    assert test.ids[:2] == ["digits/test/0000", "digits/test/0003"]
    for position in (0, 17, 598):
        index = int(test.ids[position].rsplit("/", 1)[1])
        assert int(test.labels[position]) == stored.target[index]
        # The 8 x 8 original in 0 .. 16 is the mean of 4 x 4 blocks, but for the blur at their borders.
        blocks = test.pixels[position, 0].float().unflatten(0, (8, 4)).unflatten(2, (8, 4)).mean((1, 3)) / 255 * 16
        original = torch.from_numpy(stored.images[index]).float()
        assert torch.corrcoef(torch.stack([blocks.flatten(), original.flatten()]))[0, 1] > 0.97


def test_the_channels_are_equal_and_use_the_whole_range(digits):
    pixels = digits.images("test").pixels
    assert torch.equal(pixels[:, 0], pixels[:, 1])
    assert torch.equal(pixels[:, 0], pixels[:, 2])
    assert (int(pixels.min()), int(pixels.max())) == (0, 255)
    assert len(pixels.unique()) > 200


def test_batches_are_pixels_in_the_unit_range_labels_and_ids(digits):
    batches = list(digits.test_dataloader())
    assert [len(y) for _, y, _ in batches] == [20, 20, 10]
    attacked = digits.attacked()
    assert [name for _, _, ids in batches for name in ids] == attacked.ids == sorted(attacked.ids)
    x = torch.cat([x for x, _, _ in batches])
    assert x.dtype == torch.float32
    assert torch.equal(x, attacked.pixels.float() / 255)
    assert torch.equal(torch.cat([y for _, y, _ in batches]), attacked.labels)


def test_the_attacked_subset_is_balanced_and_the_held_out_images_are_the_rest(digits):
    attacked, held_out = digits.attacked(), digits.held_out()
    assert attacked.labels.bincount().tolist() == [5] * 10
    assert not set(attacked.ids) & set(held_out.ids)
    assert set(attacked.ids) | set(held_out.ids) == set(digits.images("test").ids)


def test_a_training_epoch_sees_whole_batches_of_distinct_images():
    digits = Digits(batch_size=100)
    torch.manual_seed(0)
    batches = list(digits.train_dataloader())
    ids = [name for _, _, batch in batches for name in batch]
    assert [len(y) for _, y, _ in batches] == [100] * 11
    assert len(set(ids)) == 1100
    assert ids != sorted(ids)
    label_of = dict(zip(digits.images("train").ids, digits.images("train").labels.tolist(), strict=True))
    for _, y, batch in batches:
        assert [label_of[name] for name in batch] == y.tolist()


def test_augmentation_changes_pixels_and_not_the_stored_split(digits):
    pixels = digits.images("train").pixels[:64].clone()
    torch.manual_seed(0)
    augmented = digits.augment(pixels)
    assert augmented.shape == pixels.shape
    assert augmented.dtype == torch.uint8
    assert not torch.equal(augmented, pixels)
    assert torch.equal(pixels, digits.images("train").pixels[:64])


@pytest.mark.parametrize("name", ["num_images", "batch_size"])
def test_sizes_below_one_are_refused(name):
    with pytest.raises(UserError, match=f"^data.{name} must be at least 1, got 0$"):
        Digits(**{name: 0})


def test_a_training_batch_larger_than_the_data_is_refused_before_a_run():
    with pytest.raises(UserError, match=r"^data.batch_size must be at most the 1198 training images, got 1199$"):
        Digits(batch_size=1199).setup("fit")
    Digits(batch_size=1198).setup("fit")


def test_too_many_attacked_images_are_refused_before_a_run():
    with pytest.raises(UserError, match=r"^data.num_images must be from 1 to 599 for this data, got 600$"):
        Digits(num_images=600).setup("test")
