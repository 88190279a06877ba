"""Starts a detector from the weights of another one: tensors are matched by name and shape, classes by name."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fcos.backbones.state_dicts import COUNTER
from fcos.config import ModelConfig
from fcos.detector import Detector

_CLASSES = ("head.class_logits.weight", "head.class_logits.bias")  # [K, …], a row for each class
_SCALES = "head.scales"  # [L], a value for each level
# Outputs whose numbers mean something else with another value of these parameters.
_MEANINGS = {
    "head.box.": ("box_output",),
    _SCALES: ("box_output",),
    "head.quality.": ("quality", "quality_tower"),
    "head.class_tower.": ("tower_convolution",),
    "head.box_tower.": ("tower_convolution",),
}
# Modules of a neck in lists that begin at the first level, or at the second.
_BY_LEVEL = re.compile(r"(neck\.(?:fpn\.)?(?:lateral|output|down|fuse|layers\.\d+\.(?:top_down|bottom_up))\.)(\d+)")
_MAX_NAMES = 3  # classes that a line names


@dataclass(frozen=True)
class Source:
    """The weights of another detector.

    Args:
        tensors: by the names of this project's detectors.
        config: the architecture; decides which levels and outputs the tensors belong to.
        rows: names of classes, each with its row in the tensors of the classification layer.
        mean, std: of each channel, in 0…1, that images are normalized with.
    """

    tensors: Mapping[str, Tensor]
    config: ModelConfig
    rows: Mapping[str, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Transfer:
    """What a detector took from a file.

    Args:
        taken, total: numbers of tensors, without batch norm's counters.
        new: the parts of the detector that keep their initial weights, with the number of tensors of each.
        new_classes: names of classes that keep their initial weights.
        normalization: whether the file's normalization replaced that of the backbone.
    """

    taken: int
    total: int
    new: Mapping[str, int]
    new_classes: Sequence[str]
    normalization: bool

    def __str__(self) -> str:
        """One line for people."""
        new = [f"{part} ({count} tensor{'s' if count > 1 else ''})" for part, count in self.new.items()]
        if self.new_classes:
            names = ", ".join(self.new_classes[:_MAX_NAMES])
            more = f" and {count} more" if (count := len(self.new_classes) - _MAX_NAMES) > 0 else ""
            noun = "class" if len(self.new_classes) == 1 else "classes"
            new.append(f"head.class_logits of {len(self.new_classes)} {noun} not in the file ({names}{more})")
        normalization = "; images are normalized as for the file" if self.normalization else ""
        return f"took {self.taken} of {self.total} tensors; new: {', '.join(new) or 'none'}{normalization}"


def transfer(detector: Detector, classes: Sequence[str], source: Source) -> Transfer:
    """Copies what fits of another detector's weights into a detector; the rest keeps its initial values.

    A tensor fits if its name and its shape are the same, and if it means the same. The neck's tensors are matched by
    pyramid level, so that detectors may have different levels. Rows of the classification layer are matched by the
    names of classes. If all of the backbone is taken, images are normalized as the file's weights need it.

    Args:
        classes: names of the detector's classes, in the order of their labels.

    Raises:
        ValueError: numbers in the file are not finite floats, or nothing fits.
    """
    given, state = _given(source, detector.config), detector.state_dict()
    by_row = _rows(source, classes, detector.config.levels)
    with torch.no_grad():
        copied = {name: _copy(name, tensor, given.get(name), by_row.get(name)) for name, tensor in state.items()}
    new = [name for name, complete in copied.items() if not complete and not name.endswith(COUNTER)]
    total = sum(not name.endswith(COUNTER) for name in state)
    if not {name for name, complete in copied.items() if complete} - {_SCALES}:
        raise ValueError("no tensor fits by name and shape: its detector has another backbone, neck and head")
    ours = (detector.backbone.mean, detector.backbone.std)
    normalization = ours != (source.mean, source.std) and not any(name.startswith("backbone.") for name in new)
    if normalization:
        detector.set_normalization(mean=source.mean, std=source.std)
    by_class = all(_same_rows(given.get(name), state[name]) for name in _CLASSES)
    new_classes = [name for name in classes if by_class and name not in source.rows]
    parts = Counter(_part(name) for name in new if not (by_class and name in _CLASSES))
    return Transfer(total - len(new), total, parts, new_classes, normalization)


def _given(source: Source, config: ModelConfig) -> dict[str, Tensor]:
    """The file's tensors by their names in a detector of this configuration, without those that mean something else."""
    shift = source.config.levels[0] - config.levels[0]
    different = tuple(
        prefix
        for prefix, fields in _MEANINGS.items()
        if any(getattr(source.config, field) != getattr(config, field) for field in fields)
    )
    return {
        _BY_LEVEL.sub(lambda match: f"{match[1]}{int(match[2]) + shift}", name, count=1): tensor
        for name, tensor in source.tensors.items()
        if not name.startswith(different)
    }


def _rows(source: Source, classes: Sequence[str], levels: Sequence[int]) -> dict[str, list[int | None]]:
    """For tensors with a row for each class or level: the file's row for each of the detector's."""
    file_levels = source.config.levels
    by_class = [source.rows.get(name) for name in classes]
    by_level = [file_levels.index(level) if level in file_levels else None for level in levels]
    return dict.fromkeys(_CLASSES, by_class) | {_SCALES: by_level}


def _copy(name: str, target: Tensor, given: Tensor | None, rows: Sequence[int | None] | None) -> bool:
    """Copies a tensor, or those of its rows that the file has; returns whether it is complete."""
    if given is None or not (_same_shape(given, target) if rows is None else _same_rows(given, target)):
        return False
    if rows is None:
        target.copy_(given if name.endswith(COUNTER) else _checked(name, given))
        return True
    pairs = [(row, given_row) for row, given_row in enumerate(rows) if given_row is not None]
    for row, given_row in pairs:
        target[row].copy_(_checked(name, given[given_row]))
    return len(pairs) == len(rows)


def _checked(name: str, tensor: Tensor) -> Tensor:
    if tensor.layout != torch.strided or tensor.device.type != "cpu":
        raise ValueError(f"{name} is no plain tensor")
    if not tensor.is_floating_point():
        raise ValueError(f"{name} holds {tensor.dtype} numbers instead of floats")
    if not tensor.isfinite().all():
        raise ValueError(f"{name} holds NaN or infinite numbers")
    return tensor


def _same_shape(given: Tensor | None, target: Tensor) -> bool:
    return given is not None and given.shape == target.shape


def _same_rows(given: Tensor | None, target: Tensor) -> bool:
    return given is not None and given.ndim > 0 and given.shape[1:] == target.shape[1:]


def _part(name: str) -> str:
    """The module that a line names for a tensor, such as `neck.extra`."""
    return "backbone" if name.startswith("backbone.") else ".".join(name.split(".")[:2])
