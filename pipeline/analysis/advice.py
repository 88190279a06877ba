"""Advice before a training: one line for each problem of data and parameters, with what to change.

The advice follows from annotations and parameters; no image is read. Only what is certainly wrong, or certainly wasted,
is worth a line.
"""

import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fcos.config import MAX_DISTRIBUTION
from fcos.locations import size_ranges
from pipeline.analysis.assignment import NEEDS_PREDICTIONS, level_name
from pipeline.analysis.best_possible_recall import Recall, best_possible_recall
from pipeline.analysis.tiling import Floats, box_factors, propose_tiles, resize_factors
from pipeline.data.annotations import AnnotationSet
from pipeline.errors import count_noun
from pipeline.inference.device import choose_device
from pipeline.loading.dataset import trainable_annotations
from pipeline.params import MachineParams, Params, TrainParams
from pipeline.training.build import learning_rate, to_iterations
from pipeline.training.initial_weights import find_start

_RECALL_SAMPLE = 400  # images for the best possible recall: takes seconds, even at 1333 pixels
_MAX_NAMES = 5  # class names in a line
_SMALL_BOX = 8  # pixels
_LARGE_INPUT = 500_000  # pixels of an image; larger inputs need a GPU


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


def advice(params: Params, train: AnnotationSet, val: AnnotationSet, *, steps: int) -> list[str]:
    """Lines of advice, most important first.

    Args:
        train: the training split.
        val: the validation split.
        steps: number of steps per epoch.
    """
    context = make_context(params, train, val, steps=steps)
    return [line for rule in RULES if (line := rule(context))]


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


def _list_names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(names[:_MAX_NAMES]) + more


# Rules about classes. Each rule is a function from a context to a line of advice, or None.


def untrained_classes(context: Context) -> str | None:
    """Classes that are evaluated but never trained."""
    names = [name for name, count in context.val_counts.items() if count and not context.train_counts[name]]
    if not names:
        return None
    return (
        f"val has objects of {_list_names(names)} but train has none, so all of them will be missed: change the split "
        "(convert.val_fraction, convert.split_seed)"
    )


def missing_classes(context: Context) -> str | None:
    """Classes without any object."""
    names = [name for name, count in context.train_counts.items() if not count and not context.val_counts[name]]
    if not names:
        return None
    return (
        f"{len(names)} of {len(context.train_counts)} classes have no objects ({_list_names(names)}): leave them out "
        "with convert.classes"
    )


def imbalanced_classes(context: Context) -> str | None:
    """A class with over a thousand times as many objects as another."""
    ranked = [(name, count) for name, count in context.train_counts.most_common() if count]
    if not ranked or ranked[0][1] <= 1000 * ranked[-1][1]:
        return None
    (most, most_count), (fewest, fewest_count) = ranked[0], ranked[-1]
    return (
        f"{most} has {most_count:,} objects and {fewest} has {fewest_count:,}: check the AP of the rare classes; add "
        "images of them, raise train.repeat_threshold, or leave them out with convert.classes"
    )


# Rules about sizes


def small_boxes(context: Context) -> str | None:
    """Boxes smaller than the stride of P3, of which little is left in a feature map."""
    sizes = np.sqrt(context.box_sizes.prod(axis=1))
    share = float((sizes < _SMALL_BOX).mean()) if len(sizes) else 0.0
    if share < 0.1:
        return None
    add_level = "" if context.params.model.levels[0] == 3 else ", and start model.levels at 3"
    return (
        f"{share:.0%} of the boxes are under {_SMALL_BOX} px at the input size: increase {context.size_text}{add_level}"
    )


def small_boxes_in_large_images(context: Context) -> str | None:
    """Many small boxes in images that are shrunk: a larger input or tiles show them."""
    line = propose_tiles(context.train, context.box_sizes, context.image_sizes, context.device)
    uncached = " -S machine.cache=false" if line and "tiles=" in line and context.machine.cache else ""
    return line and line + uncached


def untiled_evaluation(context: Context) -> str | None:
    """A detector of small objects that is evaluated on whole images only, where it can't find them."""
    tiles = context.train.tiles
    if tiles is None or context.params.evaluate.tiles:
        return None
    return f"training is on tiles, but evaluation isn't: -S 'evaluate.tiles=[{tiles[0]}, {tiles[1]:g}]'"


def empty_levels(context: Context) -> str | None:
    """Levels whose size range contains no object at any zoom."""
    if context.params.model.assigner != "fcos" or not len(context.box_sizes):
        return None
    model, reached = context.params.model, _reached_levels(context)
    unused = [index for index, is_reached in enumerate(reached) if not is_reached]
    names = ", ".join(level_name(model.strides[index]) for index in unused)
    if not unused:
        return None
    if unused != list(range(unused[0], len(reached))):  # only the last levels can be left out
        return f"no object falls on {names}: adapt model.regression_ranges and model.levels to the sizes of the objects"
    low = size_ranges(model.strides, model.regression_ranges)[unused[0]][0]
    return (
        f"no object falls on {names} (sizes over {low:g} px): leave it out of model.levels, or increase "
        f"{context.size_text}"
    )


def _reached_levels(context: Context) -> list[bool]:
    """Whether a location of each level could be assigned to any object, by size.

    The largest distance from a location to the sides of an object is at least half the longer side. It is at most half
    the longer side plus the center sampling radius, and at most the longer side.
    """
    model, (smallest, largest) = context.params.model, _zoomed_sides(context)
    radii = [
        model.center_sampling_radius * stride if model.center_sampling_radius else np.inf for stride in model.strides
    ]
    return [
        bool(((smallest / 2 <= high) & (np.minimum(largest, largest / 2 + radius) > low)).any())
        for (low, high), radius in zip(size_ranges(model.strides, model.regression_ranges), radii, strict=True)
    ]


def _zoomed_sides(context: Context) -> tuple[Floats, Floats]:
    """[M], [M] the longer sides of the objects at the smallest and at the largest zoom of the augmentation."""
    augment, train = context.train.augment, context.train
    sizes = [side / train.size[0] for side in train.multi_scale or (train.size[0], train.size[0])]
    low, high = augment.scale
    low, high = low / (2 if augment.mosaic else 1), high / (augment.min_crop if augment.crop else 1)
    sides = context.long_sides
    return sides * low * sizes[0], np.minimum(sides * high, max(train.size)) * sizes[1]


def unlearnable_objects(context: Context) -> str | None:
    """Objects without a location: the best possible recall is low (ICCV paper, section 4.1.1)."""
    if context.recall is None or not context.recall.objects["all"]:
        return None
    recall = context.recall.assigned["all"] / context.recall.objects["all"]
    if recall >= 0.95:
        return None
    return (
        f"{1 - recall:.1%} of the objects have no location and can't be learned (`fcos summary` shows their sizes, "
        f"`fcos explain` the reasons): increase {context.size_text}, add finer model.levels, or increase "
        "model.center_sampling_radius"
    )


def capped_boxes(context: Context) -> str | None:
    """Objects of which even a location in the center is farther from a side than the largest distance of its level."""
    model, sides = context.params.model, np.minimum(context.long_sides, max(context.train.size))
    if model.box_output != "distribution" or not len(sides):
        return None
    needed = sides / 2 / model.strides[-1]
    share = float((needed > model.distribution_max).mean())
    if share < 0.01:
        return None
    add_level = "" if model.levels[-1] == 7 else ", or add coarser model.levels"
    # Locations are up to half a stride from the center, and the mean of a distribution is below its largest value.
    most = min(MAX_DISTRIBUTION, math.ceil(needed.max()) + 1)
    return (
        f"{share:.0%} of the objects need more than model.distribution_max {model.distribution_max} strides of "
        f"{model.strides[-1]} px, so their boxes would be too small: -S model.distribution_max={most}{add_level}"
    )


def large_images(context: Context) -> str | None:
    """Images that are decoded at many times the input size, unless tiles are proposed, which exclude the cache."""
    scale = float(np.median(resize_factors(context.train, context.image_sizes)))
    if scale > 0.25 or context.machine.cache or context.train.tiles:
        return None
    if "tiles=" in (small_boxes_in_large_images(context) or ""):
        return None
    return (
        f"images are {1 / scale:.0f} times as large as {context.size_text}: with machine.cache true they are decoded "
        "and resized only once"
    )


# Rules about steps


def large_batch(context: Context) -> str | None:
    if context.train.batch_size <= context.images:
        return None
    images = count_noun(context.images, "image")
    return f"train.batch_size {context.train.batch_size} exceeds the {images}: set it to at most {context.images}"


def high_learning_rate(context: Context) -> str | None:
    """Learning rates at which no detector is known to train."""
    rate, images = learning_rate(context.train), context.train.batch_size
    is_adam = context.train.optimizer in ("adam", "adamw")
    limit, usual = (0.01, 0.001) if is_adam else (0.1 * max(1.0, images / 16), 0.01)
    if rate < limit or (rate == limit and not is_adam):
        return None
    base = context.train.base_batch_size
    scaled = f" (train.lr {context.train.lr:g} for {base} images)" if base else ""
    return f"a learning rate of {rate:g}{scaled} is far too high for {context.train.optimizer}: try train.lr {usual:g}"


def long_warmup(context: Context) -> str | None:
    steps = context.train.epochs * context.steps
    warmup = to_iterations(context.train, context.steps, context.train.warmup)
    if warmup <= max(1, steps // 2):
        return None
    return f"train.warmup takes {warmup:,} of {steps:,} steps (a tenth is usual): check train.schedule_unit"


def late_drops(context: Context) -> str | None:
    """A step schedule that was chosen for a larger data set may never lower the learning rate."""
    if context.train.schedule not in ("step", "multi_step"):
        return None
    first = to_iterations(context.train, context.steps, min(context.train.steps))
    steps = context.train.epochs * context.steps
    if first < steps:
        return None
    return (
        f"the learning rate drops first at step {first:,} of {steps:,}: lower train.steps, or check train.schedule_unit"
    )


# Rules about epochs


def frozen_backbone(context: Context) -> str | None:
    epochs = context.train.backbone_frozen_epochs
    if epochs and not context.params.model.pretrained and not find_start(context.params)[0]:
        return f"train.backbone_frozen_epochs {epochs} freezes a backbone without pretrained weights: set it to 0"
    if epochs < context.train.epochs:
        return None
    return (
        f"train.backbone_frozen_epochs {epochs} of {context.train.epochs} epochs: the backbone never trains; lower it"
    )


def no_mosaic_epochs(context: Context) -> str | None:
    augment = context.train.augment
    if augment.close_mosaic_epochs < context.train.epochs or not (augment.mosaic or augment.mixup):
        return None
    return (
        f"train.augment.close_mosaic_epochs {augment.close_mosaic_epochs} of {context.train.epochs} epochs: mosaic and "
        "mixup are never applied; lower it"
    )


def costly_validation(context: Context) -> str | None:
    """Validating an image takes about a third of the time of training on it: there is no backward pass."""
    validations = -(-context.train.epochs // context.train.validate_every)
    validated = context.val_images * validations
    trained = context.train.epochs * context.steps * context.train.batch_size
    share = validated / (validated + 3 * trained)
    if share < 0.4 or context.train.validate_every >= context.train.epochs:
        return None
    return (
        f"validation takes about {share:.0%} of the time: increase train.validate_every "
        f"(now {context.train.validate_every})"
    )


# Rules about the machine


def no_gpu(context: Context) -> str | None:
    pixels = context.train.size[0] * context.train.size[1]
    if context.device != "cpu" or pixels < _LARGE_INPUT or context.train.epochs * context.images < 1000:
        return None
    return (
        f"inputs of {pixels / 1e6:.1f} megapixels without a GPU: decrease {context.size_text}, or use a recipe for "
        "CPUs (cpu_lite0)"
    )


def many_workers(context: Context) -> str | None:
    if context.machine.workers <= context.cores:
        return None
    cores = context.cores
    return f"machine.workers {context.machine.workers} exceeds the {cores} cores: set it to at most {cores}"


def no_workers(context: Context) -> str | None:
    if context.device == "cpu" or context.machine.workers or context.train.overfit:
        return None
    return f"machine.workers 0: the GPU waits while images are decoded; try {max(1, min(8, context.cores - 1))}"


Rule = Callable[[Context], str | None]
RULES: tuple[Rule, ...] = (
    untrained_classes,
    missing_classes,
    imbalanced_classes,
    unlearnable_objects,
    small_boxes,
    small_boxes_in_large_images,
    untiled_evaluation,
    empty_levels,
    capped_boxes,
    high_learning_rate,
    long_warmup,
    late_drops,
    large_batch,
    frozen_backbone,
    no_mosaic_epochs,
    costly_validation,
    no_gpu,
    many_workers,
    no_workers,
    large_images,
)
# Rules about the data and the input size, as opposed to the course of the training.
DATA_RULES: tuple[Rule, ...] = (
    untrained_classes,
    missing_classes,
    imbalanced_classes,
    unlearnable_objects,
    small_boxes,
    small_boxes_in_large_images,
    empty_levels,
    capped_boxes,
    large_images,
)
