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
    """The files in a folder and its subfolders whose names end with one of the suffixes, in any case; sorted."""
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in suffixes and file.is_file())
