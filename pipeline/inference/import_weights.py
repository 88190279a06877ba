"""`fcos import-weights`: a file of torchvision's `fcos_resnet50_fpn` becomes a detector of ours."""

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
from pipeline.errors import PipelineError
from pipeline.files import read_json

_SIZE = (800, 1333)  # what torchvision's model resizes images to
_COCO_ROWS = 91


def import_weights(file: Path, out: Path, categories: Path | None = None) -> Description:
    """Writes the detector `out` (.safetensors) and the JSON beside it.

    Args:
        file: .safetensors, or .pth as torch.save writes a state dict, bare or under "model".
        categories: a COCO JSON with the classes that it was trained on; without it, 91 rows are COCO's and others
            become class_1, class_2, …

    Raises:
        PipelineError: the file isn't such weights, or the categories aren't theirs.
    """
    if out.suffix != ".safetensors":
        raise PipelineError(f"{out}: a detector's name ends in .safetensors")
    detector, known = read_detector(file, categories)
    about = Description(model=detector.config, categories=known, input_size=InputSize(_SIZE))
    save_detector(detector, about, out)
    return about


def read_detector(file: Path, categories: Path | None = None) -> tuple[Detector, tuple[tuple[int, str], ...]]:
    """The detector in a file, and its categories, ids and names by label; see `import_weights`."""
    state = _read(file)
    try:
        rows = count_rows(state)
        known = _categories(rows, categories)
        by_id = all(0 < id < rows for id, _ in known)
        # torchvision's training takes COCO's ids as classes, with gaps where COCO has them; 0 is the background.
        return from_torchvision(state, [id for id, _ in known] if by_id else range(1, rows)), known
    except ValueError as error:
        raise PipelineError(f"{file}: {error}") from None


def _categories(rows: int, source: Path | None) -> tuple[tuple[int, str], ...]:
    if source is None:
        return coco_categories() if rows == _COCO_ROWS else tuple((row, f"class_{row}") for row in range(1, rows))
    known = _read_categories(source)
    if len(known) != rows - 1 and not all(0 < id < rows for id, _ in known):
        raise PipelineError(
            f"{source}: {len(known)} categories, but the weights have {rows - 1} classes besides the background, "
            "and the categories' ids are not rows of theirs"
        )
    return known


def _read_categories(source: Path) -> tuple[tuple[int, str], ...]:
    content = read_json(source)
    try:
        known = tuple(sorted((category["id"], category["name"]) for category in content["categories"]))
    except (KeyError, TypeError):
        known = ()
    if not known or not all(type(id) is int and type(name) is str for id, name in known):
        raise PipelineError(f"{source}: not a COCO JSON: it needs categories, each with an id and a name")
    return known


def _read(file: Path) -> Mapping[str, Tensor]:
    if not file.is_file():
        raise PipelineError(f"{file}: no such file")
    try:
        content: Any = load_file(file) if file.suffix == ".safetensors" else _unpickled(file)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        first = " ".join(str(error).split()[:30])
        raise PipelineError(f"{file}: neither .safetensors nor a state dict of tensors alone (.pth): {first}") from None
    state = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise PipelineError(f"{file}: holds no state dict, tensors by name")
    return state


def _unpickled(file: Path) -> object:
    """Tensors and plain containers alone: a pickle that would run code is refused."""
    return torch.load(file, map_location="cpu", weights_only=True)
