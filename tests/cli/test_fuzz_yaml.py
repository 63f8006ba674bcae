"""No YAML file, however wrong, ends in a traceback, in half a run, or in files of a run that was refused."""

import pytest
import yaml
from fuzz.configs import EXPERIMENT, LAUGHS, SETTINGS, TAKEN, cases, low_watermark
from fuzz.running import bounded
from hypothesis import given


@bounded(20)
@given(cases())
def test_any_config_ends_as_it_should(case):
    low_watermark(*case)


@pytest.mark.parametrize("kind", TAKEN)
def test_the_files_that_are_changed_are_right_before(kind, command, nearest_mean, elsewhere):
    text, line = TAKEN[kind]
    assert yaml.safe_load(text)
    if kind in ("settings", "attack"):
        (elsewhere / "x.yaml").write_text(text)
        assert command(*line).status == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (SETTINGS + LAUGHS, "expected at most 100,000 values, with every alias written out, got more"),
        (SETTINGS + "defense: &a [*a]\n", "expected at most 100,000 values, with every alias written out, got more"),
        (SETTINGS + f"run: {'[' * 60}{']' * 60}\n", "expected at most 50 levels of nesting, got more"),
        (SETTINGS + f"run: {'[' * 900}{']' * 900}\n", "expected at most 50 levels of nesting, got more"),
        (SETTINGS + 'run: "a\\0b"\n', "expected text in UTF-8, without the character NUL"),
        (SETTINGS + '"\\uDCFF": 3\n', "expected text in UTF-8, without the character NUL"),
        (SETTINGS + "run: 2001-99-99\n", "a value is not what it looks like or is tagged as: month must be in 1..12"),
        (SETTINGS + "run: !!int ''\n", "a value is not what it looks like or is tagged as: string index out of range"),
    ],
    ids=["aliases", "itself", "deep", "deeper", "nul", "surrogate", "date", "tag"],
)
def test_what_a_yaml_reader_or_a_walk_through_a_config_would_fall_over_is_refused(content, said, command, elsewhere):
    (elsewhere / "x.yaml").write_text(content)
    found = command("test", "-c", "x.yaml")
    assert (found.status, found.err) == (2, f"rfdlight: cannot read the config x.yaml: {said}\n")


@pytest.mark.parametrize("value", ["a: &a [*a]", f"{'[' * 900}{']' * 900}", '["a\\0b"]', "[2001-99-99, !!int '']"])
def test_the_same_in_a_value_on_the_command_line_is_one_line(value, command, elsewhere):
    for option in ("--defense", "--attack", "--model.budget"):
        found = command("test", "--attack", "rays", option, value)
        assert (found.status, found.err.count("\n")) == (2, 1)
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            ("leave_out:\n- {defense: noise", "leave_out:\n- {defense: {a: b}"),
            "unknown label of axes.defense in leave_out",
        ),
        (('{model: {victim: "{victim}"}}', "{model: 3}"), "cell resnet8-digits-none-rays: model: expected a mapping"),
        (
            ("batch_size: 4", "batch_size: few"),
            "cell resnet8-digits-none-rays: model.batch_size: expected a whole number",
        ),
    ],
)
def test_an_experiment_with_a_value_of_another_type_is_refused(changed, said, command, elsewhere):
    assert changed[0] in EXPERIMENT
    (elsewhere / "x.yaml").write_text(EXPERIMENT.replace(*changed))
    found = command("sweep", "x.yaml", "--dry_run=true", "--num_images=2")
    assert (found.status, found.err.count("\n")) == (2, 1)
    assert found.err.startswith(f"rfdlight: {said}")


@pytest.mark.parametrize("group", ["model", "trainer"])
@pytest.mark.parametrize("value", ["3", "[]", "text", "null"])
def test_a_group_of_settings_that_is_no_mapping_is_refused(group, value, command, elsewhere):
    (elsewhere / "x.yaml").write_text(f"attack: rays\n{group}: {value}\n")
    for line in (["-c", "x.yaml"], ["--attack=rays", f"--{group}={value}"]):
        found = command("test", *line, "--run", "run")
        assert (found.status, found.err.count("\n")) == (2, 1)
        assert group in found.err
    assert not (elsewhere / "run").exists()


def test_a_group_of_settings_that_cannot_be_read_is_refused(command):
    found = command("test", "--attack=rays", "--model={")
    assert (found.status, found.err.count("\n")) == (2, 1)
    assert found.err.startswith("rfdlight: model: ")
