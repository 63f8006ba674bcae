"""The result of an evaluation as an object: from memory, and from its folder."""

import math

import msgspec
import pytest
from hand import facts, record, ten
from msgspec.structs import asdict

from rfdlight.errors import UserError
from rfdlight.records.records import Record
from rfdlight.records.runs import Run, load_run
from rfdlight.records.schema import seal


def write(folder, run):
    folder.mkdir()
    (folder / "config.yaml").write_text("seed_everything: 0\n")
    (folder / "records.jsonl").write_bytes(b"".join(seal(each) + b"\n" for each in run.records))
    (folder / "summary.json").write_bytes(run.summary_json())
    return folder


def test_a_run_in_memory_has_its_numbers_per_run_and_per_image():
    run = Run.of(reversed(ten()), facts())
    clean, robust = run
    assert (float(clean), float(robust)) == (0.9, 0.5)
    assert (run.clean_accuracy, run.robust_accuracy) == (clean, robust)
    assert float(run.attack_success_rate) == pytest.approx(4 / 9)
    assert run.robust_accuracy.low < 0.5 < run.robust_accuracy.high
    assert (run.label, run.folder, run.config) == ("hand", None, "")
    assert run.diagnostics[0].check == "images"


def test_a_run_comes_back_from_its_folder_as_it_was(tmp_path):
    run = Run.of(ten(), facts(failed={"digits/test/0011": "NaN"}, num_images=11))
    back = load_run(write(tmp_path / "mine", run))
    assert (back.records, back.facts, back.summary) == (run.records, run.facts, run.summary)
    assert (back.label, back.folder) == ("mine", tmp_path / "mine")


def test_a_finished_run_of_the_schema_before_interim_evaluations_is_read(tmp_path):
    folder = write(tmp_path / "mine", Run.of(ten(), facts()))
    stored = msgspec.json.decode((folder / "summary.json").read_bytes()) | {"schema": 3}
    (folder / "summary.json").write_bytes(msgspec.json.encode(stored))
    earlier = [asdict(each) for each in ten()]
    fields = [name for name in earlier[0] if name != "interim"]
    form = msgspec.defstruct("Earlier", fields)
    lines = [seal(form(**{name: each[name] for name in fields})) + b"\n" for each in earlier]
    (folder / "records.jsonl").write_bytes(b"".join(lines))
    assert load_run(folder).records == tuple(ten())


def test_a_data_frame_has_one_row_per_image_and_the_columns_of_the_file():
    frame = Run.of(ten(), facts()).to_dataframe()
    assert list(frame.columns) == list(Record.__struct_fields__)
    assert list(frame["id"]) == [each.id for each in ten()]
    assert frame["success_query"].dtype == float
    assert [math.isnan(value) for value in frame["success_query"]] == [each.success_query is None for each in ten()]
    assert frame["billed"].sum() == sum(each.billed for each in ten())
    assert len(Run.of([], facts()).to_dataframe()) == 0


def test_the_criterions_own_verdicts_replace_those_of_the_final_evaluation():
    run = Run.of(ten(), facts(criterion="paper"))
    declared = run.as_declared()
    assert declared.robust_accuracy == run.summary.declared
    assert declared.facts.criterion == "paper (as declared)"
    assert declared.by_id[ten()[8].id].verdict == "misclassified"
    assert run.facts.criterion == "paper"


def test_records_are_immutable_and_their_counts_agree():
    with pytest.raises(AttributeError):
        record(0).label = 3
    with pytest.raises(ValueError, match="clean_wrong: expected at most 20, the clean evaluations, got 21"):
        record(0, clean_wrong=21)


def test_a_fact_that_is_unknown_is_refused(tmp_path):
    folder = write(tmp_path / "mine", Run.of(ten(), facts()))
    summary = msgspec.json.decode((folder / "summary.json").read_bytes())
    summary["run"]["judge"] = "paper"
    (folder / "summary.json").write_bytes(msgspec.json.encode(summary))
    with pytest.raises(UserError, match=r"summary.json: run: object contains unknown field judge"):
        load_run(folder)
