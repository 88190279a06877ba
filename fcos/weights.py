"""Saved detectors: weights as safetensors, everything else needed to use them as JSON. No pickle."""

import hashlib
import math
import mmap
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from fcos.backbones.batch_norm import batch_norm_mode
from fcos.backbones.state_dicts import COUNTER, Shape, describe_mismatch, first_sentence
from fcos.config import ModelConfig
from fcos.description import Description, from_json, to_json
from fcos.detector import Detector, build

__all__ = ["Description", "load_detector", "save_detector"]

_CHECKSUM = "sha256"  # in the metadata of a safetensors file: of the bytes after its header


def save_detector(detector: Detector, description: Description, path: str | Path) -> None:
    """Writes the weights to `path` (.safetensors) and the description beside it (.json).

    The same detector gives the same bytes. Both files are replaced atomically. The weights have a checksum, since a
    damaged number is a number, too.
    """
    path = Path(path)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in detector.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    text = to_json(description, mean=detector.backbone.mean, std=detector.backbone.std).encode()
    weights = save(tensors, {_CHECKSUM: _checksum(save(tensors))})
    for file, content in ((path, weights), (path.with_suffix(".json"), text)):
        partial = file.with_name(f".{file.name}.partial")
        partial.write_bytes(content)
        partial.replace(file)


def _checksum(content: bytes | mmap.mmap) -> str:
    """SHA-256 of the numbers in a safetensors file, which begins with the length of its header in eight bytes."""
    start = 8 + int.from_bytes(content[:8], "little")
    with memoryview(content) as whole, whole[start:] as numbers:
        return hashlib.sha256(numbers).hexdigest()


def load_detector(path: str | Path, device: torch.device | None = None) -> tuple[Detector, Description]:
    """Loads a detector that `save_detector` wrote, in evaluation mode.

    Files without a checksum, which other programs or earlier versions wrote, are loaded as well.

    Raises:
        ValueError: a file is missing or invalid; one line with the file and the problem.
    """
    path = Path(path)
    about = path.with_suffix(".json")
    for needed in (path, about):
        if not needed.is_file():
            raise ValueError(f"{needed}: no such file; the weights and their .json file must be in the same folder")
    try:
        description, normalization = from_json(about.read_bytes())
    except (ValueError, OSError) as error:
        raise ValueError(f"{about}: not a description of a detector: {error}") from None
    try:
        shapes, checksum = _read_header(path)
        if mismatch := _size_mismatch(description, shapes):
            raise ValueError(f"{path}: does not hold the weights that {about.name} describes: {mismatch}")
        detector = _build(description, about)
        if mismatch := describe_mismatch(_shapes(detector.state_dict()), shapes):
            raise ValueError(f"{path}: does not hold the weights that {about.name} describes: {mismatch}")
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if checksum not in (None, _checksum(content)):
                raise ValueError(f"{path}: damaged: its numbers are not those that were saved; restore the file")
        if problem := _load_state(detector, load_file(path)):
            raise ValueError(f"{path}: {problem}")
    except (SafetensorError, RuntimeError, OSError) as error:
        raise ValueError(f"{path}: damaged, or not a safetensors file: {first_sentence(error)}") from None
    detector.set_normalization(mean=normalization.mean, std=normalization.std)
    return detector.to(device).eval(), description


def _size_mismatch(description: Description, shapes: Mapping[str, Shape]) -> str | None:
    """Whether the file has too few numbers, before a wrong number of channels or classes fills the memory."""
    config, num_classes = description.model, len(description.categories)
    width = config.tower_channels or config.channels
    fewest = num_classes * width + config.channels**2 + config.tower_depth * width**2  # a detector has more
    if fewest > sum(map(math.prod, shapes.values())):
        return f"it has too few numbers for {num_classes} classes and {config.channels} channels"
    return None


def _build(description: Description, about: Path) -> Detector:
    try:
        return build(without_pretrained(description.model), len(description.categories))
    except ValueError as error:  # such as a backbone whose package is not installed
        raise ValueError(f"{about}: {error}") from None


def _shapes(state: Mapping[str, Tensor]) -> dict[str, Shape]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _read_header(path: Path) -> tuple[dict[str, Shape], str | None]:
    """The shapes of the tensors in a safetensors file, and its checksum, if it has one."""
    with safe_open(path, "pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no mapping
        return shapes, (file.metadata() or {}).get(_CHECKSUM)


def without_pretrained(config: ModelConfig) -> ModelConfig:
    """The configuration without pretrained weights: a file replaces all of them, so they need not be downloaded."""
    return replace(config, pretrained=False, batch_norm=batch_norm_mode(config))


def _load_state(detector: Detector, tensors: dict[str, Tensor]) -> str | None:
    """Loads the tensors; returns what is wrong with their numbers, if anything. Floats may have any precision."""
    state = detector.state_dict()
    for name, tensor in tensors.items():
        if name in state and tensor.is_floating_point() != state[name].is_floating_point():
            return f"{name} holds {tensor.dtype} numbers instead of {state[name].dtype}"
        if tensor.is_floating_point() and not tensor.isfinite().all():
            return f"{name} holds NaN or infinite numbers"
    # Frozen batch norm has no num_batches_tracked; a detector saved with it has none in its file.
    counters = {name: tensor for name, tensor in state.items() if name.endswith(COUNTER)}
    detector.load_state_dict({**counters, **tensors})
    return None
