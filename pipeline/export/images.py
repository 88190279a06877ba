"""Images on which an exported detector is calibrated and compared."""

from pathlib import Path

import torch
from torch import Tensor

from fcos.config import InputSize
from pipeline.data import annotations
from pipeline.data.image_suffixes import IMAGE_SUFFIXES
from pipeline.data.images import read_image
from pipeline.errors import PipelineError, count_noun
from pipeline.export.provenance import images_folder, project_of

_BLOCK = 8  # pixels
_COMPARED = 16  # images
_CALIBRATED = 100


def for_comparison(weights: Path, input_size: InputSize) -> list[Tensor]:
    """Some images of the validation split, or generated ones where there is none."""
    files = split_files(weights, "val")
    return read_some(files, _COMPARED) if files else generate(input_size, _COMPARED)


def for_calibration(weights: Path, folder: Path | None) -> tuple[list[Tensor], str]:
    """Images of a folder or of the training split, and a description of them.

    Raises:
        PipelineError: there is no such image, or one can't be decoded.
    """
    files = folder_files(folder) if folder else split_files(weights, "train")
    if not files:
        raise PipelineError(f"{weights}: no training split of its project here; give --calibrate FOLDER with images")
    images = read_some(files, _CALIBRATED)
    return images, f"{count_noun(len(images), 'image')} of {folder or 'the training split'}"


def split_files(weights: Path, split: str) -> list[Path]:
    """The images of a split of the project that trained the detector; none if there is no such project."""
    project = project_of(weights)
    if project is None:
        return []
    folder = images_folder(project)
    return [folder / image.file_name for image in annotations.read(project / f"data/unified/{split}.json").images]


def folder_files(folder: Path) -> list[Path]:
    """The images in a folder and its subfolders.

    Raises:
        PipelineError: there is none.
    """
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    if not files:
        raise PipelineError(f"{folder}: no image in this folder; give another one")
    return files


def read_some(files: list[Path], count: int) -> list[Tensor]:
    """The pixels, uint8 [3, H, W], of at most `count` images, evenly spaced in the list.

    Raises:
        PipelineError: an image can't be decoded.
    """
    step = max(1, len(files) // count)
    return [read_image(path) for path in files[::step][:count]]


def generate(input_size: InputSize, count: int) -> list[Tensor]:
    """Images of colored blocks, always the same ones, at the size of the detector's input."""
    generator = torch.Generator().manual_seed(0)
    height, width = (-(-side // _BLOCK) for side in input_size.size)
    blocks = torch.randint(0, 256, (count, 3, height, width), generator=generator, dtype=torch.uint8)
    return list(blocks.repeat_interleave(_BLOCK, 2).repeat_interleave(_BLOCK, 3))
