"""No command line, however wrong, ends in a traceback, in half a run, or in files of a run that was refused."""

from fuzz.command_lines import command_lines, hold
from fuzz.running import bounded
from hypothesis import given


@bounded(25)
@given(command_lines())
def test_any_command_line_ends_as_it_should(args):
    hold(args)
