"""A data set of one's own: a folder, an archive, or an entry that says where its files are."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from pipeline.datasets import published, registry
from pipeline.datasets.archives import find_archive, unpack, visible_entries
from pipeline.errors import PipelineError
from pipeline.params import Params
from pipeline.workspace import from_root, root, workspace


def fetch(params: Params, into: Path) -> Sequence[Path]:
    """Brings the data set that `download.path` names into the folder `into`.

    A folder that holds a single archive, or a single entry, and nothing else means that.

    Returns:
        downloads that nobody needs any more, once the folder has its place.

    Raises:
        PipelineError: there is nothing, or nothing usable, at the path.
    """
    source = _source(params.download.path)
    if registry.is_entry(source):
        return _described(source, into, params.download.mirror)
    if source.is_dir():
        _copy(source, into)
    else:
        unpack(source, into)
    return ()


def _source(path: str) -> Path:
    # An entry that git has is in a temporary workspace too, and DVC has noted that one.
    source = workspace() / path if registry.is_entry(Path(path)) else from_root(path)
    if root() != workspace().resolve() and not Path(path).is_absolute() and not registry.is_entry(source):
        # DVC has noted the folder of its temporary clone, where what git ignores is missing: its lock would lie.
        raise PipelineError(f"download.path: with --queue and --temp it must be absolute; set it to {source}")
    if not source.exists():
        raise PipelineError(f"{source}: no such file or folder; download.path should name your data set")
    return _inside(source) if source.is_dir() else source


def _inside(folder: Path) -> Path:
    inside = visible_entries(folder)
    if not inside:
        raise PipelineError(
            f"{folder}: nothing is in there; put your images with their annotations there, as a folder or a "
            ".zip/.tar/.tar.gz archive, or set download.path"
        )
    if len(inside) == 1 and registry.is_entry(inside[0]):
        return inside[0]
    return find_archive(folder) or folder


def _described(path: Path, into: Path, mirror: str | None) -> Sequence[Path]:
    """Fetches what a person's own entry describes, and leaves the entry with the data: conversion reads it there."""
    fetched = published.fetch(registry.read(path), f"custom-{path.stem}", into, mirror)
    shutil.copyfile(path, into / registry.ENTRY_COPY)
    return fetched


def _copy(source: Path, into: Path) -> None:
    """Copies rather than links: what DVC or anyone does to data/raw must not reach the owner's files."""
    if into.resolve().is_relative_to(source.resolve()):
        raise PipelineError(f"{source}: it holds this project's own data/raw; give the data set a folder of its own")
    try:
        shutil.copytree(source, into, ignore=shutil.ignore_patterns(".*", "__MACOSX"), copy_function=shutil.copyfile)
    except shutil.Error as error:
        file, _, reason = error.args[0][0]
        raise PipelineError(f"{file}: not copied: {reason}") from None
    except OSError as error:
        raise PipelineError(f"{error.filename or source}: not copied: {error.strerror}") from None
