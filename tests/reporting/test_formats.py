import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hand import adversarial, record
from rich.console import Console

from rfdlight.cli.report import report_runs
from rfdlight.records.run_folders import load_runs
from rfdlight.reporting.formats import html_page, latex, markdown
from rfdlight.reporting.report import compile_report
from rfdlight.reporting.tables import run_html
from rfdlight.reporting.templates import escape_latex
from rfdlight.reporting.terminal import terminal

NASTY = r"""<b>&amp; 50%_of $x^2$ {a} ~#\ "q" 'r' `s` [t]|u*"""
PNG = b"\x89PNG of a picture"


@pytest.fixture
def nasty(write):
    """Two runs whose names, defense and options hold every sign that means something somewhere."""
    name = NASTY.replace("/", "")
    return [
        write(name, [adversarial(0, 3), record(1)], options=NASTY, victim=NASTY),
        write("b<i>", [record(0), record(1)], defense=NASTY, options=NASTY, victim=NASTY),
    ]


# The terminal


def shown(compiled, width=80, details=False):
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        for part in terminal(compiled, width, details):
            console.print(part)
    return capture.get()


def lines_of(text):
    return [" ".join(line.split()) for line in text.splitlines()]


def test_the_grid_on_the_terminal(four):
    lines = lines_of(shown(compile_report(load_runs(four))))
    assert lines[0] == "robust accuracy square rays worst case"
    assert lines[1] == "after queries clean 30 30 30"
    assert lines[3:10] == [
        "digits_small",
        "A noise 100.0% 75.0% 75.0% 50.0%",
        "51.0-100.0 30.1-95.4 30.1-95.4 15.0-85.0",
        "of 2 runs",
        "B undefended 100.0% 25.0% 75.0% 0.0%",
        "51.0-100.0 4.6-69.9 30.1-95.4 0.0-49.0",
        "of 2 runs",
    ]


def test_the_comparisons_on_the_terminal_name_the_methods_by_their_letters(four):
    lines = lines_of(shown(compile_report(load_runs(four))))
    # The undefended one is B, and the first of each pair.
    assert "digits_small: square, 30 A - B 2 : 0 +50.0 -16.6 to +83.2 0.5 1" in lines
    assert "digits_small: rays, 30 A - B 1 : 1 0.0 -56.6 to +56.6 1 1" in lines


def test_compared_attacks_on_the_terminal_have_their_names(four):
    lines = lines_of(shown(compile_report(load_runs(four), subject="attacks")))
    # On B, undefended, square leaves an image and rays the three others: (3.5 - 1.5) / 6 +- 1.96 * sqrt(5 - 4 / 6) / 6.
    assert "digits_small: rays - square 3 : 1 +50.0 -34.7 to +100.0 0.62 1" in lines
    assert "digits_small: rays - square 1 : 1 0.0 -56.6 to +56.6 1 1" in lines


def test_three_attacks_and_their_worst_case_fit_one_table_of_80_columns(write):
    names = [
        write(f"{attack}-{defense}", [record(i) for i in range(3)], attack=attack, defense=defense)
        for defense in ("none", "FeatureNoise sigma 0.4 at the output of layer1, layer2, layer3")
        for attack in ("random_noise", "square", "zo_signsgd")
    ]
    text = shown(compile_report(load_runs(names)))
    assert len(re.findall("^after queries", text, re.MULTILINE)) == 1
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text


@pytest.mark.parametrize("width", [60, 100])
def test_many_columns_fold_into_several_tables(write, width):
    attacks = ("random_noise", "square", "signhunt", "bandits", "zo_signsgd", "simba", "boundary")
    long = "samples 100, step 0.005, momentum 0.9"
    names = [
        write(f"{attack}{i}", [record(0)], attack=attack, defense=defense, options=long)
        for attack in attacks
        for i, defense in enumerate(("none", "InputNoise sigma 0.1 on the pixels"))
    ]
    text = shown(compile_report(load_runs(names), [5]), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for attack in attacks:
        assert re.search(rf"\b{attack},", text)


def test_the_details_are_shown_for_one_run_or_with_the_option(four, capsys):
    report_runs(four[:1])
    assert "criterion rows per attack row" in capsys.readouterr().out
    report_runs(four)
    assert "criterion rows per attack row" not in capsys.readouterr().out
    report_runs(four, details=True)
    assert capsys.readouterr().out.count("criterion rows per attack row") == 2


def test_nothing_is_markup_on_the_terminal(nasty):
    assert shown(compile_report(load_runs(nasty)), 400, details=True).count("[t]|u*") >= 4


# Markdown


def test_markdown_escapes_what_would_mean_something(nasty):
    text = markdown(compile_report(load_runs(nasty)))
    escaped = r"""\<b>\&amp; 50%\_of $x^2$ {a} ~#\\ "q" 'r' \`s\` \[t]\|u\*"""
    assert escaped.replace(r"%\_", "%_") in text.replace(r"%\_", "%_")
    assert "<b>" not in text.replace(r"\<b>", "")
    widths = [len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("|")]
    assert widths == [5] * 4 + [12] * 3 + [4] * (len(widths) - 7)


# LaTeX


def test_latex_shows_the_grid_in_the_shape_of_a_papers_table(four):
    text = latex(compile_report(load_runs(four), [10, 30]))
    assert r"\multicolumn{2}{c}{square} & \multicolumn{2}{c}{rays} & " in text
    assert r"\cmidrule(lr){3-4}\cmidrule(lr){5-6}\cmidrule(lr){7-8}" in text
    assert r"defense & clean & 10 & 30 & 10 & 30 & 10 & 30 \\" in text
    assert r"B undefended & \rfdcell{100.0}{51.0--100.0} & \rfdcell{50.0}{15.0--85.0} & \rfdcell{25.0}" in text
    assert r"A $-$ B & $2$ : $0$ & $+50.0$ & $-16.6$ to $+83.2$ & $0.5$ & $1$ \\" in text


def parts_of(text):
    """The comments of a LaTeX file, and the caption of each of its tables."""
    comments = [line.removeprefix("% - ") for line in text.splitlines() if line.startswith("% - ")]
    return comments, re.findall(r"\\caption\{(.*)\}", text)


def test_latex_has_every_caveat_as_a_comment_and_the_warnings_in_the_captions(write):
    found = [record(0, billed=31, attack=31), record(1)]
    names = [
        write("torn", found, num_images=9, complete=False, failed={"digits/test/0002": "NaN"}),
        write("own", [record(0), record(3)], defense="50% noise", precision="bfloat16"),
    ]
    compiled = compile_report(load_runs(names))
    comments, captions = parts_of(latex(compiled))
    assert comments == compiled.caveats
    assert len(comments) > 6
    kinds = ["torn: WRONG: ", "NOT COMPARABLE: own and torn ", "torn: INCOMPLETE: ", "torn: BIASED: ", "torn: FAILED: "]
    assert len(compiled.warnings) == len(kinds)
    assert all(map(str.startswith, compiled.warnings, kinds))
    grid, pairs = captions
    warnings = escape_latex(" ".join(compiled.warnings))
    assert grid.startswith(
        rf"Robust accuracy in \%. {warnings} Attacked in linf eps 0.2, 2 images, budget 30 queries per image. Cell:"
    )
    assert pairs.startswith(f"Defenses on the same images. {warnings} B - A:")


def test_latex_of_sound_runs_has_no_warning_in_its_captions(four):
    grid, pairs = parts_of(latex(compile_report(load_runs(four))))[1]
    assert grid.startswith(
        r"Robust accuracy in \%. Attacked in linf eps 0.2, 4 images, budget 30 queries per image. Cell:"
    )
    assert pairs.startswith("Defenses on the same images. B - A:")


def test_a_caveat_of_several_lines_is_a_comment_to_its_end(four):
    compiled = compile_report(load_runs(four))
    text = latex(replace(compiled, caveats=["one\n\\input{two}"]))
    assert [line for line in text.splitlines() if "two" in line] == [r"% - one \input{two}"]


def test_latex_escapes_every_sign_of_its_own():
    assert escape_latex(r"<&_%$#{}~^\|[`") == (
        r"\textless{}\&\_\%\$\#\{\}\textasciitilde{}\textasciicircum{}\textbackslash{}\textbar{}{[}\textasciigrave{}"
    )


def test_every_row_of_a_latex_table_has_its_columns(nasty):
    for body in re.findall(r"\\toprule(.*?)\\bottomrule", latex(compile_report(load_runs(nasty))), re.DOTALL):
        rows = [row for row in body.split("\n") if row.endswith(r" \\") and not row.startswith(r"\multicolumn")]
        assert len({len(re.findall(r"(?<!\\)&", row)) for row in rows}) == 1
        assert len(rows) >= 2


def test_the_braces_and_environments_of_the_latex_tables_are_balanced(nasty):
    text = re.sub(r"^%.*$", "", latex(compile_report(load_runs(nasty))), flags=re.MULTILINE)
    unescaped = re.sub(r"\\[\\{}$&%]", "", text)
    assert unescaped.count("{") == unescaped.count("}") > 50
    assert unescaped.count("$") % 2 == 0
    for name in ("table", "tabular"):
        assert text.count(f"\\begin{{{name}}}") == text.count(f"\\end{{{name}}}") >= 2
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 2


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no LaTeX here")
def test_latex_compiles(nasty, tmp_path):
    (tmp_path / "report.tex").write_text(latex(compile_report(load_runs(nasty))))
    (tmp_path / "paper.tex").write_text(
        r"\documentclass{article}\usepackage{booktabs,array}\begin{document}\input{report.tex}\end{document}"
    )
    line = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]


# HTML


class Page(HTMLParser):
    """Collects the tags that are open, every attribute, and the text."""

    VOID = {"meta", "img", "br"}

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], set(), [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += attributes
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_is_whole_and_loads_nothing(four):
    compiled = compile_report(load_runs(four))
    text = html_page(compiled, PNG, [])
    page = Page(text)
    assert page.open == []
    assert not page.tags & {"script", "link", "iframe", "object", "base"}
    addresses = [value for name, value in page.attributes if name in ("src", "href", "srcset", "data", "action")]
    assert addresses
    assert all(value.startswith("data:image/png;base64,") for value in addresses)
    assert not re.search(r"https?:|url\(|@import", text)


def test_the_page_has_every_part(four):
    compiled = compile_report(load_runs(four))
    page = Page(html_page(compiled, PNG, []))
    text = page.text
    for caveat in compiled.caveats:
        assert caveat in text
    for label, cells in compiled.details:
        assert label.strip() in text
        assert all(cell in text for cell in cells)
    assert text.count("seed_everything: 0\n") == 4
    row = ["undefended", "noise", "1", "0", "2", "1", "+50.0", "-16.6 to +83.2", "0.5", "1"]
    cells = [part for part in text if part.strip()]
    start = next(i for i in range(len(cells)) if cells[i : i + 2] == row[:2])
    assert cells[start : start + len(row)] == row
    assert "Attacked images" not in text


def test_a_name_is_neither_markup_nor_a_template(write):
    name = """</style><script>x</script> {{ 7 * 7 }} {% for x in y %} << 7 * 7 >> " onload="x"""
    facts = {"defense": name, "victim": name, "options": name, "attack": name}
    compiled = compile_report(load_runs([write("a", [record(0)], **facts), write("b", [record(0)], victim=name)]))
    page = Page(html_page(compiled, PNG, []))
    assert page.open == []
    assert "script" not in page.tags
    known = {"alt", "charset", "class", "colspan", "content", "lang", "name", "src"}
    assert {attribute for attribute, _ in page.attributes} <= known
    assert "".join(page.text).count(name) >= 4
    assert escape_latex(name) in latex(compiled)
    assert "49" not in latex(compiled)
    table = Page(run_html(compiled.runs[0].summary))
    assert table.open == []
    assert "script" not in table.tags
    assert name in "".join(table.text)


def test_names_are_text_on_the_page(nasty):
    compiled = compile_report(load_runs(nasty))
    page = Page(html_page(compiled, PNG, []))
    assert page.open == []
    assert not page.tags & {"b<i", "i"}
    assert "".join(page.text).count(NASTY) >= 6
    assert "b<i>: config.yaml" in page.text
