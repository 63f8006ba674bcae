"""Command lines that are nearly right."""

from __future__ import annotations

import functools
from contextlib import suppress
from pkgutil import resolve_name
from typing import Any

from hypothesis import strategies as st

from rfdlight.cli import main as cli
from rfdlight.cli.command_parser import POSITIONALS
from rfdlight.core.registry import FLAGS, NAMES
from rfdlight.core.signatures import parameters

from .running import SMALL, check, run, workplace

HOSTILE = (
    "", " ", "null", "true", "-1", "0", "1", "1.5", "-0.0", "1e999", "-1e999", "1e-999", ".nan", ".inf", "nan", "inf",
    "[]", "{}", "[[]]", "[null]", "{a: b}", "{a: {b: c}}", "[1, 2", "{", "}", "]", ": :", "- 1", "? a", "&a [*a]",
    "*a", "a: &a [*a]", "<<", "!!python/name:os.system", "!!python/object/apply:os.getcwd []", "!!binary x", "!x y",
    "%YAML 9", "---", "...", "|", ">", "'", '"', "`", "@", "#", "\t", "\n", "a\nb", "\r", "\x00", "a\x00b.yaml",
    "\x1b[2J",
    "\x7f", "\ufeff", "\u202e", "é", "\udcff", "\U0001f4a5", "ﬀ", "２", "١", "~", "~root", "..", ".", "/", "//",
    "/dev/null",
    "/dev/full", "/proc/self/mem", "here.yaml", "here", "nowhere.yaml", "nowhere/at/all", "nearest_mean.py",
    "nearest_mean", "nearest_mean.NearestMean", "nearest_mean.Nothing", "os.system", "os.path", "builtins.print",
    "torch.nn.Linear", "...", "a..b", ".a", "a.", "timm:", "timm:resnet88", "timm:..", "--", "-", "--run", "-c", "=",
    "2147483648", "9223372036854775807", "9223372036854775808", "1" * 30, "9" * 5000, "x" * 5000, "a/" * 3000,
    "[" * 3000,
    "{a: " * 1500, "0x10", "0o7", "1_000", "12:30:45", "2001-01-01", "2001-99-99", "rays", "square", "rayz", "digits",
    "feature_noise", "input_noise", "[input_noise, feature_noise]", "[input_noise, nothing]", "[input_noise, 3]",
    "{class_path: input_noise}", "{class_path: input_noise, init_args: {sigma: x}}", "{class_path: 3}",
    "{class_path: rays, init_args: 3}", "{class_path: rays, init_args: {eps: .nan}}", "{class_path: []}",
    "{init_args: {}}", "layer*", "*", "[*]", "conv1", "distances", "[distances]", "cpu", "auto", "l2", "linf",
    "float64", "32",
)  # fmt: skip
"""Values to which no option is entitled, and some to which one is."""

# Numbers that are right for these options are left out where the work, or the memory, would grow with them; what no
# machine has is refused at once.
COSTLY = (
    "model.budget", "model.batch_size", "model.final_evaluations", "model.eot", "data.num_images", "data.size",
    "data.batch_size",
    "data.workers", "image_size",
)  # fmt: skip

# Not fuzzed: these start processes or ask for other hardware, train, load what another file says, or choose where
# Lightning's own files go; none of it is a matter of a line's form.
LEFT_OUT = (
    "trainer.devices", "trainer.num_nodes", "trainer.accelerator", "trainer.strategy", "trainer.max_epochs",
    "trainer.max_time",
    "trainer.plugins", "data.download", "model.pretrained",
)  # fmt: skip


class _Parsers(cli.RFDLightCLI):
    """The command line's parsers, without what they would start."""

    def parse_arguments(self, parser: Any, args: Any) -> None:
        self.built = parser
        raise SystemExit


@functools.cache
def flags() -> dict[str, list[str]]:
    """The options of each command, with those of all components, without their dashes."""
    built = _Parsers.__new__(_Parsers)
    with suppress(SystemExit):
        built.__init__([])
    found = {}
    for command, parser in built.built._subcommands_action.choices.items():
        own = [flag[2:] for action in parser._actions for flag in action.option_strings if flag.startswith("--")]
        for kind, flag in FLAGS.items():
            if flag in own:
                arguments = {name for path in NAMES[kind].values() for name in parameters(resolve_name(path))}
                own += [f"{flag}.{name}" for name in sorted(arguments)]
                own += [f"{flag}.{part}" for part in ("class_path", "init_args", "init_args.eps", "dict_kwargs")]
        found[command] = [flag for flag in own if flag.rstrip("+") not in LEFT_OUT]
    return found


def is_large(value: str) -> bool:
    """Whether a value is a number that makes work, and yet one that a machine can take."""
    try:
        return 8 < float(value) < 2**63
    except ValueError:
        return False


@st.composite
def options(draw: st.DrawFn, command: str) -> list[str]:
    """One option as a user might type it: as it is, misspelt, cut, joined, or without its value."""
    flag = draw(st.sampled_from(flags()[command]))
    value = draw(st.sampled_from(HOSTILE))
    if is_large(value) and (flag in COSTLY or flag.startswith("attack.")):
        value = "2"
    typed = f"--{flag}"
    form = draw(
        st.sampled_from(("apart", "apart", "apart", "joined", "alone", "cut", "misspelt", "appended", "single"))
    )
    if form == "alone":
        return [typed]
    if form == "joined":
        return [f"{typed}={value}"]
    if form == "cut":
        typed = typed[: draw(st.integers(1, len(typed)))]
    elif form == "misspelt":
        place = draw(st.integers(2, len(typed)))
        typed = typed[:place] + draw(st.sampled_from((".", "x", "é", " ", "=", "-", "\x00"))) + typed[place:]
    elif form == "appended":
        typed += "+"
    elif form == "single":
        typed = typed[1:]
    return [typed, value]


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """A command, mostly `test`, with some options in any order."""
    command = draw(st.sampled_from(("test",) * 6 + tuple(flags())))
    # With two wrong options, the first is all that is looked at.
    parts = draw(st.lists(options(command), max_size=draw(st.sampled_from((1, 1, 2, 4)))))
    if command == "test":
        parts.insert(0, [f"--attack={draw(st.sampled_from(('square', 'rays', *NAMES['attack'])))}", *SMALL])
        if draw(st.booleans()):
            parts.append(
                [
                    "--defense",
                    draw(st.sampled_from(tuple(NAMES["defense"]))),
                ]
            )
        if draw(st.booleans()):
            parts.append(["--run", "run"])
    elif command in POSITIONALS and draw(st.integers(0, 3)):
        parts.append([draw(st.sampled_from((*HOSTILE, "resnet8-digits", "nearest_mean.NearestMean")))])
    if command == "sweep":
        parts.append(["--dry_run=true"])  # it would run what it is given, where that happens to be right
    if draw(st.integers(0, 19)) == 0:
        command = draw(st.sampled_from((*HOSTILE, "tets", "--help", "--version", "--config", "-c")))
    parts = draw(st.permutations(parts)) if draw(st.booleans()) else parts
    return [command, *(word for part in parts for word in part)]


def low_watermark(args: list[str]) -> None:
    """Run a command line beside a configuration and a folder that someone uses, and check what comes of it."""
    with workplace() as folder:
        (folder / "here.yaml").write_text("model: {budget: 2}\n")
        (folder / "here").mkdir()
        (folder / "here/records.jsonl").write_text("someone's work\n")
        check(run(folder, *args))
