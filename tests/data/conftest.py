"""Hand-made CIFAR-10 images in both of the forms that are read."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import cifar

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.fixture(autouse=True)
def no_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """No data root of the machine's own."""
    monkeypatch.delenv("RFDLIGHT_DATA", raising=False)


@pytest.fixture
def drawn() -> list[tuple[str, int, np.ndarray]]:
    """File name, label and pixels (32, 32, 3) of two images per class, in no sorted order."""
    draw = np.random.default_rng(3)
    images = []
    for label in [*range(10)] * 2:
        name = f"{CLASSES[label]}_s_{draw.integers(10**6):06d}.png"
        images.append((name, label, draw.integers(256, size=(32, 32, 3), dtype="uint8")))
    return [images[i] for i in draw.permutation(len(images))]


@pytest.fixture
def tree(tmp_path: Path, drawn: list[tuple[str, int, np.ndarray]]) -> Path:
    """A data root with the drawn images as class folders of both splits."""
    root = tmp_path / "tree"
    for split in ("train", "test"):
        for name, label, pixels in drawn:
            path = root / split / CLASSES[label] / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return root


@pytest.fixture
def archive(tmp_path: Path, drawn: list[tuple[str, int, np.ndarray]], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root with the drawn images as the official archive stores them, its checksums waived."""
    monkeypatch.setattr(cifar, "check_integrity", lambda path, md5=None: Path(path).is_file())
    return write_archive(tmp_path / "archive", drawn)


def write_archive(root: Path, drawn: list[tuple[str, int, np.ndarray]]) -> Path:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list(CLASSES)}))
    parts = {"test_batch": drawn, **{f"data_batch_{i + 1}": drawn[4 * i : 4 * i + 4] for i in range(5)}}
    for file_name, part in parts.items():
        rows = np.stack([pixels.transpose(2, 0, 1).reshape(-1) for _, _, pixels in part])
        names, labels = [name for name, _, _ in part], [label for _, label, _ in part]
        (folder / file_name).write_bytes(pickle.dumps({"data": rows, "labels": labels, "filenames": names}))
    return root
