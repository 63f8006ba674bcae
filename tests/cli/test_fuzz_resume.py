"""A damaged run directory is refused, or what is damaged in it is left out: no record comes out of it changed."""

import pytest
from fuzz import record_files
from fuzz.running import bounded, workplace
from hypothesis import given
from hypothesis import strategies as st


@pytest.fixture(scope="module")
def original():
    with workplace() as folder:
        return record_files.make(folder)


@bounded(12)
@given(data=st.data())
def test_any_damage_is_refused_or_left_out(original, data):
    record_files.hold(data, original)


@pytest.mark.parametrize("finished", [True, False])
def test_the_run_that_is_damaged_is_whole_before(finished, original):
    with workplace() as folder:
        record_files.write(folder / "run", original.whole if finished else original.killed)
        assert record_files.resume(folder, original).status == 0
        assert record_files.report(folder, original).status == 0
