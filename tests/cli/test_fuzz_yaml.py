"""No YAML file, however wrong, ends in a traceback, in half a run, or in files of a run that was refused."""

import pytest
import yaml
from fuzz.configs import EXPERIMENT, LAUGHS, SETTINGS, TAKEN, cases, low_watermark
from fuzz.running import bounded
from hypothesis import given


@bounded(4)
@given(cases())
def test_any_config_ends_as_it_should(case):
    low_watermark(*case)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["settings", "attack"])
def test_the_files_that_are_changed_are_right_before(kind, command, nearest_mean, elsewhere):
    text, line = TAKEN[kind]
    assert yaml.safe_load(text)
    (elsewhere / "x.yaml").write_text(text)
    assert command(*line).status == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (SETTINGS + LAUGHS, "expected at most 100,000 values, with every alias written out, got more"),
        (SETTINGS + f"run: {'[' * 900}{']' * 900}\n", "expected at most 50 levels of nesting, got more"),
        (SETTINGS + 'run: "a\\0b"\n', "expected text in UTF-8, without the character NUL"),
        (SETTINGS + "run: 2001-99-99\n", "a value is not what it looks like or is tagged as: month must be in 1..12"),
    ],
    ids=["aliases", "deep", "nul", "date"],
)
def test_what_a_yaml_reader_or_a_walk_through_a_config_would_fall_over_is_refused(content, said, command, elsewhere):
    (elsewhere / "x.yaml").write_text(content)
    found = command("test", "-c", "x.yaml")
    assert (found.status, found.err) == (2, f"rfdlight: cannot read the config x.yaml: {said}\n")


def test_an_experiment_with_a_value_of_another_type_is_refused(command, elsewhere):
    changed = ("batch_size: 4", "batch_size: few")
    assert changed[0] in EXPERIMENT
    (elsewhere / "x.yaml").write_text(EXPERIMENT.replace(*changed))
    found = command("sweep", "x.yaml", "--dry_run=true")
    said = "cell resnet8-digits-none-rays: model.batch_size: expected a whole number or auto, got 'few'"
    assert (found.status, found.err) == (2, f"rfdlight: {said}\n")
