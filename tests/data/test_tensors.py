"""Images from tensors, loaders and iterables."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from rfdlight.data import Digits, Images
from rfdlight.data.given import images_from
from rfdlight.errors import UserError

COUNT = 10
X = Digits().images("test").pixels[:COUNT]
Y = Digits().images("test").labels[:COUNT]
NAMES = [f"my/{number}" for number in range(COUNT)]


def items():
    return [(X[i], int(Y[i])) for i in range(COUNT)]


class Named(torch.utils.data.Dataset):
    def __len__(self):
        return COUNT

    def __getitem__(self, i):
        return X[i], Y[i], NAMES[i]


FORMS = {
    "tuple": lambda: (X, Y),
    "list": lambda: [X, Y],
    "arrays": lambda: (X.numpy(), Y.numpy()),
    "labels as a list": lambda: (X, Y.tolist()),
    "labels as one-hot rows": lambda: (X, torch.nn.functional.one_hot(Y, 10)),
    "tensor of a graph": lambda: (X, Y.float().requires_grad_()),
    "loader": lambda: DataLoader(TensorDataset(X, Y), batch_size=4),
    "batches": lambda: [(X[:3], Y[:3]), (X[3:], Y[3:])],
    "items": items,
    "generator": lambda: iter(items()),
    "dataset": lambda: TensorDataset(X, Y),
    "Pillow": lambda: [(Image.fromarray(x.permute(1, 2, 0).numpy()), y) for x, y in items()],
    "images": lambda: Images(X, Y, [f"image/{i:05d}" for i in range(COUNT)]),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_images(form):
    images = images_from(FORMS[form](), classes=10)
    assert torch.equal(images.pixels, X)
    assert (images.labels.dtype, images.labels.tolist()) == (torch.int64, Y.tolist())
    assert images.ids[:2] == ["image/00000", "image/00001"]


@pytest.mark.parametrize(
    "data",
    [
        (X, Y, NAMES),
        (X, Y, np.array(NAMES)),
        DataLoader(Named(), batch_size=3),
        DataLoader(Named(), batch_size=3, shuffle=True),
        Named(),
    ],
    ids=["tuple", "array", "loader", "shuffled", "items"],
)
def test_ids_stay_with_their_images(data):
    images = images_from(data)
    assert sorted(images.ids) == sorted(NAMES)
    for position, name in enumerate(images.ids):
        assert torch.equal(images.pixels[position], X[NAMES.index(name)])
        assert images.labels[position] == Y[NAMES.index(name)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_floats_in_the_unit_range_are_float32(dtype):
    pixels = images_from(((X / 255).to(dtype), Y)).pixels
    assert pixels.dtype == torch.float32
    torch.testing.assert_close(pixels, X / 255, rtol=0, atol=1e-3)


class Raising:
    def __iter__(self):
        yield X[0], 0
        raise KeyError("image")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ((X[:, 0], Y), ("(N, C, H, W)", "(10, 32, 32)")),
        ((X.permute(0, 2, 3, 1), Y), ("(10, 32, 32, 3)", "permute")),
        ((X[:0], Y[:0]), ("at least one",)),
        ((X / 255 * 2 - 1, Y), ("from -1", "normalisation")),
        ((X.float() * 0.9, Y), ("divide by",)),
        ((torch.where(X > 200, torch.nan, X / 255), Y), ("NaN",)),
        ((X, Y + 0.5), ("whole numbers",)),
        ((X, Y - 5), ("label -",)),
        ((X, Y + 5), ("label 1",)),
        ((X, Y[:3]), ("10 pixels, 3 labels",)),
        ((X, Y, NAMES[:3]), ("3 ids",)),
        ((X, Y, [*NAMES[:-1], NAMES[0]]), ("ids", "my/0 2 times")),
        ((X, Y, list(range(COUNT))), ("ids", "int")),
        ([], ("at least one",)),
        ([(X[0], 0), (X[1, :, :8], 1)], ("one shape",)),
        ([{"image": X[0], "label": 0}], ("dict",)),
        (DataLoader(TensorDataset(X, Y), shuffle=True), ("shuffles",)),
        (X, ("Tensor",)),
        (None, ("NoneType",)),
        (3, ("int",)),
        (Raising(), ("KeyError", "image")),
    ],
)
def test_other_data_is_refused_in_one_line_that_names_the_argument(data, words):
    with pytest.raises(UserError, match=r"^data: ") as caught:
        images_from(data, classes=10)
    line = str(caught.value)
    assert "\n" not in line
    assert all(word in line for word in words), line
