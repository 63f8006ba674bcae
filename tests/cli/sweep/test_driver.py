"""The driver of a sweep, over a launcher whose processes do what a script says."""

import random
import shutil
from collections import Counter

import pytest
from rich.console import Console

from rfdlight.cli.sweep import cell_files
from rfdlight.cli.sweep.cell_files import held, note, read_log
from rfdlight.cli.sweep.driver import Driver
from rfdlight.cli.sweep.launchers import Ended, Launcher
from rfdlight.cli.sweep.packs import Job, Pack, longest_first, one_by_one
from rfdlight.cli.sweep.status import states
from rfdlight.records.result import size_of

CELLS = [f"cell{number}" for number in range(6)]
DIES = "signal 9"


class Scripted(Launcher):
    """Runs packs at once, in this process; each attempt at a cell takes its end from a script."""

    def __init__(self, folder, script, finished, processes=2):
        super().__init__(folder, ())
        self.script, self.finished, self.processes = script, finished, processes
        self.packs = []
        self.completed = Counter()

    def check(self, needs):
        pass

    @property
    def capacity(self):
        return self.processes - len(self.packs)

    def submit(self, packs):
        assert 0 < len(packs) <= self.capacity
        self.packs += packs

    def wait(self, seconds):
        if not self.packs:
            return []
        pack = self.packs.pop(0)
        died = next((DIES for name in pack.names if not self.run(name)), "")
        return [Ended(pack, died)]

    def run(self, name):
        """Run a cell as a worker does; return whether the process lives on."""
        with held(self.folder, name) as mine:
            assert mine
            if size_of(self.folder / name) is not None:
                return True
            end = self.script(name)
            if end == "dies before":
                return False
            note(self.folder, name)
            if end == "dies":
                return False
            if end == "completes":
                shutil.copytree(self.finished, self.folder / name)
                self.completed[name] += 1
            note(self.folder, name, ended=True, failed=end if end == "fails" else "", stopped=end == "is stopped")
        return True


@pytest.fixture
def place(tmp_path, monkeypatch, swept_once):
    """A folder for a sweep, a finished cell, and locks that are free at once or never."""
    monkeypatch.setattr(cell_files, "_PATIENCE", 0.0)
    (tmp_path / "sweep").mkdir()
    return tmp_path / "sweep", swept_once / "grid/shipped-square"


def drive(place, script, packs=None, processes=2, retries=0):
    folder, finished = place
    launcher = Scripted(folder, script, finished, processes)
    jobs = [Job(name, float(number + 1)) for number, name in enumerate(CELLS)]
    with (folder / "said.txt").open("w") as said:
        console = Console(file=said, width=200)
        driver = Driver(folder, packs or longest_first(jobs, processes), launcher, console, retries)
        assert driver.run()
    return launcher, driver


def listed(*ends):
    """Return the script in which each cell has these ends in turn."""
    left = {name: list(ends) for name in CELLS}
    return lambda name: left[name].pop(0)


def test_each_cell_is_run_once(place):
    launcher, driver = drive(place, listed("completes"))
    assert launcher.completed == Counter(CELLS)
    assert driver.failed == {}
    said = (place[0] / "said.txt").read_text()
    assert all(f"cell {number} of 6, cell" in said for number in range(1, 7))


def test_a_cell_that_fails_is_run_as_often_as_retries_say(place):
    launcher, driver = drive(place, listed("fails", "fails", "completes"), retries=1)
    assert launcher.completed == Counter()
    assert driver.failed == dict.fromkeys(CELLS, "fails")
    assert {read_log(place[0], name).attempts for name in CELLS} == {2}
    launcher, driver = drive(place, listed("fails", "completes"), retries=1)
    assert launcher.completed == Counter(CELLS)
    assert driver.failed == {}


def test_a_cell_whose_processes_die_is_resumed_and_fails_if_none_finishes_an_image(place, monkeypatch):
    launcher, driver = drive(place, listed(*["dies"] * 5, "completes"))
    assert launcher.completed == Counter()
    assert driver.failed == dict.fromkeys(CELLS, DIES)
    assert {(each.state, each.reason) for each in states(place[0], CELLS)} == {("failed", DIES)}
    images = Counter()

    def grows(path):
        images[path] += 1
        return images[path]

    monkeypatch.setattr("rfdlight.cli.sweep.driver.finished_images", grows)
    launcher, driver = drive(place, listed(*["dies"] * 9, "completes"))
    assert launcher.completed == Counter(CELLS)
    assert driver.failed == {}


def test_processes_that_die_before_they_begin_do_not_keep_a_sweep_for_ever(place):
    _, driver = drive(place, lambda name: "dies before")
    assert driver.failed == dict.fromkeys(CELLS, DIES)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_every_cell_completes_once_or_has_failed(place, seed):
    chance = random.Random(seed)
    ends = ["completes", "fails", "dies", "dies before", "is stopped"]
    packs = [Pack(tuple(Job(name, 1.0) for name in CELLS[start : start + 2])) for start in (0, 2, 4)]
    launcher, driver = drive(
        place,
        lambda name: chance.choice(ends),
        packs,
        processes=chance.choice([1, 2, 3]),
        retries=chance.choice([0, 2]),
    )
    assert launcher.completed.keys() | driver.failed.keys() == set(CELLS)
    assert not launcher.completed.keys() & driver.failed.keys()
    assert set(launcher.completed.values()) <= {1}


def test_a_cell_that_another_sweep_runs_is_waited_for_and_its_result_counts(place, monkeypatch):
    folder, finished = place
    other = held(folder, "cell3")
    assert other.__enter__()
    looks = []

    def look(self):
        looks.append(size_of(self.folder / "cell3"))
        if len(looks) == 3:  # the other sweep completes the cell
            shutil.copytree(finished, folder / "cell3")
            other.__exit__(None, None, None)

    class Polite(Scripted):
        def run(self, name):
            with held(self.folder, name) as mine:
                if not mine:
                    return True
            return super().run(name)

        def wait(self, seconds):
            look(self)
            return super().wait(seconds)

    launcher = Polite(folder, listed("completes"), finished)
    jobs = [Job(name, 1.0) for name in CELLS]
    driver = Driver(folder, one_by_one(jobs), launcher, Console(quiet=True))
    assert driver.run()
    assert launcher.completed == Counter(set(CELLS) - {"cell3"})
    assert driver.failed == {}
    assert read_log(folder, "cell3").attempts == 0


def test_cells_that_jobs_of_an_earlier_sweep_have_are_left_to_them(place):
    folder, finished = place

    class Adopting(Scripted):
        def adopted(self):
            self.packs.append(Pack((Job("cell1", 0.0), Job("of another experiment", 0.0), Job("cell2", 0.0))))
            return self.packs

    ran = []
    launcher = Adopting(folder, lambda name: ran.append(name) or "completes", finished, processes=3)
    driver = Driver(folder, one_by_one(Job(name, 1.0) for name in CELLS), launcher, Console(quiet=True))
    assert driver.run()
    assert ran[:3] == ["cell1", "of another experiment", "cell2"]
    assert sorted(ran) == sorted([*CELLS, "of another experiment"])
    assert driver.failed == {}


def test_a_cell_is_reported_before_its_pack_ends(place, monkeypatch):
    monkeypatch.setattr("rfdlight.cli.sweep.driver._LOOK", 0.0)
    folder, finished = place
    said = []

    class Slow(Scripted):
        def wait(self, seconds):
            pack, left = self.packs[0], [name for name in self.packs[0].names if name not in self.completed]
            if left:
                said.append(len(driver._ended))
                self.run(left[0])
                return []
            return [Ended(self.packs.pop(0))] if pack else []

    launcher = Slow(folder, listed("completes"), finished)
    driver = Driver(folder, [Pack(tuple(Job(name, 1.0) for name in CELLS))], launcher, Console(quiet=True))
    assert driver.run()
    assert said == [0, 1, 2, 3, 4, 5]
    assert driver.failed == {}


def test_a_signal_to_a_launcher_in_this_process_stops_the_sweep(place):
    folder, finished = place
    launcher = Scripted(folder, listed("is stopped"), finished)
    launcher.stops_together = True
    jobs = [Job(name, 1.0) for name in CELLS]
    assert not Driver(folder, one_by_one(jobs), launcher, Console(quiet=True)).run()


def test_the_log_of_a_cell_leaves_out_lines_that_a_kill_has_cut(tmp_path):
    note(tmp_path, "cell")
    log = next(tmp_path.rglob("cell.jsonl"))
    log.write_bytes(log.read_bytes().rstrip(b"\n")[:-5])
    assert read_log(tmp_path, "cell").attempts == 0
    note(tmp_path, "cell")
    note(tmp_path, "cell", ended=True, failed="why")
    found = read_log(tmp_path, "cell")
    assert (found.attempts, found.end.failed) == (1, "why")


def test_a_lock_is_free_again_when_its_holder_lets_go(tmp_path, monkeypatch):
    monkeypatch.setattr(cell_files, "_PATIENCE", 0.0)
    assert not cell_files.is_running(tmp_path, "cell")
    with held(tmp_path, "cell") as mine:
        assert mine
        assert cell_files.is_running(tmp_path, "cell")
        with held(tmp_path, "cell") as again:
            assert not again
    assert not cell_files.is_running(tmp_path, "cell")


def test_packs_hold_alike_cells_and_every_cell_once():
    chance = random.Random(0)
    for _ in range(50):
        jobs = [
            Job(str(number), chance.choice([1.0, 10.0, 100.0, 1000.0]), loads=chance.choice("ab"))
            for number in range(chance.randint(1, 40))
        ]
        processes = chance.randint(1, 16)
        packs = longest_first(jobs, processes)
        assert Counter(name for pack in packs for name in pack.names) == Counter(job.name for job in jobs)
        assert all(len({(job.loads, job.resources) for job in pack.jobs}) == 1 for pack in packs)
        assert [pack.seconds for pack in packs] == sorted((pack.seconds for pack in packs), reverse=True)
        share = sum(job.seconds for job in jobs) / processes / 4
        assert all(len(pack.jobs) == 1 or pack.seconds <= min(120.0, share) for pack in packs)
