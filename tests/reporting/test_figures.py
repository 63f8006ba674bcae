import io
import re
import zlib

import matplotlib
import matplotlib.image
import pytest

from rfdlight.errors import UserError
from rfdlight.reporting import figures


def figure(label="a line"):
    drawn = figures.begin(3, 2)
    drawn.add_subplot().plot([0, 1], [0, 1], label=label)
    drawn.legend()
    return drawn


def test_a_figure_is_written_as_pixels_and_beside_them_as_lines(tmp_path):
    figures.save(figure(), tmp_path / "curve.png")
    assert {path.name for path in tmp_path.iterdir()} == {"curve.png", "curve.pdf"}
    pixels = matplotlib.image.imread(io.BytesIO((tmp_path / "curve.png").read_bytes()), "png")
    assert pixels.shape[:2] == (300, 450)
    pdf = (tmp_path / "curve.pdf").read_bytes()
    assert pdf.startswith(b"%PDF-")
    assert re.search(rb"/MediaBox \[ ?0 0 216 144 ?\]", pdf)
    assert b"/Subtype /Image" not in pdf
    streams = [zlib.decompress(body) for body in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", pdf, re.DOTALL)]
    assert any(re.search(rb"[\d.]+ [\d.]+ m\s+[\d.]+ [\d.]+ l", stream) for stream in streams)


@pytest.mark.parametrize("kind", ["png", "pdf"])
def test_the_same_figure_is_the_same_file(kind):
    content = figures.encoded(figure(), kind)
    assert content == figures.encoded(figure(), kind)
    assert b"Date" not in content


def test_papers_are_given_no_type_3_fonts_and_the_settings_of_others_are_left_alone():
    before = dict(matplotlib.rcParams)
    pdf = figures.encoded(figure(), "pdf")
    assert b"/Subtype /Type3" not in pdf
    assert b"/FontFile2" in pdf
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("label", ["évaluation $x_1", "σ 0.5 at λ", "\U0001f600", "-" * 300])
def test_whatever_a_run_is_called_has_a_pdf(label):
    assert figures.encoded(figure(label.replace("$", r"\$")), "pdf").endswith(b"%%EOF\n")


@pytest.mark.parametrize("name", ["curve.png", "curve.pdf"])
def test_a_file_that_cannot_be_written_is_named(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=f"cannot write .*{name}"):
        figures.save(figure(), tmp_path / "curve.png")
    assert not list(tmp_path.glob("partial-*"))
