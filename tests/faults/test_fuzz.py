"""Thousands of command lines, YAML files and damaged run directories; a few of them are tried every day."""

import pytest
from fuzz import command_lines, configs, record_files
from fuzz.running import many, workplace
from hypothesis import given
from hypothesis import strategies as st

pytestmark = pytest.mark.faults


@many(3000)
@given(command_lines.command_lines())
def test_any_command_line_ends_as_it_should(args):
    command_lines.low_watermark(args)


@many(2000)
@given(configs.cases())
def test_any_config_ends_as_it_should(case):
    configs.low_watermark(*case)


@pytest.fixture(scope="module")
def original():
    with workplace() as folder:
        return record_files.make(folder)


@many(1000)
@given(data=st.data())
def test_any_damage_is_refused_or_left_out(original, data):
    record_files.low_watermark(data, original)
