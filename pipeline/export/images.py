"""Images on which an exported detector is calibrated and compared."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from fcos.config import InputSize
from pipeline.data import annotations
from pipeline.data.annotations import AnnotationSet, Image
from pipeline.data.image_suffixes import find_files
from pipeline.data.images import read_image
from pipeline.errors import PipelineError, count_noun
from pipeline.export.provenance import images_folder, project_of
from pipeline.inference.saved_detector import SavedDetector

_Item = TypeVar("_Item")

_BLOCK = 8  # pixels
_GENERATED = _TIMED = 16  # images
_CALIBRATED = 100


@dataclass(frozen=True)
class Compared:
    """The images in which an exported detector is compared."""

    number: int
    pixels: Iterable[Tensor]  # uint8 [3, H, W] as stored, each read when it is needed
    split: AnnotationSet | None  # their annotations; None: the images are generated


def for_comparison(weights: Path, model: SavedDetector, limit: int | None = None) -> Compared:
    """The images of the validation split, or generated ones where there is none or it is empty.

    Args:
        limit: the largest number of images, evenly spaced; None: all.

    Raises:
        PipelineError: the split is invalid, or its first image can't be decoded; from `pixels`: another one can't.
    """
    project = project_of(weights)
    split = annotations.read(project / "data/unified/val.json") if project else None
    if project is None or split is None or not split.images:
        count = min(limit or _GENERATED, _GENERATED)
        return Compared(count, generate(model.description.input_size, count), None)
    folder = images_folder(project)
    chosen = evenly_spaced(split.images, limit or len(split.images))
    has_classes = [(category.id, category.name) for category in split.categories] == [*model.description.categories]
    _read_compared(folder, chosen[0])  # tracing takes long: missing images are noticed before it
    pixels = (_read_compared(folder, image) for image in chosen)
    return Compared(len(chosen), pixels, split.subset(chosen) if has_classes else None)


def _read_compared(folder: Path, image: Image) -> Tensor:
    try:
        return read_image(folder / image.file_name, (image.width, image.height))
    except PipelineError as error:
        raise PipelineError(f"{error}; --no-check exports without comparing") from None


def for_timing(weights: Path, input_size: InputSize) -> list[Tensor]:
    """Some images of the validation split, or generated ones where there is none."""
    files = split_files(weights, "val")
    return [read_image(path) for path in evenly_spaced(files, _TIMED)] if files else generate(input_size, _TIMED)


def for_calibration(weights: Path, folder: Path | None) -> tuple[Iterator[Tensor], str]:
    """Images of a folder or of the training split, each read when it is needed, and a description of them.

    Raises:
        PipelineError: there is no such image; from the iterator: one can't be decoded.
    """
    files = find_files(folder) if folder else split_files(weights, "train")
    if folder and not files:
        raise PipelineError(f"{folder}: no image in this folder; give another one")
    if not files:
        raise PipelineError(f"{weights}: no training split of its project here; give --calibrate FOLDER with images")
    chosen = evenly_spaced(files, _CALIBRATED)
    return map(read_image, chosen), f"{count_noun(len(chosen), 'image')} of {folder or 'the training split'}"


def split_files(weights: Path, split: str) -> list[Path]:
    """The images of a split of the project that trained the detector; none if there is no such project."""
    project = project_of(weights)
    if project is None:
        return []
    folder = images_folder(project)
    return [folder / image.file_name for image in annotations.read(project / f"data/unified/{split}.json").images]


def evenly_spaced(items: Sequence[_Item], count: int) -> list[_Item]:
    """At most `count` items of a list, in its order."""
    count = min(count, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def generate(input_size: InputSize, count: int) -> list[Tensor]:
    """Images of colored blocks, always the same ones, at the size of the detector's input."""
    generator = torch.Generator().manual_seed(0)
    height, width = (-(-side // _BLOCK) for side in input_size.size)
    blocks = torch.randint(0, 256, (count, 3, height, width), generator=generator, dtype=torch.uint8)
    return list(blocks.repeat_interleave(_BLOCK, 2).repeat_interleave(_BLOCK, 3))
