"""A published data set: its files fetched, verified and unpacked, as its entry in the registry describes it."""

import filecmp
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipeline.datasets.archives import unpack
from pipeline.datasets.download import File
from pipeline.datasets.download import fetch as download
from pipeline.datasets.registry import Entry
from pipeline.errors import PipelineError
from pipeline.files import remove
from pipeline.workspace import state_dir

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_OURS = ".fetched"  # in a folder of downloads: the names of files that no person put there


def fetch(entry: Entry, name: str, into: Path, mirror: str | None) -> Sequence[Path]:
    """Brings the entry's files into the folder `into`, archives unpacked.

    Args:
        name: of the data set: downloads wait in `.fcos/downloads/<name>`, where a person may put them too.

    Returns:
        the downloads that we fetched ourselves: a file that was there before us stays.

    Raises:
        PipelineError: a file can't be had, isn't what it should be, or can't be unpacked.
    """
    folder = state_dir() / "downloads" / name
    folder.mkdir(parents=True, exist_ok=True)
    files = [File(file.name, file.urls, file.size, file.checksum) for file in entry.files]
    with _noting(folder, [file.name for file in files]):
        # Images hardly shrink in an archive.
        paths = download(files, folder, mirror, unpacked=entry.size or 0)
    into.mkdir(parents=True, exist_ok=True)
    for file, path in zip(entry.files, paths, strict=True):
        _place(path, into, into / file.into)
    return [folder / name for name in _ours(folder)] + [folder / _OURS]


@contextmanager
def _noting(folder: Path, names: Sequence[str]) -> Iterator[None]:
    """Notes which files appear meanwhile, also when it ends with an error: another run goes on from there."""
    absent = [name for name in names if not (folder / name).exists()]
    try:
        yield
    finally:
        ours = {*_ours(folder), *(name for name in absent if (folder / name).exists())}
        (folder / _OURS).write_text("".join(f"{name}\n" for name in sorted(ours)), encoding="utf-8")


def _ours(folder: Path) -> list[str]:
    noted = folder / _OURS
    return noted.read_text(encoding="utf-8").splitlines() if noted.is_file() else []


def _place(path: Path, into: Path, target: Path) -> None:
    """Unpacks an archive into the folder `target`, or copies any other file there."""
    target.mkdir(parents=True, exist_ok=True)
    if not path.name.lower().endswith(ARCHIVES):
        shutil.copyfile(path, target / path.name)
        return
    # Apart first: several archives may have folders in common, and none may write over another's files.
    apart = into / ".unpacking"
    unpack(path, apart)
    _merge(path, apart, target)
    remove(apart)


def _merge(archive: Path, source: Path, target: Path) -> None:
    """Moves everything from one folder into another; folders that both have grow together."""
    for item in sorted(source.iterdir()):
        there = target / item.name
        if item.is_dir() and there.is_dir():
            _merge(archive, item, there)
        elif not there.exists():
            item.rename(there)
        elif not (item.is_file() and there.is_file() and filecmp.cmp(item, there, shallow=False)):
            raise PipelineError(
                f"{archive}: its {item.name} would replace another one in {target.name}; "
                "give one of the archives a folder of its own by `into`"
            )
