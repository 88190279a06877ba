"""Preparation of a data set at any place: unpacked, and with its images as files, without writing beside it."""

import os
from pathlib import Path

from pipeline import formats
from pipeline.datasets.archives import find_archive, unpack
from pipeline.errors import PipelineError
from pipeline.formats.dataset_files import list_files


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
