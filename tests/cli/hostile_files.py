"""Files that somebody hands to a user in order to do harm, and the command lines that meet them.

Whatever code is in them would make the file `canary`.
"""

import io
import json
import pickle
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import yaml
from fuzz.record_files import sealed
from hand import facts, record
from msgspec import to_builtins
from PIL import Image
from torch import nn

from rfdlight import _io
from rfdlight.cli import main as cli
from rfdlight.records.schema import SCHEMA

Build = Callable[[Path, Path], object]
"""Writes below a folder what would make the canary, the second path."""


class Case(NamedTuple):
    build: Build
    line: str
    expected: str


class Code:
    """Makes the canary when it is unpickled."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self):
        return Path.touch, (self.canary,)


def in_torch(canary: Path, **options) -> bytes:
    file = io.BytesIO()
    torch.save({"state_dict": Code(canary)}, file, **options)
    return file.getvalue()


def in_zip(content: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3")
    return file.getvalue()


def in_tar(canary: Path) -> bytes:
    """As torch wrote before version 0.2."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in (("storages", 0), ("tensors", 0), ("pickle", Code(canary))):
            member = tarfile.TarInfo(name)
            pickled = pickle.dumps(content, 2)
            member.size = len(pickled)
            archive.addfile(member, io.BytesIO(pickled))
    return file.getvalue()


def in_script(canary: Path) -> bytes:
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Identity()), file)
    return file.getvalue()


def header(text: bytes, rest: bytes = b"") -> bytes:
    """As a safetensors file begins."""
    return struct.pack("<Q", len(text)) + text + rest


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *more: bytes) -> bytes:
    """A picture of two hundred bytes, whatever size it says."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    end = chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + end


def picture(kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (32, 32)).save(file, kind)
    return file.getvalue()


def file(name: str, content: bytes | Callable[[Path], bytes]) -> Build:
    made = content if callable(content) else lambda canary: content
    return lambda folder, canary: (folder / name).write_bytes(made(canary))


def text(name: str, content: str) -> Build:
    """A text file, in which CANARY stands for the path."""
    return lambda folder, canary: (folder / name).write_text(content.replace("CANARY", str(canary)))


def link(name: str, target: str) -> Build:
    return lambda folder, canary: (folder / name).symlink_to(target)


def both(first: Build, second: Build) -> Build:
    return lambda folder, canary: (first(folder, canary), second(folder, canary))


def copy_victim(folder: Path, canary: Path) -> None:
    """The victim of the digits, as `x.json` and `x.safetensors`."""
    for suffix in (".json", ".safetensors"):
        shutil.copy(
            _io.find_shipped("checkpoints", "resnet8-digits", ".json").with_suffix(suffix), folder / f"x{suffix}"
        )


def card(**facts) -> Build:
    """The same with other facts on its card."""

    def change(folder: Path, canary: Path) -> None:
        path = folder / "x.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | facts))

    return both(copy_victim, change)


def images(content: bytes | Build) -> Build:
    """Data of two classes, the first image of which is hostile."""

    def write(folder: Path, canary: Path) -> None:
        for name in ("cat", "dog"):
            (folder / "root/test" / name).mkdir(parents=True)
            (folder / "root/test" / name / f"{name}.png").write_bytes(picture("PNG"))
        path = folder / "root/test/cat/cat.png"
        path.unlink()
        path.write_bytes(content) if isinstance(content, bytes) else content(path.parent, canary)

    return write


def archive(folder: Path, canary: Path) -> None:
    """The folder of the official CIFAR-10, whose files are pickles."""
    place = folder / "root/cifar-10-batches-py"
    place.mkdir(parents=True)
    for name in ("batches.meta", "test_batch", *(f"data_batch_{i}" for i in range(1, 6))):
        (place / name).write_bytes(pickle.dumps(Code(canary)))


RECORD = to_builtins(record(0, clean_evaluations=1, final_evaluations=1))
FACTS = to_builtins(facts(complete=False, num_images=1))


def run(more: Build = lambda folder, canary: None, records: bytes = sealed(RECORD) + b"\n", **changes) -> Build:
    """A run directory `run` of one image, with other facts, and with more files below it."""

    def write(folder: Path, canary: Path) -> None:
        place = folder / "run"
        place.mkdir()
        (place / "config.yaml").write_text("seed_everything: 0\n")
        (place / "records.jsonl").write_bytes(records)
        (place / "summary.json").write_text(json.dumps({"schema": SCHEMA, "run": FACTS | changes}))
        more(place, canary)

    return write


def stopped(config: str | Callable[[], str] = "attack: rays\n", more: Build = lambda folder, canary: None) -> Build:
    """A run directory to be gone on with."""

    def write(folder: Path, canary: Path) -> None:
        (folder / "run").mkdir()
        content = config if isinstance(config, str) else config()
        (folder / "run/config.yaml").write_text(content.replace("CANARY", str(canary)))
        more(folder / "run", canary)

    return write


def parsed(*options: str) -> Callable[[], str]:
    """The configuration of a command line, as a run directory holds it; it is made when its test runs."""
    return lambda: yaml.safe_dump(cli.make(["test", "--attack", "rays", *options])._settings())


STEPS = list(zip("abcdefgh", "bcdefghi", strict=True))
BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 10)}]\n" for a, b in STEPS)
MERGED = "a: &a {" + ",".join(f"k{i}: 1" for i in range(10)) + "}\n"
MERGED += "".join(f"{b}: &{b} {{<<: [{','.join([f'*{a}'] * 10)}]}}\n" for a, b in STEPS)
DEEP = "attack: " + 5000 * "[" + 5000 * "]" + "\n"
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\nshowpage\n"

TEST = "test --attack rays --data.num_images 2 "
CARD = TEST + "--model.victim x.json"
CHECKPOINT = TEST + "--model.victim timm:resnet8 --model.checkpoint "
CIFAR = TEST + "--data cifar10 --data.root root"
FIT = "fit --model.network resnet8 --trainer.max_epochs 1 "
POPEN = "{class_path: subprocess.Popen, init_args: {args: [touch, CANARY]}}"

NO_SAFETENSORS = " is not a readable safetensors file: {anything}"
OTHER_FORMAT = " is neither safetensors nor a file of torch.save; it is damaged or of another format"
CODE = " cannot be read as tensors without running code: {anything}; save the state dict alone, best as safetensors"
NOT_SAFE = " is not a readable safetensors file: Error while deserializing: "
NO_IMAGE = (
    "cannot read the image root/test/cat/cat.png: expected PNG, JPEG, WebP or BMP, it is damaged or of another format"
)
TOO_LARGE = "cannot read the image root/test/cat/cat.png: expected at most 89,478,485 pixels, got more"
CUT_OFF = "cannot read the image root/test/cat/cat.png: image file is truncated{anything}"
TOO_MUCH_TEXT = "cannot read the image root/test/cat/cat.png: Decompressed data too large{anything}"
IRREGULAR = "cannot read the image root/test/cat/cat.png: it is no regular file"


def of_python(option: str, path: str) -> str:
    """How the line begins that refuses a class or function of Python itself."""
    return f"{option}: Importing '{path}' is not allowed, denied by {{anything}}"


NO_VICTIM = (
    " is of Python itself; expected a class or a function of yours that makes a module, in a file whose name Python "
    "does not have"
)
TAG = "could not determine a constructor for the tag 'tag:yaml.org,2002:python/"
TOO_MANY = "expected at most 100,000 values, with every alias written out, got more"
LINK = " is a link; expected a file of the run's own, as rfdlight test writes it"


def pickled(protocol: int) -> Callable[[Path], bytes]:
    return lambda canary: pickle.dumps({"state_dict": Code(canary)}, protocol)


def tagged(name: str, key: str, line: str, most: int = 1) -> dict[str, Case]:
    """A file of YAML with a tag that would call something, and with more that would name or import it."""
    return {
        f"{tag.partition(':')[0]} in {name}": Case(
            text("x.yaml", f"{key}: !!python/{tag}\n"),
            line,
            f'cannot read the config x.yaml: {TAG}{tag.partition(" ")[0]}\' in "<unicode string>", line 1, column '
            f"{len(key) + 3}: {key}: !!python/{shown} ^",
        )
        for tag, shown in (
            ('object/apply:os.system ["touch CANARY"]', "object/apply:os.system ..."),
            ("name:os.system", "name:os.system"),
            ("module:os", "module:os"),
        )[:most]
    }
