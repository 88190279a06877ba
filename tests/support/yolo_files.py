"""Small files of YOLO data sets."""

from collections.abc import Callable
from pathlib import Path

from pipeline.formats.records import RawDataset

Write = Callable[..., Path]
LINE = "1 0.5 0.5 0.25 0.2\n"
BOX = (15.0, 12.0, 10.0, 6.0)


def texts(folder: Path, **files: str) -> None:
    """Writes files; in their names `__` stands for a folder."""
    for name, content in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(path.name + (".txt" if "." not in path.name else "")).write_text(content)


def yaml(folder: Path, content: str, name: str = "data.yaml") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content)


def files(dataset: RawDataset) -> dict[str, list[str]]:
    return {name: [image.file for image in split.images] for name, split in dataset.splits.items()}
