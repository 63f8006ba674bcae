"""YAML files that are nearly right."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from .command_lines import HOSTILE, is_large
from .running import FAST, check, run, workplace

CONFIGS = Path(__file__).parents[2] / "configs"

SETTINGS = """\
seed_everything: 3
model:
  victim: nearest_mean.NearestMean
  budget: 3
  batch_size: 8
  final_evaluations: 40
  criterion: sequential
data:
  class_path: digits
  init_args: {num_images: 4, seed: 1}
attack:
  class_path: square
  init_args: {p: 0.1, eps: 0.2}
defense:
- class_path: input_noise
  init_args: {sigma: 0.1}
- logit_noise
"""
"""A configuration of `rfdlight test` that takes a fraction of a second."""

ATTACK = "class_path: square\ninit_args: {p: 0.1, eps: 0.2, norm: linf}\n"
DEFENSE = "class_path: feature_noise\ninit_args:\n  layers: [distances]\n  sigma: [0.1]\ncalibration: {drop: 0.01}\n"
EXPERIMENT = """\
common:
  model: {budget: 3, batch_size: 4}
  data: {class_path: digits, init_args: {num_images: 8}}
axes:
  victim:
    resnet8-digits: {model: {victim: "{victim}"}}
  defense:
    none: {}
    noise: {defense: input_noise}
  attack:
    rays: {attack: rays}
    square: {attack: {class_path: square, init_args: {p: 0.1}}}
leave_out:
- {defense: noise, attack: rays}
"""
"""Three cells."""

CHEAP = tuple(value for value in HOSTILE if not is_large(value))

FRAGMENTS = (
    b"\t", b"\n", b" ", b"  ", b":", b": ", b"- ", b"?", b"#", b"{", b"}", b"[", b"]", b",", b"'", b'"', b"|", b">",
    b"%", b"@",
    b"&a ", b"*a", b"<<: *a\n", b"&a", b"!!int ''", b"!!float ''", b"!!bool x", b"!!timestamp x", b"!!binary '*'",
    b"!!set {a}",
    b"!!omap [a: b]", b"!!python/name:os.system ", b"!!python/object/apply:os.getcwd []", b"!local ", b"---\n",
    b"...\n",
    b"%YAML 9.9\n---\n", b"%TAG ! x\n", b"\xef\xbb\xbf", b"\xff\xfe", b"\xff", b"\xc3", b"\xed\xb3\xbf", b"\x00",
    b"\x07",
    b"\x1b", b"\x7f", b"\xc2\x85", b"\xe2\x80\xa8", b"\r", b"[" * 400, b"{a: " * 400, b"- " * 400, b"9" * 5000,
    b"x" * 20_000,
    b"2001-99-99", b"a: &a [*a]\n", b"? [a, b]\n: c\n", b"? {a: b}\n: c\n", b"1: 2\n", b"null: 1\n", b"true: 1\n",
    b".nan: 1\n",
    b"a: &a {b: &b [1, 2]}\nc: *b\n",
)  # fmt: skip
"""Text that changes what stands around it."""

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
"""A few hundred bytes that hold a billion values."""


def _places(config: Any) -> list[tuple[Any, Any]]:
    """Every container of a configuration, however deep, with every key or index of it."""
    places, left = [], [config]
    while left:
        outer = left.pop()
        if isinstance(outer, dict | list):
            keys = list(outer) if isinstance(outer, dict) else range(len(outer))
            places += [(outer, key) for key in keys]
            left += [outer[key] for key in keys]
    return places


def _scalar(text: str) -> Any:
    """A value as YAML reads it, or the text where it reads none, or something that would nest or repeat."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text


@st.composite
def restructured(draw: st.DrawFn, text: str) -> bytes:
    """A configuration with a few values dropped, renamed, repeated elsewhere, or of another type."""
    wide = draw(st.booleans())
    try:
        changed = yaml.safe_dump(restructure(draw, yaml.safe_load(text)), sort_keys=False, allow_unicode=wide)
    except RecursionError:  # what was moved into itself is too deep to be copied or written
        return LAUGHS.encode()
    return changed.encode(errors="surrogateescape")


def restructure(draw: st.DrawFn, config: Any) -> Any:
    """Change a few values of what YAML or JSON holds."""
    for _ in range(draw(st.integers(1, 3))):
        places = _places(config)
        if not places:
            break
        outer, key = draw(st.sampled_from(places))
        how = draw(st.sampled_from(("drop", "value", "value", "rename", "wrap", "deep", "move", "itself")))
        if how == "itself":
            outer[key] = config
            break  # it can no longer be walked through
        if how == "drop":
            del outer[key]
        elif how == "value":
            outer[key] = _scalar(draw(st.sampled_from(CHEAP)))
        elif how == "rename" and isinstance(outer, dict):
            names = ("x", "", 3, None, True, 1.5, f"{key}x", str(key)[:-1], f"model.{key}", "init_args")
            outer[draw(st.sampled_from(names))] = outer.pop(key)
        elif how == "move":
            other, place = draw(st.sampled_from(places))
            other[place] = copy.deepcopy(outer[key])
        else:
            for _ in range(draw(st.sampled_from((2, 30, 60, 200))) if how == "deep" else 1):
                outer[key] = draw(st.sampled_from(([outer[key]], {"a": outer[key]}, {"class_path": outer[key]})))
    return config


@st.composite
def mistyped(draw: st.DrawFn, text: str) -> bytes:
    """The text of a configuration with something put in, taken out, repeated or exchanged."""
    content = text.encode()
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(content)))
        how = draw(st.sampled_from(("insert", "insert", "insert", "cut", "delete", "repeat", "exchange", "indent")))
        lines = content.splitlines(keepends=True) or [b""]
        at = draw(st.integers(0, len(lines) - 1))
        if how == "insert":
            content = content[:place] + draw(st.sampled_from(FRAGMENTS)) + content[place:]
            continue
        if how == "cut":
            content = content[:place]
            continue
        if how == "delete":
            del lines[at]
        elif how == "repeat":
            lines.insert(draw(st.integers(0, len(lines))), lines[at])
        elif how == "exchange":
            other = draw(st.integers(0, len(lines) - 1))
            lines[at], lines[other] = lines[other], lines[at]
        elif how == "indent":
            lines[at] = draw(st.sampled_from((b" ", b"  ", b"\t"))) + lines[at]
        content = b"".join(lines)
    return content


def configs(text: str) -> st.SearchStrategy[bytes]:
    """A configuration that is nearly the given one, or something else altogether."""
    odd = st.sampled_from(
        [LAUGHS, f"{text}{LAUGHS}", "", "null", "3", "[]", "- a", "x" * 10_000, "[" * 5000, "\ufeff" + text]
    )
    return st.one_of(restructured(text), mistyped(text), mistyped(text), odd.map(str.encode))


LAST = (
    "--data.num_images", "4", "--model.budget", "3", "--model.batch_size", "8", "--model.final_evaluations", "40",
    "--trainer.devices", "1", "--trainer.accelerator", "cpu", "--run", "run",
)  # fmt: skip
"""What would make a line take long is said once more, at its end."""

TAKEN = {
    "settings": (SETTINGS, ("test", "-c", "x.yaml", *LAST)),
    "attack": (ATTACK, ("test", "--attack", "x.yaml", *FAST, *LAST)),
    "defense": (DEFENSE, ("test", "--attack=square", "--defense", "x.yaml", *FAST, *LAST)),
    "experiment": (EXPERIMENT, ("sweep", "x.yaml", "--dry_run=true", "--num_images=2")),
    "fit": ("model: {network: resnet8}\n", ("fit", "-c", "x.yaml")),
}
"""For each kind of file, one that is right, and the command line that takes it."""


@st.composite
def cases(draw: st.DrawFn) -> tuple[bytes, tuple[str, ...]]:
    """A file that is nearly right and the command line that takes it."""
    text, line = TAKEN[draw(st.sampled_from(("settings", "settings", *TAKEN)))]
    if draw(st.integers(0, 4)) == 0:
        text = draw(shipped())
    return draw(configs(text)), line


def low_watermark(content: bytes, line: tuple[str, ...]) -> None:
    """Give a file to a command line, and check what comes of it."""
    with workplace() as folder:
        (folder / "x.yaml").write_bytes(content)
        check(run(folder, *line))


def shipped() -> st.SearchStrategy[str]:
    """The text of a configuration that comes with rfdlight."""
    return st.sampled_from(sorted(CONFIGS.rglob("*.yaml"))).map(Path.read_text)
