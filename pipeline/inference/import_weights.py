"""`fcos import-weights`: converts weights of torchvision's `fcos_resnet50_fpn` to a detector of this project."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fcos.config import InputSize
from fcos.detector import Detector
from fcos.torchvision_weights import coco_categories, count_rows, from_torchvision
from fcos.weights import Description, save_detector
from pipeline.errors import PipelineError, count_noun
from pipeline.files import read_json

_SIZE = (800, 1333)  # torchvision's model resizes images to this size, in pixels
_COCO_ROWS = 91  # classes in torchvision's COCO weights: the background and COCO's ids, including unused ones


def import_weights(file: Path, out: Path, categories: Path | None = None) -> Description:
    """Converts a weights file, and writes a detector: `out` (.safetensors) and the JSON file beside it.

    Args:
        file: a state dict as .safetensors, or as .pth from torch.save, at the top level or under the key "model".
        categories: a COCO JSON with the classes that the weights were trained on. By default, weights with 91 rows
            get COCO's classes, and others get class_1, class_2, …

    Raises:
        PipelineError: the file does not contain such weights, or the categories do not match them.
    """
    if out.suffix != ".safetensors":
        raise PipelineError(f"{out}: the name of a detector's file must end in .safetensors")
    detector, classes = read_detector(file, categories)
    description = Description(model=detector.config, categories=classes, input_size=InputSize(_SIZE))
    save_detector(detector, description, out)
    return description


def read_detector(file: Path, categories: Path | None = None) -> tuple[Detector, tuple[tuple[int, str], ...]]:
    """The detector in a weights file, and the ids and names of its categories in order of their labels.

    Arguments and errors are those of `import_weights`.
    """
    state = _read(file)
    try:
        rows = count_rows(state)
        classes = _categories(rows, categories)
        # torchvision trains on COCO with its category ids as class indices, unused ids included; 0 is the background.
        ids_are_rows = all(0 < id < rows for id, _ in classes)
        return from_torchvision(state, [id for id, _ in classes] if ids_are_rows else range(1, rows)), classes
    except ValueError as error:
        raise PipelineError(f"{file}: {error}") from None


def _categories(rows: int, source: Path | None) -> tuple[tuple[int, str], ...]:
    if source is None:
        return coco_categories() if rows == _COCO_ROWS else tuple((row, f"class_{row}") for row in range(1, rows))
    classes = _read_categories(source)
    if len(classes) != rows - 1 and not all(0 < id < rows for id, _ in classes):
        raise PipelineError(
            f"{source}: {count_noun(len(classes), 'category', 'categories')}, but the weights have "
            f"{count_noun(rows - 1, 'class', 'classes')} besides the background, "
            f"and the category ids are not all between 1 and {rows - 1}: give the categories of the training data"
        )
    return classes


def _read_categories(source: Path) -> tuple[tuple[int, str], ...]:
    content = read_json(source)
    try:
        classes = tuple(sorted((category["id"], category["name"]) for category in content["categories"]))
    except (KeyError, TypeError):
        classes = ()
    if not classes or not all(type(id) is int and type(name) is str for id, name in classes):
        raise PipelineError(f"{source}: not a COCO JSON: it needs categories, each with an id and a name")
    return classes


def _read(file: Path) -> Mapping[str, Tensor]:
    if not file.is_file():
        raise PipelineError(f"{file}: no such file")
    try:
        content: Any = load_file(file) if file.suffix == ".safetensors" else _unpickle(file)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        start = " ".join(str(error).split()[:30])
        raise PipelineError(
            f"{file}: neither .safetensors nor a .pth file that contains only tensors: {start}"
        ) from None
    state = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise PipelineError(f"{file}: contains no state dict (names mapped to tensors)")
    return state


def _unpickle(file: Path) -> object:
    """Loads tensors and plain containers only; a pickle that would run code raises an error."""
    return torch.load(file, map_location="cpu", weights_only=True)
