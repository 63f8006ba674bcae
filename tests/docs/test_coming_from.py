"""The blocks of the pages for users of other libraries: ours run, those of the others are Python."""

import ast

import pytest
from pages import ROOT, blocks

PAGES = sorted((ROOT / "docs/coming-from").glob("*.md"))
PEERS = {"torchattacks", "foolbox", "art", "autoattack", "robustbench"}


def imported(body):
    """The top packages that a block imports."""
    names = set()
    for node in ast.walk(ast.parse(body)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            names.add(node.module.partition(".")[0])
    return names


def test_every_peer_has_its_page():
    assert {page.stem for page in PAGES} == PEERS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_first_block_is_of_the_peer(page):
    first, *others = blocks(page, "python")
    assert page.stem in imported(first)
    assert others
    assert not any(imported(body) & PEERS for body in others)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_our_blocks_run(page, quick_runs, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    for body in blocks(page, "python")[1:]:
        own = {}
        exec(body, own)
        assert own.get("adversarial") is not None or own.get("robust") is not None
    assert capsys.readouterr().out
