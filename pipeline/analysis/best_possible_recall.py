"""Best possible recall: the share of objects that at least one location is assigned to (ICCV paper, section 4.1.1)."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fcos.assigners import ASSIGNERS
from fcos.config import ModelConfig
from fcos.structures import make_targets
from pipeline.analysis.assignment import input_locations, level_name, split_levels, zero_outputs
from pipeline.data.annotations import Annotation, AnnotationSet
from pipeline.data.boxes import box_tensor
from pipeline.errors import count_noun, format_table
from pipeline.loading.dataset import trainable_annotations
from pipeline.params import Params

# COCO's limits of small, medium and large objects: area in square pixels of the stored image.
_AREAS = {
    "all": (-math.inf, math.inf),
    "small": (-math.inf, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, math.inf),
}
_MAX_PAIRS = 2**22  # pairs of a location and an object that are processed together


@dataclass(frozen=True)
class Recall:
    """Objects with and without positive locations. Sizes are all, small, medium and large."""

    objects: dict[str, int]  # objects of each size
    assigned: dict[str, int]  # objects of each size with at least one positive location
    levels: dict[str, int]  # objects with a positive location on each level; an object may have several levels
    positives: int  # positive locations
    images: int


@dataclass(frozen=True)
class _Scene:
    """The objects of one image."""

    input_size: tuple[int, int]  # height and width of the network input
    stored_size: tuple[int, int]  # height and width of the stored image
    objects: list[Annotation]

    @property
    def boxes(self) -> Tensor:
        """[M, 4] x1, y1, x2, y2 in pixels of the network input."""
        (new_height, new_width), (height, width) = self.input_size, self.stored_size
        return box_tensor(self.objects) * torch.tensor([new_width / width, new_height / height] * 2)


def best_possible_recall(params: Params, split: AnnotationSet) -> Recall:
    """The best possible recall on a split, at the training size and without augmentation. No image is read.

    Raises:
        ValueError: the assigner needs predictions.
    """
    names = [level_name(stride) for stride in params.model.strides]
    objects, assigned = dict.fromkeys(_AREAS, 0), dict.fromkeys(_AREAS, 0)
    levels, positives = torch.zeros(len(names), dtype=torch.int64), 0
    for scenes in _batches(_scenes(params, split)):
        counts = _positives(params.model, scenes)  # [L, all objects of the batch]
        levels += (counts > 0).sum(dim=1)
        positives += int(counts.sum())
        areas = torch.tensor([annotation.area for scene in scenes for annotation in scene.objects])
        has_location = counts.sum(dim=0) > 0
        for name, (low, high) in _AREAS.items():
            of_size = (areas > low) & (areas <= high)
            objects[name] += int(of_size.sum())
            assigned[name] += int((of_size & has_location).sum())
    return Recall(objects, assigned, dict(zip(names, levels.tolist(), strict=True)), positives, len(split.images))


def _scenes(params: Params, split: AnnotationSet) -> list[_Scene]:
    annotations, include_difficult = split.by_image(), params.train.include_difficult
    return [
        _Scene(params.train.input_size.resized(image.height, image.width), (image.height, image.width), objects)
        for image in split.images
        if (objects := trainable_annotations(annotations[image.id], include_difficult=include_difficult))
    ]


def _batches(scenes: Sequence[_Scene]) -> Iterator[list[_Scene]]:
    """Images of similar shape and number of objects together, so that little of a batch is padding."""
    batch: list[_Scene] = []
    for scene in sorted(scenes, key=lambda scene: (scene.input_size, len(scene.objects))):
        longer = [*batch, scene]
        locations = max(math.prod(item.input_size) for item in longer) / 48  # approximately: 1/64 + 1/256 + …
        if batch and len(longer) * locations * max(len(item.objects) for item in longer) > _MAX_PAIRS:
            yield batch
            longer = [scene]
        batch = longer
    if batch:
        yield batch


def _positives(config: ModelConfig, scenes: Sequence[_Scene]) -> Tensor:
    """Number of positive locations on each level for each object [L, N]; N counts the objects of all images."""
    height, width = (max(scene.input_size[side] for scene in scenes) for side in (0, 1))
    locations = input_locations(config, height, width)
    boxes = [scene.boxes for scene in scenes]
    batch = make_targets(boxes, [torch.zeros(len(image), dtype=torch.int64) for image in boxes])
    assignment = ASSIGNERS[config.assigner](zero_outputs(config, locations, len(scenes)), batch, config)
    slots = batch.boxes.shape[1]  # objects of the batch are numbered image by image, padding included
    negative = len(scenes) * slots
    number = torch.where(assignment.positive, assignment.index + torch.arange(len(scenes))[:, None] * slots, negative)
    counts = [
        torch.bincount(level.flatten(), minlength=negative + 1)[:negative]
        for level in split_levels(number.T, locations)
    ]
    return torch.stack(counts)[:, batch.valid.flatten()]


def report(recall: Recall, split_path: str) -> str:
    """Best possible recall as a table, and the number of objects on each level."""
    rows = [("best possible recall", "objects", "with a location", "")]
    for name, count in recall.objects.items():
        share = f"{recall.assigned[name] / count:.2%}" if count else ""
        rows.append((name, f"{count:,}", f"{recall.assigned[name]:,}", share))
    levels = ", ".join(f"{name} {count:,}" for name, count in recall.levels.items())
    return "\n".join(
        [
            format_table(rows, "lrrr"),
            f"{split_path}: {count_noun(recall.images, 'image')} at the training size, without augmentation. "
            "Small: up to 32² square pixels in the stored image; large: over 96².",
            f"Objects with locations on each level (an object may have several levels): {levels}. "
            f"{recall.positives / max(1, recall.objects['all']):.1f} positive locations per object.",
        ]
    )
