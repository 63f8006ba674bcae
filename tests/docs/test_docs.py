"""What the pages say that can be checked: links, fields, flags, examples and arithmetic."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from configparser import ConfigParser
from math import comb
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import torch
import yaml
from packaging.version import Version
from pages import BLOCK, ROOT, blocks, page_named

import rfdlight
from rfdlight.cli import command_line
from rfdlight.cli import main as cli
from rfdlight.core import registry as names
from rfdlight.core.signatures import parameters
from rfdlight.evaluation.standard import StandardAttack
from rfdlight.records import consistency_checks as audit
from rfdlight.records import facts, records, summary

PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "CHANGELOG", "CONTRIBUTING", "SECURITY")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
FLAG = re.compile(r"(?<![\w-])--[a-z_]+(?:\.[a-z_]+)*")


def table(page: str, heading: str) -> dict[str, str]:
    """The rows of the first table below a heading, without its head: first cell to second."""
    below = page_named(page).read_text().split(f"\n{heading}\n", 1)[1]
    lines = re.search(r"(?:^\|.*\n)+", below, re.MULTILINE).group().splitlines()[2:]
    cells = [[cell.strip().strip("`") for cell in line.strip("|").split(" | ")] for line in lines]
    return {row[0]: row[1] for row in cells}


@pytest.mark.parametrize(
    ("heading", "kind"),
    [
        ("## records.jsonl", records.Record),
        ("## summary.json", summary.Summary),
        ("### run", facts.RunFacts),
    ],
)
def test_the_page_on_records_lists_exactly_the_fields(heading, kind):
    assert list(table("records.md", heading)) == list(kind.__struct_fields__)


def test_the_page_on_records_lists_exactly_the_checks_of_a_run():
    assert list(table("records.md", "### consistency checks")) == list(audit.CHECKS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page):
    targets = re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", page.read_text()))
    relative = [target.partition("#")[0] for target in targets if "://" not in target]
    assert [target for target in relative if target and not (page.parent / target).exists()] == []


class Parsers(cli.RFDLightCLI):
    """The command line's parsers, without what they would start."""

    def parse_arguments(self, parser: Any, args: Any) -> None:
        self.built = parser
        raise SystemExit


@pytest.fixture(scope="module")
def parser() -> Any:
    built = Parsers.__new__(Parsers)
    with pytest.raises(SystemExit):
        built.__init__([])
    return built.built


def commands(new: str) -> list[tuple[str, str]]:
    """The command lines of all pages that have a word of a pattern, no number and no path, that none before has."""
    found = []
    seen: set[str] = set()
    for page in PAGES:
        for line in re.findall(r"^rfdlight .*$", "\n".join(blocks(page, "sh")), re.MULTILINE):
            words = {word for word in shlex.split(line) if re.match(new, word) and not re.search(r"/|^[\d.]+$", word)}
            if words - seen:
                found.append((page.name, line))
            seen |= words
    return found


@pytest.fixture
def examples(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """What the pages call files of one's own."""
    (body,) = (body for body in blocks(ROOT / "README.md", "python") if "class UniformNoise" in body)
    (tmp_path / "my_uniform.py").write_text(body)
    (own,) = (body for body in blocks(page_named("use-your-own-data.md"), "python") if "class MyData" in body)
    (tmp_path / "my_data.py").write_text(own)
    (tmp_path / "runs/mine").mkdir(parents=True)
    (tmp_path / "runs/mine/config.yaml").write_text("attack: square\n")
    (tmp_path / "my_net-layer3.yaml").write_text("class_path: feature_noise\ninit_args: {sigma: 0.4, layers: layer3}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "examples"))
    yield
    for name in ("my_data", "my_uniform", "my_noise", "my_attack", "my_schedule", "my_criterion"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("new", ["--", pytest.param("", marks=pytest.mark.slow)], ids=["options", "words"])
def test_every_command_line_shown_is_understood(new, parser, examples, capsys):
    shown = commands(new)
    assert len(shown) >= 20
    wrong = []
    for page, line in shown:
        try:
            args = shlex.split(line)[1:]
            parser.parse_args(command_line.expand(args)[0])
        except SystemExit as end:  # --help
            if end.code:
                wrong.append((page, line))
        except ValueError as error:
            wrong.append((page, line, str(error)))
    assert wrong == []


def test_every_flag_named_in_the_text_exists(parser, examples):
    commands = parser._subcommands_action.choices.values()
    known = {flag for command in commands for action in command._actions for flag in action.option_strings}
    for kind, flag in names.FLAGS.items():
        for path in names.NAMES[kind].values():
            known |= {f"--{flag}.{parameter}" for parameter in parameters(resolve_name(path))}
    known |= {f"--attack.{parameter}" for parameter in parameters(StandardAttack)}
    known |= {"--attack.share"}  # of the examples
    unknown = []
    for page in PAGES:
        spans = re.findall(r"`([^`\n]+)`", BLOCK.sub("", page.read_text()))
        unknown += [(page.name, flag) for span in spans for flag in FLAG.findall(span) if flag not in known]
    assert unknown == []


@pytest.mark.parametrize(
    ("page", "example"),
    [
        ("write-a-defense.md", "my_noise.py"),
        ("write-a-defense.md", "my_schedule.py"),
        ("write-an-attack.md", "my_attack.py"),
        ("write-a-criterion.md", "my_criterion.py"),
    ],
)
def test_the_pages_show_the_examples_as_they_are(page, example):
    assert (ROOT / "docs" / "examples" / example).read_text() in blocks(page_named(page), "python")


def test_the_page_on_attacks_lists_every_attack_as_it_is():
    rows = [line for line in page_named("attacks.md").read_text().splitlines() if line.startswith("| `")]
    listed = {}
    for row in rows:
        name, *cells = (cell.strip() for cell in row.strip("|").split("|"))
        if len(cells) == 5:
            listed[name.strip("`")] = cells[:3]
    for name, path in names.NAMES["attack"].items():
        made = resolve_name(path)
        assert listed.pop(name) == [made.access, ", ".join(made.norms), "yes" if made.has_targeted_form else "no"]
    assert not listed


def test_the_noise_of_the_readme_has_standard_deviation_one(examples):
    import my_uniform

    torch.manual_seed(0)
    draws = my_uniform.UniformNoise(1.0).noise(torch.zeros(100_000))
    # The sample variance of a uniform variable has the variance (1.8 - 1) / n.
    assert abs(float(draws.var()) - 1) < 4 * (0.8 / 100_000) ** 0.5


def test_the_binomials_of_the_page_on_criteria():
    text = page_named("success-criteria.md").read_text()
    for q in (0.1, 0.2, 0.3):
        check = q * sum(comb(9, k) * q**k * (1 - q) ** (9 - k) for k in range(5, 10))
        after = " | ".join(f"{100 * (1 - (1 - check) ** checks):.1f} %" for checks in (25, 250, 1000))
        assert f"| {q} | {check:.4f} | {after} |" in text


@pytest.mark.slow
def test_the_python_of_the_readme_prints_the_table_that_is_shown(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (body,) = (body for body in blocks(ROOT / "README.md", "python") if "rfd.evaluate" in body)
    (shown,) = blocks(ROOT / "README.md", "text")
    exec(body, {})

    def words(text: str) -> list[str]:  # numbers may differ between machines
        return re.sub(r"[\d.,%+]+", "", text).split()

    assert words(capsys.readouterr().out) == words(shown)


def test_the_citation_has_the_version():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == rfdlight.__version__


def test_the_oldest_versions_are_the_lower_bounds():
    declared = ConfigParser()
    declared.read(ROOT / "setup.cfg")
    lists = declared["options"]["install_requires"] + declared["options.extras_require"]["test"]
    bounds = re.findall(r"^([\w-]+)(?:\[\w+\])?>=([\d.]+)", lists, re.MULTILINE)
    lines = (ROOT / "constraints-oldest.txt").read_text().splitlines()[1:]
    oldest = {name.lower(): Version(version) for name, version in (line.split("==") for line in lines)}
    tools = {"codespell", "mypy", "ruff"}  # checks of the source, with the versions of constraints.txt alone
    assert oldest == {name: Version(version) for name, version in bounds if name not in tools}


def test_every_path_that_contributors_are_sent_to_exists():
    spans = re.findall(r"`([\w./-]+)`", BLOCK.sub("", (ROOT / "CONTRIBUTING.md").read_text()))
    paths = [span for span in spans if re.match(r"(rfdlight|tests|docs)/", span) and "my_" not in span]
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []
