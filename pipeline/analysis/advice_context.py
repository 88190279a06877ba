"""The facts of a training that advice is based on, from annotations and parameters."""

import os
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipeline.analysis.assignment import NEEDS_PREDICTIONS
from pipeline.analysis.best_possible_recall import Recall, best_possible_recall
from pipeline.analysis.tiling import Floats, box_factors
from pipeline.data.annotations import AnnotationSet
from pipeline.inference.device import choose_device
from pipeline.loading.dataset import trainable_annotations
from pipeline.params import MachineParams, Params, TrainParams

_RECALL_SAMPLE = 400  # images for the best possible recall: takes seconds, even at 1333 pixels


@dataclass(frozen=True, kw_only=True)
class Context:
    """The facts that advice is based on."""

    params: Params
    images: int  # training images per epoch
    steps: int  # per epoch
    val_images: int
    image_sizes: Floats  # [N, 2] height and width of the stored images
    box_sizes: Floats  # [M, 2] height and width of the training objects, in pixels at the input size without zoom
    train_counts: Counter[str]  # training objects of each class; classes without objects are included
    val_counts: Counter[str]  # validation objects of each class
    recall: Recall | None  # best possible recall on a sample; None if the assigner needs predictions
    device: str
    cores: int

    @property
    def train(self) -> TrainParams:
        return self.params.train

    @property
    def machine(self) -> MachineParams:
        return self.params.machine

    @cached_property
    def long_sides(self) -> Floats:
        """[M] the longer sides of the objects."""
        sides: Floats = self.box_sizes.max(axis=1)
        return sides

    @property
    def size_text(self) -> str:
        """The parameter of the input size, with its value."""
        return f"train.size (now {list(self.train.size)})"


def make_context(params: Params, train: AnnotationSet, val: AnnotationSet, *, steps: int) -> Context:
    """Collects the facts of a training. For 118,000 images this takes a few seconds, most of them for the recall."""
    size_of = {image.id: (image.height, image.width) for image in train.images}
    objects = trainable_annotations(train.annotations, include_difficult=params.train.include_difficult)
    image_sizes = np.array([size_of[item.image_id] for item in objects], dtype=np.float64).reshape(-1, 2)
    box_sizes = np.array([item.bbox[3:1:-1] for item in objects], dtype=np.float64).reshape(-1, 2)
    # The recall is that of whole images.
    has_recall = bool(objects) and params.model.assigner not in NEEDS_PREDICTIONS and not params.train.tiles
    return Context(
        params=params,
        images=_count_images(params, train, steps),
        steps=steps,
        val_images=len(val.images),
        image_sizes=np.array(list(size_of.values()), dtype=np.float64).reshape(-1, 2),
        box_sizes=box_sizes * box_factors(params.train, image_sizes, box_sizes)[:, None],
        train_counts=_count_classes(train, include_difficult=params.train.include_difficult),
        val_counts=_count_classes(val, include_difficult=False),
        recall=best_possible_recall(params, _recall_sample(train)) if has_recall else None,
        device=choose_device(params.machine.device).type,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
    )


def _count_images(params: Params, split: AnnotationSet, steps: int) -> int:
    """The number of images, or of their tiles, in an epoch."""
    usable = min(_count_usable(params, split), params.train.max_images or len(split.images))
    return max(usable, steps * params.train.batch_size) if params.train.tiles else usable


def _count_usable(params: Params, split: AnnotationSet) -> int:
    """The number of images that train.include_empty and train.include_crowd leave."""
    objects = trainable_annotations(split.annotations, include_difficult=params.train.include_difficult)
    with_objects = {item.image_id for item in objects}
    with_crowd = {item.image_id for item in split.annotations if item.iscrowd}
    return sum(
        (params.train.include_empty or image.id in with_objects)
        and (params.train.include_crowd or image.id not in with_crowd)
        for image in split.images
    )


def _count_classes(split: AnnotationSet, *, include_difficult: bool) -> Counter[str]:
    objects = trainable_annotations(split.annotations, include_difficult=include_difficult)
    counts = Counter(item.category_id for item in objects)
    return Counter({category.name: counts[category.id] for category in split.categories})


def _recall_sample(split: AnnotationSet) -> AnnotationSet:
    """Images at equal distances in the list."""
    return split.subset(split.images[:: -(-len(split.images) // _RECALL_SAMPLE)])
