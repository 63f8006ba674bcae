"""Run directories behind the URLs of fsspec, such as `s3://bucket/sweep`: copied to read them, and uploaded."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from rfdlight._io import PARTIAL, read_bytes
from rfdlight.core.extras import imported
from rfdlight.errors import UserError, expect, legible, one_line, shown, unknown_name
from rfdlight.records import images, journal, standard
from rfdlight.records.leaderboard import ABOUT
from rfdlight.records.result import LAST, SUMMARY, is_unfinished, size_of
from rfdlight.records.run_directory import FINGERPRINT, refuse_links
from rfdlight.records.runs import FILES
from rfdlight.records.schema import decode

_NEEDED = {*FILES, FINGERPRINT, standard.FILE, ABOUT}
"""Files that reports and leaderboards read, besides the images."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")

_EXTRAS = {"s3": ("s3fs", "s3"), "s3a": ("s3fs", "s3"), "gs": ("gcsfs", "gs"), "gcs": ("gcsfs", "gs")}
"""Package and extra of a scheme."""

_S3 = {
    "config_kwargs": {"connect_timeout": 5, "read_timeout": 20, "retries": {"total_max_attempts": 3}},
    "max_concurrency": 1,  # parts of a large file in memory at a time, each of 50 MiB
}
_OPTIONS: dict[str, dict[str, Any]] = {"s3": _S3, "s3a": _S3, "file": {"auto_mkdir": True}}
"""Options of the file system of a scheme: a request to S3 that gets no answer fails within some two minutes."""

_MOST_BYTES = 2**30
"""Of one JSON or YAML file; the records of a million images have some 10**9 bytes."""


class _Place(NamedTuple):
    """A file system, and the path of a URL in it."""

    files: Any
    root: str

    def path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def listed(self) -> dict[str, int]:
        """Return the names of all files below the URL, relative to it, with their bytes."""
        self.files.invalidate_cache()
        start, found = f"{self.root}/", self.files.find(self.root, detail=True)
        return {name.removeprefix(start): found[name].get("size") or 0 for name in found if name.startswith(start)}


@dataclass
class Copies:
    """Local copies of run directories: the paths of all, in order, and the URLs of those that were copied."""

    paths: list[Path] = field(default_factory=list)
    urls: dict[str, str] = field(default_factory=dict)  # of the local path of each scheme

    def named(self, text: str) -> str:
        """Return a text with the URLs of copies in place of their local paths."""
        for path, url in self.urls.items():
            text = text.replace(path, url)
        return text


def is_url(path: str | Path) -> bool:
    """Return whether a path is a URL such as `s3://bucket/sweep`.

    Example:
        >>> is_url("s3://bucket/sweep"), is_url("runs/sweep"), is_url("C:/runs")
        (True, False, False)
    """
    return isinstance(path, str) and _URL.match(path) is not None


@contextmanager
def local_copies(paths: Iterable[str | Path], pixels: bool = False) -> Iterator[Copies]:
    """Copy what is given by URL to a temporary folder, which is removed at the end, and leave other paths as they are.

    Inside, errors name the URLs. `pixels` are the kept images of runs.

    Raises:
        UserError: If a URL cannot be read, see `download`.
    """
    paths, copies = list(paths), Copies()
    if not any(map(is_url, paths)):
        yield Copies([Path(path) for path in paths])
        return
    with tempfile.TemporaryDirectory(prefix="rfdlight-") as scratch:
        try:
            for path in paths:
                if not (isinstance(path, str) and is_url(path)):
                    copies.paths.append(Path(path))
                    continue
                scheme, rest = _parts(path)
                copies.urls[f"{scratch}/{scheme}/"] = path.rstrip("/").removesuffix(rest)
                copies.paths.append(download(path, Path(scratch), pixels))
            yield copies
        except UserError as error:
            error.args = (copies.named(str(error)), *error.args[1:])
            raise


def download(url: str, folder: Path, pixels: bool = False) -> Path:
    """Copy the run directories at and below a URL, as far as reports read them, and return the path of the copy.

    `s3://bucket/sweep` is copied to `s3/bucket/sweep` in the folder. `pixels` are the kept images of runs. Cells may be
    uploaded at the same time: each is copied as a whole or not at all.

    Raises:
        UserError: If the URL cannot be read, a name there would leave the folder, or a file is too large.
    """
    scheme, rest = _parts(url)
    target = folder / scheme / rest
    with _opened(url, "read") as place:
        first = place.listed()
        standards = {_folder(name): size for name, size in first.items() if _base(name) == standard.FILE}
        _copy(place, {_inside(each, standard.FILE): size for each, size in standards.items()}, target, url)
        finished = {each for each in standards if not is_unfinished(target / each)}
        # The second list has every file of the cells whose last file is in the first one, which they are read by.
        second = place.listed()
        runs = {_folder(name) for name in first if _base(name) == SUMMARY}
        needed = _of_standards(second, finished) | _of_runs(second, runs | {""}, set(standards), pixels)
        _copy(place, needed, target, url)
        if second:
            target.mkdir(parents=True, exist_ok=True)
    return target


def finished_cells(url: str, names: Collection[str]) -> dict[str, bytes]:
    """Return the cells of a sweep that are finished at its URL, by name, each with its configuration file.

    A cell lies as in the folder of a sweep: `<name>/`, beside `<name>.yaml`, whose bytes are empty if it is missing.

    Raises:
        UserError: If the URL cannot be read.
    """
    found = {}
    with _opened(url, "read") as place, tempfile.TemporaryDirectory(prefix="rfdlight-") as scratch:
        stored, target = place.listed(), Path(scratch)
        needed = set()
        for name in names:
            last = next((last for each in LAST if (last := f"{name}/{each}") in stored), None)
            needed |= {last, f"{name}.yaml"} & stored.keys() if last else set()
        _copy(place, {each: stored[each] for each in sorted(needed)}, target, url)
        for name in names:
            if size_of(target / name) is not None:
                config = target / f"{name}.yaml"
                found[name] = config.read_bytes() if config.exists() else b""
    return found


def check_upload(url: str) -> None:
    """Raise a UserError unless files below a URL can be listed and written."""
    with _opened(url, "write to") as place:
        place.listed()
        probe = place.path(f"{PARTIAL}probe")
        place.files.pipe_file(probe, b"rfdlight")
        with suppress(Exception):  # the right to write may not be one to delete
            place.files.rm_file(probe)


def upload(cell: Path, url: str) -> bool:
    """Upload the folder of a finished cell to `url/<its name>`, and its configuration beside it; False if it is there.

    The file that makes the cell a finished one is written last: after a kill, readers find no cell, and the next call
    replaces what is there. Journals are left out, because the records have their content. The cell that is there first
    stays.

    Args:
        cell: Run directory or folder of a standard evaluation; its configuration is `<its name>.yaml` beside it.
        url: URL of the whole sweep.

    Raises:
        UserError: If the cell is not finished, a cell of other settings is finished at the URL, or the URL cannot be
            written.
    """
    config = cell.with_name(f"{cell.name}.yaml")
    try:
        expect(size_of(cell) is not None, "cell", "a finished run", f"{cell}, which is not finished")
        last = next(last for last in LAST if (cell / last).exists())
        files = _to_upload(cell)
        settings = read_bytes(config) if config.exists() else b""
    except OSError as error:
        raise UserError(f"cannot read {cell}: {error.strerror}") from error
    there = finished_cells(url, [cell.name]).get(cell.name)
    if there is not None:
        expect(there == settings, "upload", f"a cell of the same settings at {url}", f"another one, {cell.name}.yaml")
        return False
    with _opened(f"{url.rstrip('/')}/{cell.name}", "write to") as place:
        # An earlier upload, of another attempt, may have left files that this cell lacks, or an unfinished summary.
        for name in sorted(place.listed()):
            if _base(name) in {*_NEEDED, images.FILE} and (name not in files or name == SUMMARY == last):
                place.files.rm_file(place.path(name))
        if config.exists():
            place.files.put_file(str(config), f"{place.root}.yaml")
        if last == standard.FILE:  # readers see by it that the folders of stages are no runs of their own
            begun = decode(read_bytes(cell / last), dict) | {"summary": None}
            place.files.pipe_file(place.path(last), msgspec.json.encode(begun))
        for name in (*(name for name in files if name != last), last):
            place.files.put_file(str(files[name]), place.path(name))
    return True


def _to_upload(cell: Path) -> dict[str, Path]:
    """Return the files of a cell by their names, without journals and unfinished files."""
    paths = [path for path in sorted(cell.rglob("*")) if not path.is_dir() and path.parent.name != journal.FOLDER]
    for folder in {path.parent for path in paths}:
        refuse_links(folder)
    return {path.relative_to(cell).as_posix(): path for path in paths if not path.name.startswith(PARTIAL)}


@contextmanager
def _opened(url: str, purpose: str) -> Iterator[_Place]:
    """Open the file system of a URL; a failure of it is a UserError of one line, with a purpose such as "read"."""
    scheme, _ = _parts(url)
    if scheme in _EXTRAS:
        imported(*_EXTRAS[scheme], needed_for=shown(url))
    import fsspec

    if scheme not in fsspec.available_protocols():
        raise unknown_name("scheme", scheme, _EXTRAS)
    try:
        files, root = fsspec.url_to_fs(url.rstrip("/"), **_OPTIONS.get(scheme, {}))
        if _OPTIONS.get(scheme) is _S3:
            files.retries = 2  # on top of those of `config_kwargs`
        yield _Place(files, root)
    except UserError:
        raise
    except Exception as error:  # each file system has its own
        reason = error.strerror if isinstance(error, OSError) and error.strerror else one_line(error)
        hint = "; are the credentials right?" if isinstance(error, PermissionError) else ""
        raise UserError(legible(f"cannot {purpose} {url}: {reason or type(error).__name__}{hint}")) from error


def _of_standards(listed: dict[str, int], finished: set[str]) -> dict[str, int]:
    """Return the files of finished standard evaluations that are needed, without those that say that they are."""
    return {
        name: size
        for name, size in listed.items()
        if _base(name) in _NEEDED - {standard.FILE} and finished & set(_above(name))
    }


def _of_runs(listed: dict[str, int], runs: set[str], standards: set[str], pixels: bool) -> dict[str, int]:
    """Return the files of runs that are needed, by their folders, without the stages of standard evaluations."""
    wanted = _NEEDED | {images.FILE} if pixels else _NEEDED
    return {
        name: size
        for name, size in listed.items()
        if _base(name) in wanted and _folder(name) in runs and not standards & set(_above(name))
    }


def _copy(place: _Place, names: dict[str, int], folder: Path, url: str) -> None:
    """Copy files into a folder, given by their names and bytes."""
    for name, size in names.items():
        _check_name(name, url)
        fits = size <= _MOST_BYTES or _base(name) == images.FILE
        expect(fits, f"{shown(url)}/{shown(name)}", f"at most {_MOST_BYTES:,} bytes", f"{size:,}")
    above = next(each for each in (folder, *folder.parents) if each.exists())
    free, total = shutil.disk_usage(above).free, sum(names.values())
    expect(total < free, shown(url), f"at most {free:,} bytes, which are free in {above}", f"{total:,}")
    if names:
        place.files.get([place.path(name) for name in names], [str(_made(folder / name)) for name in names])


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _parts(url: str) -> tuple[str, str]:
    """Return the scheme of a URL, and the rest without slashes at its ends."""
    scheme, _, rest = url.partition("://")
    _check_name(rest.strip("/"), url)
    return scheme, rest.strip("/")


def _check_name(name: str, url: str) -> None:
    """Refuse a name that would lie elsewhere, or have another name, as the path of a file in a folder."""
    fits = not {"", ".", ".."} & set(name.split("/")) and "\\" not in name and "\0" not in name
    expect(fits, shown(url), "names of files without empty parts, '.', '..' and '\\'", f"'{shown(name)}'")


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _inside(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _above(name: str) -> Iterator[str]:
    """Yield the folders of a name, from its own to "", the URL itself."""
    while name:
        name = _folder(name)
        yield name
