import pytest
import yaml

from rfdlight.cli.sweep.experiment import merged, read_cells
from rfdlight.errors import UserError

GRID = """
common: {model: {budget: 10}, data: {class_path: digits, init_args: {num_images: 5}}}
axes:
  victim:
    one: {model: {victim: first}}
    two: {model: {victim: second, budget: 20}}
  defense:
    none:
    noise: {defense: "noises/{victim}.yaml"}
  attack:
    square: {attack: square, model: {checkpoint: "{victim}/{defense}.pt"}}
"""


@pytest.fixture
def cells(tmp_path):
    def read(text: str):
        (tmp_path / "noises").mkdir(exist_ok=True)
        for number, victim in enumerate(("one", "two"), 1):
            noise = {"class_path": "input_noise", "init_args": {"sigma": number}, "calibration": {"drop": 0.02}}
            (tmp_path / f"noises/{victim}.yaml").write_text(yaml.safe_dump(noise))
        (tmp_path / "grid.yaml").write_text(text)
        return read_cells(tmp_path / "grid.yaml")

    return read


def test_the_cells_are_the_product_the_last_axis_fastest(cells):
    names = [cell.name for cell in cells(GRID)]
    assert names == ["one-none-square", "one-noise-square", "two-none-square", "two-noise-square"]


def test_later_axes_win_labels_are_filled_in_and_files_are_read(cells):
    (cell,) = [cell for cell in cells(GRID) if cell.name == "two-noise-square"]
    assert cell.config == {
        "model": {"budget": 20, "victim": "second", "checkpoint": "two/noise.pt"},
        "data": {"class_path": "digits", "init_args": {"num_images": 5}},
        "defense": {"class_path": "input_noise", "init_args": {"sigma": 2}},
        "attack": "square",
    }


def test_what_is_left_out_is_a_list_of_rules(cells):
    left = "leave_out:\n- {victim: one, defense: noise}\n- {victim: [two], defense: [none, noise]}\n"
    assert [cell.name for cell in cells(GRID + left)] == ["one-none-square"]


def test_arguments_of_another_class_do_not_stay():
    first = {"class_path": "rays", "init_args": {"lead": 3}}
    assert merged(first, {"class_path": "square"}) == {"class_path": "square"}
    assert merged(first, {"class_path": "rays", "init_args": {"eps": 1}})["init_args"] == {"lead": 3, "eps": 1}
    assert merged(first, "square") == "square"
    assert merged("square", first) == first


@pytest.mark.parametrize(
    ("given", "refined", "expected"),
    [
        ("square", {"init_args": {"eps": 1}}, {"class_path": "square", "init_args": {"eps": 1}}),
        ("square", {"eps": 1}, {"class_path": "square", "init_args": {"eps": 1}}),
        ("square", {}, {"class_path": "square"}),
        ("square", {"class_path": "rays"}, {"class_path": "rays"}),
        (
            {"class_path": "square", "init_args": {"p": 2}},
            {"eps": 1},
            {"class_path": "square", "init_args": {"p": 2, "eps": 1}},
        ),
        (None, {"init_args": {"eps": 1}}, {"init_args": {"eps": 1}}),
        (["square"], {"class_path": "rays"}, {"class_path": "rays"}),
    ],
)
def test_a_component_given_by_its_name_keeps_its_class_where_an_axis_refines_it(given, refined, expected):
    for kind in ("attack", "data", "defense"):
        assert merged({kind: given}, {kind: refined}) == {kind: expected}


def test_what_is_no_component_stays_text():
    assert merged({"trainer": {"strategy": "ddp"}}, {"trainer": {"strategy": {"x": 1}}}) == {
        "trainer": {"strategy": {"x": 1}}
    }


def test_a_file_of_a_component_may_be_refined_too(cells):
    axes = "axes: {victim: {one: }, s: {own: , less: {defense: {init_args: {sigma: 0.5}}}}}"
    own, less = cells("common: {defense: 'noises/{victim}.yaml'}\n" + axes)
    assert own.config == {"defense": {"class_path": "input_noise", "init_args": {"sigma": 1}}}
    assert less.config == {"defense": {"class_path": "input_noise", "init_args": {"sigma": 0.5}}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "{common: {defense: [aaa, input_noise]}, axes: {a: {x: {defense: {init_args: {sigma: 1}}}}}}",
            "defense is a list of several, which no axis can refine; give the whole list there",
        ),
        ("- a", "the config {path} must be a mapping of settings, got ['a']"),
        ("{axes: {}, axis: {}}", "the experiment {path}: Object contains unknown field `axis`"),
        ("common: {}", "the experiment {path}: Object missing required field `axes`"),
        ("axes: {a: [x]}", "the experiment {path}: Expected `object`, got `array` - at `$.axes[...]`"),
        ("axes: {a: {x: 3}}", "the experiment {path}: Expected `object | null`, got `int` - at `$.axes[...][...]`"),
        ("axes: {a: {}}", "{path}: expected a cell, got none; axes need labels"),
        ("axes: {a: {../x: }}", "a label of axes.a must be letters, digits, '_', '.' and '-', got '../x'"),
        ("axes: {a: {1: }}", "the experiment {path}: Expected `str`, got `int` - at `key` in `$.axes[...]`"),
        ("{axes: {a: {x: }}, leave_out: [{b: x}]}", "unknown axis in leave_out 'b'; known: a"),
        ("{axes: {a: {x: }}, leave_out: [{a: [y]}]}", "unknown label of axes.a in leave_out 'y'; known: x"),
        (
            "{axes: {a: {x: }}, leave_out: [{a: x}]}",
            "{path}: expected a cell, got none; axes need labels",
        ),
        (
            "axes: {a: {x: , x-y: }, b: {y-z: , z: }}",
            "two cells have the name x-y-z; change a label so that the joined labels differ",
        ),
        ("axes: {a: {x: {attack: square.yaml}}}", "unknown config 'square.yaml'; "),
        ("axes: [", "cannot read the config {path}: while parsing a flow node"),
    ],
)
def test_another_form_is_one_line(cells, tmp_path, text, expected):
    with pytest.raises(UserError) as caught:
        cells(text)
    assert str(caught.value).startswith(expected.format(path=tmp_path / "grid.yaml"))
    assert "\n" not in str(caught.value)
