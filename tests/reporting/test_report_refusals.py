"""Runs and options that `rfdlight report` refuses, and what it says then."""

import json

import msgspec
import pytest
from hand import facts, record

from rfdlight.cli.report import report_runs
from rfdlight.errors import UserError


def refusal(*args):
    with pytest.raises(UserError) as caught:
        report_runs(*args)
    return str(caught.value)


def test_refusals_name_what_is_wrong(write, tmp_path):
    run = write("square-digits", [record(0)])
    assert refusal([]) == "runs: expected at least one run directory, got none"
    assert refusal(["elsewhere"]) == "expected a run directory, got elsewhere, which is no folder"
    assert refusal([run, f"./{run}"]) == "the run square-digits is given twice"
    assert refusal([run], run) == (
        "output: expected a folder for the report, got the run directory square-digits; choose another"
    )
    (tmp_path / "file").write_text("")
    assert refusal([run], "file") == "cannot write the report to file: File exists"


def test_budgets_out_of_range_are_refused_before_anything_is_written(two, tmp_path):
    assert refusal(two, "out", [10, 31]) == "budgets: expected at most 30, the budget of bare, got 31"
    assert refusal(two, "out", 31) == "budgets: expected at most 30, the budget of bare, got 31"
    assert refusal(two, "out", [0]) == "budgets: expected numbers of queries of at least 1, got [0]"
    assert refusal(two, "out", []) == "budgets: expected numbers of queries of at least 1, got []"
    assert not (tmp_path / "out").exists()


def test_an_image_that_is_recorded_twice_is_refused(write):
    run = write("run", [record(0), record(1), record(1)])
    assert refusal([run]) == "run/records.jsonl holds an image twice"


def test_more_images_than_were_asked_for_are_refused(write):
    run = write("run", [record(i) for i in range(4)], num_images=3)
    assert refusal([run]) == "run/records.jsonl holds 4 images, of a run of 3"


def test_a_file_of_the_report_that_cannot_be_written_is_named_and_what_was_there_stays(two, tmp_path):
    (tmp_path / "out" / "report.md").mkdir(parents=True)
    (tmp_path / "out" / "report.tex").write_text("before")
    assert refusal(two[:1], "out") == "cannot write out/report.md: Is a directory"
    assert (tmp_path / "out" / "report.tex").read_text() == "before"


@pytest.mark.parametrize("output", [None, "out"])
def test_a_folder_that_is_no_run_is_refused_before_anything_is_written(write, tmp_path, output):
    run = write("run", [record(0)])
    (tmp_path / "run" / "summary.json").unlink()
    assert refusal([run], output) == "run is no run directory: it lacks summary.json"
    (tmp_path / "run" / "config.yaml").unlink()
    assert refusal([run], output) == "run is no run directory: it lacks config.yaml, summary.json"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("stored", ["", "[]", '{"schema": 4}', '{"schema": 4, "run": 3}', '{"schema": "2"}', '"run"'])
def test_a_broken_summary_is_refused(write, tmp_path, stored):
    run = write("run", [record(0)])
    (tmp_path / "run" / "summary.json").write_text(stored)
    assert refusal([run]).startswith("run/summary.json: ")


@pytest.mark.parametrize(("stored", "version"), [("{}", 1), ('{"run": {"judge": "paper"}}', 1), ('{"schema": 5}', 5)])
def test_a_run_of_another_schema_is_refused_with_both_versions(write, tmp_path, stored, version):
    run = write("run", [record(0)])
    (tmp_path / "run" / "summary.json").write_text(stored)
    told = f"run/summary.json: expected a run of schema version 4, got version {version}; run it again"
    assert refusal([run]) == told


def test_a_summary_without_a_fact_is_refused(write, tmp_path):
    run = write("run", [record(0)])
    lacking = {"schema": 4, "run": {k: v for k, v in msgspec.to_builtins(facts()).items() if k != "budget"}}
    (tmp_path / "run" / "summary.json").write_text(json.dumps(lacking))
    assert refusal([run]) == "run/summary.json: run: object missing required field budget"


def test_a_broken_record_is_refused(write, tmp_path):
    run = write("run", [record(0)])
    with (tmp_path / "run" / "records.jsonl").open("a") as file:
        file.write('{"id": ')
    assert refusal([run]).startswith("run/records.jsonl, line 2: damaged")
