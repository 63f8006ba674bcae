"""The experiments that the page on sweeps shows are experiments."""

from pages import blocks, page_named

from rfdlight import _io
from rfdlight.cli.sweep.experiment import read_cells


def test_the_experiments_shown_have_the_cells_that_the_page_says(tmp_path):
    shown = blocks(page_named("run-a-sweep.md"), "yaml")
    assert len(shown) == 3
    for text, names in (
        (shown[0], ("none-square-m1", "feature-random-m1")),
        (shown[1], ("resnet20-feature-square", "vit-feature-square")),
        (shown[2], ("square", "standard")),
    ):
        (tmp_path / "mine.yaml").write_text(text)
        cells = read_cells(tmp_path / "mine.yaml")
        assert (cells[0].name, cells[-1].name) == names
        assert all("sigma" in cell.config["defense"]["init_args"] for cell in cells if "defense" in cell.config)
    (tmp_path / "mine.yaml").write_text(shown[0])
    assert len(read_cells(tmp_path / "mine.yaml")) == 7


def test_the_shipped_experiment_is_every_victim_by_defense_by_attack():
    assert len(read_cells(_io.shipped_folder("configs") / "experiment/victims.yaml")) == 4 * 2 * 4


def test_the_resources_shown_are_those_of_the_cells(tmp_path):
    (shown,) = blocks(page_named("run-a-sweep-on-many-gpus.md"), "yaml")
    (tmp_path / "mine.yaml").write_text(shown)
    needs = {cell.name: (cell.resources.gpus, cell.resources.cpus) for cell in read_cells(tmp_path / "mine.yaml")}
    assert needs == {"square": (0, 1), "nes": (0, 2)}
