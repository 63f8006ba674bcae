"""What all tests share: one thread, no clock, small images and small victims with fixed random weights."""

from __future__ import annotations

import functools
import gc
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

# A conftest.py is no module with examples; collected as one, the second file of this name would clash with the first.
collect_ignore_glob = ["conftest.py", "*/conftest.py"]

# A slow or busy machine fails no test: hypothesis measures neither examples nor their generation.
settings.register_profile("no clock", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no clock")


def pytest_configure(config: pytest.Config) -> None:
    """Import what takes seconds, where tests run: the process that only hands tests to others needs none of it."""
    if getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        return
    gc.disable()  # until all tests are collected: imports make many objects and little garbage
    # Before any other library: typing caches `Union[int, float]` in the order of its first use, and the parser tries
    # the types of the Trainer's options in that order.
    import lightning.pytorch  # noqa: F401  isort: skip
    import torch

    torch.set_num_threads(1)
    config.pluginmanager.import_plugin("written_runs")


@pytest.fixture(autouse=True, scope="module")
def small_figures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Figures as one small picture with their texts and lines in its file, except where it is tested how they look."""
    if "plots" in request.path.name:
        yield
        return
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.text import Text

    from rfdlight.reporting import plots, report_files

    blank = functools.cache(functools.partial(plots.encoded, Figure((0.1, 0.1))))

    def small(figure: Figure, kind: str) -> bytes:
        shown = [text.get_text() for text in figure.findobj(Text)]
        shown += [str(line.get_xydata().tolist()) for line in figure.findobj(Line2D)]
        return blank(kind)[:-12] + "\n".join(shown).encode() + blank(kind)[-12:]

    with pytest.MonkeyPatch.context() as patch:
        for module in (plots, report_files):
            patch.setattr(module, "encoded", small)
        yield


@pytest.fixture(scope="session")
def network() -> torch.nn.Module:
    """A small network with random weights and 5 classes, each of them some image's answer."""
    from harness import centred_network

    return centred_network()


@pytest.fixture
def clean(network: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Ten images of 3 x 16 x 16 with the labels that the network gives them."""
    import torch
    from harness import images

    x = images(10)
    with torch.no_grad():
        return x, network(x).argmax(1)


def pytest_collection_finish() -> None:
    """Look for garbage among the objects of tests alone."""
    gc.freeze()
    gc.set_threshold(50_000)  # at the usual 700, it takes some percent of the time of all tests
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests that need a CUDA device where there is none."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
