"""A data set of one's own: a folder or an archive."""

import shutil
from pathlib import Path

from pipeline.datasets.archives import is_archive, unpack
from pipeline.errors import PipelineError
from pipeline.params import Params
from pipeline.workspace import from_root, root, workspace


def fetch(params: Params, into: Path) -> None:
    """Brings the data set that `download.path` names into the folder `into`.

    A folder that holds a single archive and nothing else means that archive.

    Raises:
        PipelineError: there is nothing, or nothing usable, at the path.
    """
    source = from_root(params.download.path)
    if root() != workspace().resolve() and not Path(params.download.path).is_absolute():
        # DVC has noted the folder of its temporary clone, where what git ignores is missing: its lock would lie.
        raise PipelineError(f"download.path: with --queue and --temp it must be absolute; set it to {source}")
    if source.is_dir():
        visible = [path for path in source.iterdir() if not path.name.startswith(".")]
        if not visible:
            raise PipelineError(
                f"{source}: nothing is in there; put your images with their COCO or Pascal VOC annotations there, "
                "as a folder or a .zip/.tar/.tar.gz archive, or set download.path"
            )
        source = visible[0] if len(visible) == 1 and is_archive(visible[0]) else source
    if source.is_dir():
        _copy(source, into)
    elif source.is_file():
        unpack(source, into)
    else:
        raise PipelineError(f"{source}: no such file or folder; download.path should name your data set")


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
