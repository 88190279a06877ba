"""Published data sets: downloads, verifies and unpacks the files of an entry in the registry."""

import filecmp
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipeline.datasets import download
from pipeline.datasets.archives import unpack
from pipeline.datasets.registry import Entry
from pipeline.errors import PipelineError
from pipeline.files import remove
from pipeline.workspace import state_dir

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_FETCHED = ".fetched"  # in a folder of downloads: the names of the files that this module downloaded


def fetch(entry: Entry, name: str, into: Path, mirror: str | None) -> Sequence[Path]:
    """Downloads the files of an entry and unpacks them into the folder `into`.

    Args:
        name: of the data set. Its downloads are in `.fcos/downloads/<name>`, where a person may put files too.

    Returns:
        The files that were downloaded, which may be removed afterwards. A file that a person put there isn't one.

    Raises:
        PipelineError: a file can't be fetched, verified or unpacked.
    """
    folder = state_dir() / "downloads" / name
    folder.mkdir(parents=True, exist_ok=True)
    with _recorded(folder, [file.name for file in entry.files]):
        # Images hardly shrink in an archive, so the unpacked size is about the same.
        paths = download.fetch(entry.files, folder, mirror, unpacked=entry.size or 0)
    into.mkdir(parents=True, exist_ok=True)
    for file, path in zip(entry.files, paths, strict=True):
        _unpack_or_copy(path, into, into / file.into)
    return [folder / name for name in _fetched_names(folder)] + [folder / _FETCHED]


@contextmanager
def _recorded(folder: Path, names: Sequence[str]) -> Iterator[None]:
    """Records which files are added to the folder, also after an exception, so that a later run can continue."""
    absent = [name for name in names if not (folder / name).exists()]
    try:
        yield
    finally:
        fetched = {*_fetched_names(folder), *(name for name in absent if (folder / name).exists())}
        (folder / _FETCHED).write_text("".join(f"{name}\n" for name in sorted(fetched)), encoding="utf-8")


def _fetched_names(folder: Path) -> list[str]:
    record = folder / _FETCHED
    return record.read_text(encoding="utf-8").splitlines() if record.is_file() else []


def _unpack_or_copy(path: Path, into: Path, target: Path) -> None:
    """Unpacks an archive into the folder `target`, or copies another file there."""
    target.mkdir(parents=True, exist_ok=True)
    if not path.name.lower().endswith(ARCHIVE_SUFFIXES):
        shutil.copyfile(path, target / path.name)
        return
    # Into a separate folder first: archives may share folders, but must not replace each other's files.
    staging = into / ".unpacking"
    unpack(path, staging)
    _merge(path, staging, target)
    remove(staging)


def _merge(archive: Path, source: Path, target: Path) -> None:
    """Moves the content of one folder into another; folders that exist in both are merged."""
    for item in sorted(source.iterdir()):
        destination = target / item.name
        if item.is_dir() and destination.is_dir():
            _merge(archive, item, destination)
        elif not destination.exists():
            item.rename(destination)
        elif not (item.is_file() and destination.is_file() and filecmp.cmp(item, destination, shallow=False)):
            raise PipelineError(
                f"{archive}: its {item.name} would replace another one in {target.name}; "
                "set `into` of one of the archives to another folder"
            )
