"""The notebooks of the tutorials: their stored outputs are clean, and running them anew prints the same text."""

import json
import re
from pathlib import Path

import pytest

TUTORIALS = Path(__file__).parents[2] / "docs" / "tutorials"
NOTEBOOKS = sorted(TUTORIALS.glob("*.ipynb"))
PATHS = re.compile(r"(?<![\w./:~])/(?:home|root|tmp|work|Users|usr|opt|var|mnt|private)\b|[A-Z]:\\\\")
GARBAGE = re.compile(r"\x1b|\r(?!\n)|Warning:|\d+%\|")  # colours, drawn lines, warnings of Python, progress bars
WIDTH = 110
"""Columns of a line of output that a page shows."""


def cells(path, kind):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def texts(cell):
    """The texts of a cell's outputs, streams as one: how they are cut depends on the time."""
    outputs = cell["outputs"]
    streams = "".join("".join(output["text"]) for output in outputs if output["output_type"] == "stream")
    return [streams, *("".join(output["data"].get("text/plain", "")) for output in outputs if "data" in output)]


def words(text):
    """The words of a text without numbers and bars, which differ between machines."""
    return re.sub(r"[-+<─]?\d[\d.,%:]*(?:e-?\d+)?|─", "", text).split()


def test_there_are_three():
    names = [path.name for path in NOTEBOOKS]
    assert names == ["attack-your-network.ipynb", "defend-and-measure.ipynb", "sweep-to-table.ipynb"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_stored_outputs_are_clean(path):
    assert json.loads(path.read_text())["metadata"]["kernelspec"]["name"] == "python3"
    code = cells(path, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert len(outputs) >= 5
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    for cell in code:
        for text in ["".join(cell["source"]), *texts(cell)]:
            assert not PATHS.search(text), text
            assert not GARBAGE.search(text), text
        lines = texts(cell)[0].splitlines()
        assert [line for line in lines if len(line) > WIDTH and "\\" not in line] == []  # but for LaTeX


def test_the_prose_is_short():
    prose = ["".join(cell["source"]) for path in NOTEBOOKS for cell in cells(path, "markdown")]
    assert 500 < sum(len(text.split()) for text in prose) <= 2500


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_running_it_anew_prints_the_same_but_for_numbers(path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    monkeypatch.setenv("PYTHONWARNINGS", "ignore:IProgress")  # of tqdm, which some extras bring, without ipywidgets
    again = nbformat.read(path, as_version=4)
    place = {"metadata": {"path": str(TUTORIALS)}}
    nbclient.NotebookClient(again, timeout=600, kernel_name="python3", resources=place).execute()
    after = [cell for cell in again.cells if cell.cell_type == "code"]
    for stored, ran in zip(cells(path, "code"), after, strict=True):
        assert [words(text) for text in texts(ran)] == [words(text) for text in texts(stored)], ran.source
