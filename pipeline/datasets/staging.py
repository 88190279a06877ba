"""Preparation of a data set at any place: unpacked, and with its images as files, without writing beside it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline import formats
from pipeline.datasets.archives import find_archive, unpack
from pipeline.datasets.links import check_links
from pipeline.errors import PipelineError
from pipeline.formats.dataset_files import list_files


@contextmanager
def open_dataset(path: Path, format: str = "auto", *, follow_links: bool = False) -> Iterator[Path]:
    """The folder of a data set. Archives are unpacked and images inside TFRecords are extracted, temporarily.

    Args:
        follow_links: as download.follow_links, for a folder.

    Raises:
        PipelineError: the path does not exist, the archive can't be unpacked, or a link is refused.
    """
    if not path.exists():
        raise PipelineError(f"{path}: no such file or folder; give the folder or the archive of a data set")
    if path.is_dir():
        check_links(path, follow=follow_links)
    with TemporaryDirectory(prefix="fcos-dataset-") as staging:
        folder = Path(staging) / "data"
        try:
            yield stage_dataset(path, folder, format)
        except PipelineError as error:  # name the data set, not the temporary folder
            raise PipelineError(str(error).replace(str(folder), str(find_archive(path) or path))) from None


def stage_dataset(source: Path, staging: Path, format: str = "auto") -> Path:
    """The folder from which a data set can be read: `source`, or `staging` if something has to be written.

    An archive, or a folder that contains only an archive, is unpacked into the new folder `staging`. Images that exist
    only inside annotation files (TFRecord) are extracted there, beside links to all files of `source`.

    Raises:
        PipelineError: The archive can't be unpacked, or a file with images is damaged.
    """
    archive = find_archive(source)  # any file is taken for one: unpacking reports what is wrong with it
    if archive is not None:
        unpack(archive, staging)
    elif formats.has_embedded_images(source, format):
        link_files(source, staging)
    else:
        return source
    formats.extract_images(staging, format)
    return staging


def link_files(source: Path, staging: Path) -> None:
    """Links all files of a folder into another one.

    Raises:
        PipelineError: A file can't be linked.
    """
    for file in list_files(source):
        target = staging / file
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _link((source / file).resolve(), target)
        except OSError as error:
            raise PipelineError(f"{source / file}: can't be linked into {staging}: {error.strerror}") from None


def _link(source: Path, target: Path) -> None:
    """A hard link, or a symbolic one to another file system."""
    try:
        os.link(source, target)
    except OSError:
        target.symlink_to(source)
