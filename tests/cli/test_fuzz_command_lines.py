"""No command line, however wrong, ends in a traceback, in half a run, or in files of a run that was refused."""

import pytest
from fuzz.command_lines import command_lines, low_watermark
from fuzz.running import SMALL, bounded, check, run, workplace
from hypothesis import given

from rfdlight.errors import legible


@bounded(4)
@given(command_lines())
def test_any_command_line_ends_as_it_should(args):
    low_watermark(args)


@pytest.mark.parametrize("word", ["a\nb", "\x1b[2J", "a/" * 3000])
def test_a_word_that_no_terminal_or_no_disk_takes_is_told_in_one_short_line(word):
    for line in (["report", word], [word], ["test", "--attack", word], ["test", "--resume", word]):
        with workplace() as folder:
            outcome = run(folder, *line)
        check(outcome)
        assert outcome.status in (2, 3)
        assert outcome.err[:-1].isprintable()
        assert len(outcome.err) < 2100


def test_a_line_of_two_thousand_signs_is_cut_in_its_middle():
    assert legible("a" * 2000) == "a" * 2000
    assert legible("a" * 5000 + "b" * 5000) == "a" * 1000 + " ... " + "b" * 1000


@pytest.mark.slow
def test_a_run_may_have_any_name_that_is_text():
    name = "- [bold]\n$x$ {a: b} \u202e1/2"
    with workplace() as folder:
        (folder / name).parent.mkdir()
        outcome = run(folder, "test", "--attack", "square", *SMALL, f"--run={name}")
        check(outcome)
        assert outcome.status == 0
        for line in (["test", f"--resume={name}"], ["report", "--output", "report", "--", name]):
            assert run(folder, *line).status == 0
