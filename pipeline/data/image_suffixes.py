"""The endings of image files' names: one list for data sets and for `fcos predict`.

Whether a file can be decoded is a question of its content, not of its name: see `pipeline.data.images`. A file that an
annotation names with its ending needs none of these.
"""

from collections.abc import Collection
from pathlib import Path

IMAGE_SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo", ".jp2", ".j2k", ".jpf", ".jpx", ".png", ".apng", ".bmp", ".dib",
    ".tif", ".tiff", ".webp", ".gif", ".avif", ".tga", ".pbm", ".pgm", ".pnm", ".ppm", ".heic", ".heif",
})  # fmt: skip


def find_files(folder: Path, suffixes: Collection[str] = IMAGE_SUFFIXES) -> list[Path]:
    """The files in a folder and its subfolders whose names end with one of the suffixes, in any case; sorted.

    Hidden files and folders are left out, such as `.venv` with the icons of its packages.
    """
    paths = (path for path in folder.rglob("*") if path.suffix.lower() in suffixes)
    return sorted(path for path in paths if not _is_hidden(path.relative_to(folder)) and _is_file(path))


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _is_file(path: Path) -> bool:
    """Whether it is a file, or may be one: of what can't be looked up, its reader says why."""
    try:
        return path.is_file()
    except PermissionError:
        return True
