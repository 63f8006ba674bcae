import pytest
import torch

from rfdlight.data.base import ImageData
from rfdlight.data.preparation import random_crop_flip
from rfdlight.data.sources import Images
from rfdlight.errors import UserError


class Toy(ImageData):
    """Four grey images of three classes, with the labels that a test gives."""

    name = "toy"
    num_classes = 3
    mean = std = (0.5,)
    labels = (0, 1, 2, 0)
    names = ("0", "1", "2", "3")
    loads = 0

    def load(self, split):
        self.loads += 1
        pixels = torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 1, 2, 2)
        return Images(pixels, torch.tensor(self.labels), [f"toy/{split}/{name}" for name in self.names])


@pytest.mark.parametrize(("labels", "wrong"), [((0, 1, 3, 2), 3), ((0, -1, 2, 2), -1)])
def test_a_label_outside_the_classes_is_refused(labels, wrong):
    toy = Toy(num_images=1)
    toy.labels = labels
    with pytest.raises(UserError, match=f"^toy, test split: labels: .* to 2, got the label {wrong}$"):
        toy.images("test")


@pytest.mark.parametrize("split", ["train", "test"])
def test_images_with_the_same_id_are_refused(split):
    toy = Toy(num_images=1)
    toy.names = ("0", "1", "0", "2")
    with pytest.raises(UserError, match=f"^toy, {split} split: ids: .* got toy/{split}/0 2 times; rename them$"):
        toy.images(split)


def test_a_split_is_read_once():
    toy = Toy(num_images=2)
    toy.setup("test")
    toy.attacked()
    toy.held_out()
    assert toy.loads == 1


def test_a_data_module_without_load_says_so():
    with pytest.raises(UserError, match=r"^ImageData must define load\(split\)"):
        ImageData().images("test")


@pytest.mark.parametrize("mirror", [True, False])
def test_a_cropped_image_is_a_shift_of_the_padded_one_or_its_mirror_image(mirror):
    torch.manual_seed(0)
    pixels = torch.randint(1, 256, (300, 2, 5, 6), dtype=torch.uint8)
    cropped = random_crop_flip(pixels, padding=2, mirror=mirror)
    padded = torch.nn.functional.pad(pixels, (2,) * 4)
    seen = set()
    for image, source in zip(cropped, padded, strict=True):
        seen.add(
            next(
                (top, left, flipped)
                for top in range(5)
                for left in range(5)
                for flipped in (False, True)
                if torch.equal(image, window(source, top, left, flipped))
            )
        )
    assert {flipped for _, _, flipped in seen} == ({False, True} if mirror else {False})
    # 300 draws miss a given one of the 25 shifts with probability (24/25)^300 = 5e-6.
    assert {(top, left) for top, left, _ in seen} == {(top, left) for top in range(5) for left in range(5)}


def window(padded, top, left, flipped):
    cut = padded[:, top : top + 5, left : left + 6]
    return cut.flip(2) if flipped else cut


class Given(Toy):
    """What a user's `load` returns."""

    given: object = None

    def load(self, split):
        return self.given


PIXELS = torch.randint(256, (4, 1, 5, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "pixels", [PIXELS.permute(0, 2, 3, 1), PIXELS[:, 0], PIXELS.float() / 255, PIXELS.long(), list(PIXELS.numpy())]
)
def test_other_forms_of_pixels_are_the_same_images(pixels):
    data = Given()
    data.given = pixels, [0, 1, 2, 0]
    x, y, ids = next(iter(data.test_dataloader()))
    assert torch.equal(x, PIXELS / 255)
    assert y.tolist() == [0, 1, 2, 0]
    assert ids == [f"toy/test/{number:05d}" for number in range(4)]


class RandomItems(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, position):
        return torch.rand(1, 5, 6), 0


def test_a_dataset_whose_images_are_random_is_refused():
    data = Given()
    data.given = RandomItems()
    with pytest.raises(UserError, match="image 0 differs when it is read again"):
        data.images("test")
