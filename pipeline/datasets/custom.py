"""A person's own data set: a folder, an archive, or an entry that describes files to download."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from pipeline import formats
from pipeline.datasets import published, registry
from pipeline.datasets.archives import find_archive, unpack, visible_entries
from pipeline.datasets.links import IGNORED, check_links
from pipeline.errors import PipelineError
from pipeline.params import Params
from pipeline.workspace import from_root, root, workspace


def fetch(params: Params, into: Path) -> Sequence[Path]:
    """Brings the data set that `download.path` names into the folder `into`.

    A folder with nothing but an archive or an entry stands for that archive or entry. Images inside TFRecords are
    extracted to files.

    Returns:
        Downloaded files that may be removed once `into` is complete.

    Raises:
        PipelineError: the path doesn't exist, or holds nothing usable.
    """
    source = _source(params.download.path)
    if source.is_dir():
        _check_folder(source, into, follow_links=params.download.follow_links)
        source = _resolve_folder(source)
    if registry.is_entry(source):
        downloads = _fetch_described(source, into, params.download.mirror)
        format = registry.read(source).format
    else:
        downloads, format = (), params.download.format
        if source.is_dir():
            _copy(source, into)
        else:
            unpack(source, into)
    formats.extract_images(into, format)
    return downloads


def _source(path: str) -> Path:
    # A temporary workspace has a copy of an entry that is in git, and DVC records that copy.
    source = workspace() / path if registry.is_entry(Path(path)) else from_root(path)
    if root() != workspace().resolve() and not Path(path).is_absolute() and not registry.is_entry(source):
        # DVC would record the folder of the temporary workspace, which lacks what git ignores.
        raise PipelineError(f"download.path: with --queue and --temp it must be absolute; set it to {source}")
    if not source.exists():
        raise PipelineError(f"{source}: no such file or folder; set download.path to your data set")
    return source


def _check_folder(folder: Path, into: Path, *, follow_links: bool) -> None:
    if into.resolve().is_relative_to(folder.resolve()):
        raise PipelineError(f"{folder}: contains this project's data/raw; move the data set into a separate folder")
    check_links(folder, follow=follow_links)


def _resolve_folder(folder: Path) -> Path:
    """The only entry or archive in a folder, or else the folder."""
    entries = visible_entries(folder)
    if not entries:
        raise PipelineError(
            f"{folder}: nothing is in there; put your images and annotations there, as a folder or a .zip/.tar/.tar.gz "
            "archive, or set download.path"
        )
    if len(entries) == 1 and registry.is_entry(entries[0]):
        return entries[0]
    return find_archive(folder) or folder


def _fetch_described(path: Path, into: Path, mirror: str | None) -> Sequence[Path]:
    """Fetches the files of a person's entry. A copy of the entry stays with the data, for the convert stage."""
    downloads = published.fetch(registry.read(path), f"custom-{path.stem}", into, mirror)
    shutil.copyfile(path, into / registry.ENTRY_COPY)
    return downloads


def _copy(source: Path, into: Path) -> None:
    """Copies files instead of linking them: changes in data/raw must not reach the owner's files."""
    try:
        shutil.copytree(source, into, ignore=shutil.ignore_patterns(*IGNORED), copy_function=shutil.copyfile)
    except shutil.Error as error:
        file, _, reason = error.args[0][0]
        raise PipelineError(f"{file}: not copied: {reason}") from None
    except OSError as error:
        raise PipelineError(f"{error.filename or source}: not copied: {error.strerror}") from None
