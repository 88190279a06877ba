"""What a person should know before a training starts: each piece of advice a line that says what to do.

Everything follows from annotations and parameters; no image is read. Only what is surely wrong, or surely wasted,
is worth a line.
"""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fcos.locations import size_ranges
from pipeline.analysis.assignment import NEEDS_PREDICTIONS, level_name
from pipeline.analysis.summary import Recall, recall
from pipeline.data.annotations import AnnotationSet
from pipeline.inference.device import choose_device
from pipeline.loading.dataset import trainable_annotations
from pipeline.params import MachineParams, Params, TrainParams
from pipeline.training.build import learning_rate, to_iterations

_SAMPLE = 400  # images for which the assignment is really made: seconds, also at 1333 pixels
_NAMED = 5  # classes in a line
_SMALL = 8  # pixels
_LONG = 500_000  # pixels of an image: a size for GPUs
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Context:
    """What advice is drawn from."""

    params: Params
    images: int  # to learn from in an epoch
    steps: int  # of an epoch
    judged: int  # images of the validation split
    shapes: Floats  # [N, 2] height and width of the images as stored
    sides: Floats  # [M, 2] height and width of the objects to learn, in pixels at the input size without zoom
    learned: Counter[str]  # such objects of each class, classes without any included
    missed: Counter[str]  # objects of the validation split of each class
    found: Recall | None  # best possible recall on a sample; None where the assigner needs predictions
    device: str
    cores: int

    @property
    def train(self) -> TrainParams:
        return self.params.train

    @property
    def machine(self) -> MachineParams:
        return self.params.machine

    @cached_property
    def longest(self) -> Floats:
        """[M] the objects' longer sides."""
        answer: Floats = self.sides.max(axis=1)
        return answer

    @property
    def size(self) -> str:
        """The input size, in words."""
        return f"train.size, now {list(self.train.size)}"


def advice(params: Params, train: AnnotationSet, val: AnnotationSet, *, steps: int) -> list[str]:
    """Lines for a person, most important first; none where nothing is to be said.

    Args:
        train: the split to learn from.
        val: the split to be judged on.
        steps: of an epoch.
    """
    context = look(params, train, val, steps=steps)
    return [line for tell in ADVICE if (line := tell(context))]


def look(params: Params, train: AnnotationSet, val: AnnotationSet, *, steps: int) -> Context:
    """The context of a training; with 118,000 images in a few seconds, most of them for `recall`."""
    shape_of = {image.id: (image.height, image.width) for image in train.images}
    objects = trainable_annotations(train.annotations, include_difficult=params.train.include_difficult)
    stored = np.array([shape_of[one.image_id] for one in objects], dtype=np.float64).reshape(-1, 2)
    boxes = np.array([one.bbox for one in objects], dtype=np.float64).reshape(-1, 4)
    return Context(
        params=params,
        images=min(_kept(params, train), params.train.max_images or len(train.images)),
        steps=steps,
        judged=len(val.images),
        shapes=np.array(list(shape_of.values()), dtype=np.float64).reshape(-1, 2),
        sides=boxes[:, 3:1:-1] * _scales(params, stored)[:, None],
        learned=_by_class(train, difficult=params.train.include_difficult),
        missed=_by_class(val, difficult=False),
        found=None if params.model.assigner in NEEDS_PREDICTIONS or not objects else recall(params, _sample(train)),
        device=choose_device(params.machine.device).type,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
    )


def _scales(params: Params, shapes: Floats) -> Floats:
    """[N] the factors by which images are resized, for [N, 2] heights and widths: InputSize.scale, all at once."""
    size = np.array(params.train.size, dtype=np.float64)
    answer: Floats = (size / (shapes if params.train.letterbox else np.sort(shapes, axis=1))).min(axis=1)
    return answer


def _kept(params: Params, split: AnnotationSet) -> int:
    """Images that train.include_empty and train.include_crowd leave."""
    with_objects = {
        one.image_id
        for one in trainable_annotations(split.annotations, include_difficult=params.train.include_difficult)
    }
    crowded = {one.image_id for one in split.annotations if one.iscrowd}
    return sum(
        (params.train.include_empty or image.id in with_objects)
        and (params.train.include_crowd or image.id not in crowded)
        for image in split.images
    )


def _by_class(split: AnnotationSet, *, difficult: bool) -> Counter[str]:
    count = Counter(one.category_id for one in trainable_annotations(split.annotations, include_difficult=difficult))
    return Counter({category.name: count[category.id] for category in split.categories})


def _sample(split: AnnotationSet) -> AnnotationSet:
    """Images at even distances, with what is in them."""
    return split.subset(split.images[:: -(-len(split.images) // _SAMPLE)])


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


# What is learned


def unknown_classes(now: Context) -> str | None:
    """Judged on what is never shown."""
    names = [name for name, count in now.missed.items() if count and not now.learned[name]]
    if not names:
        return None
    return f"val has objects of {_names(names)}, and train none, so all are missed: split otherwise, see convert"


def missing_classes(now: Context) -> str | None:
    """Neither learned nor judged."""
    names = [name for name, count in now.learned.items() if not count and not now.missed[name]]
    if not names:
        return None
    return (
        f"no object of {len(names)} of {len(now.learned)} classes ({_names(names)}): leave them out by convert.classes"
    )


def unequal_classes(now: Context) -> str | None:
    """A thousand times more often."""
    ranked = [(name, count) for name, count in now.learned.most_common() if count]
    if not ranked or ranked[0][1] <= 1000 * ranked[-1][1]:
        return None
    (most, many), (least, few) = ranked[0], ranked[-1]
    return (
        f"{most} has {many:,} objects and {least} {few:,}: look at the rare classes' own AP, and find more images of "
        "them or leave them out by convert.classes"
    )


# Sizes


def small_boxes(now: Context) -> str | None:
    """Smaller than a location's stride: hardly anything of them is left in a feature map."""
    share = float((np.sqrt(now.sides.prod(axis=1)) < _SMALL).mean()) if len(now.sides) else 0.0
    if share < 0.1:
        return None
    finer = "" if now.params.model.levels[0] == 3 else ", and model.levels that begin at 3"
    return f"{share:.0%} of boxes are under {_SMALL} px at this input size: a larger {now.size}{finer}"


def empty_levels(now: Context) -> str | None:
    """Levels whose range of sizes no object comes into, however it is zoomed."""
    if now.params.model.assigner != "fcos" or not len(now.sides):
        return None
    model, reached = now.params.model, _reached(now)
    unused = [place for place, any_ in enumerate(reached) if not any_]
    names = ", ".join(level_name(model.strides[place]) for place in unused)
    if not unused:
        return None
    if unused != list(range(unused[0], len(reached))):  # levels follow each other: only the last ones can go
        return (
            f"no object falls on {names}: choose model.regression_ranges, and the first of model.levels, by the "
            "objects' sizes"
        )
    above = size_ranges(model.strides, model.regression_ranges)[unused[0]][0]
    return (
        f"no object falls on {names}, for sizes over {above:g} px: leave it out of model.levels, or train at a larger "
        f"{now.size}"
    )


def _reached(now: Context) -> list[bool]:
    """Whether one of a level's locations could learn any object at all, by its size alone.

    The longest of a location's distances to an object's sides is at least half the longer side, and at most that and
    the center's radius, or the whole side.
    """
    model, (least, most) = now.params.model, _sizes(now)
    radius = [
        model.center_sampling_radius * stride if model.center_sampling_radius else np.inf for stride in model.strides
    ]
    return [
        bool(((least / 2 <= up_to) & (np.minimum(most, most / 2 + reach) > above)).any())
        for (above, up_to), reach in zip(size_ranges(model.strides, model.regression_ranges), radius, strict=True)
    ]


def _sizes(now: Context) -> tuple[Floats, Floats]:
    """[M] each: the objects' longer sides at the smallest, and at the largest, that augmentation makes them."""
    augment, train = now.train.augment, now.train
    fitted = [side / train.size[0] for side in train.multi_scale or (train.size[0], train.size[0])]
    low, high = augment.scale
    low, high = low / (2 if augment.mosaic else 1), high / (augment.min_crop if augment.crop else 1)
    return now.longest * low * fitted[0], np.minimum(now.longest * high, max(train.size)) * fitted[1]


def unlearnable(now: Context) -> str | None:
    """Objects that no location learns: the best possible recall (ICCV paper, section 4.1.1)."""
    if now.found is None or not now.found.objects["all"]:
        return None
    best = now.found.learned["all"] / now.found.objects["all"]
    if best >= 0.95:
        return None
    return (
        f"no location learns {1 - best:.1%} of the objects (`fcos summary` says of which size, `fcos explain` why): "
        f"a larger {now.size}, finer model.levels, or a larger model.center_sampling_radius"
    )


def large_images(now: Context) -> str | None:
    """Most of what is decoded is thrown away."""
    scale = float(np.median(_scales(now.params, now.shapes)))
    if scale > 0.25 or now.machine.cache:
        return None
    return f"images are {1 / scale:.0f} times as large as {now.size}: machine.cache true decodes and resizes them once"


# Steps


def large_batch(now: Context) -> str | None:
    if now.train.batch_size <= now.images:
        return None
    return f"train.batch_size {now.train.batch_size} is more than the {now.images} images: at most {now.images}"


def high_rate(now: Context) -> str | None:
    """Rates at which no detector is known to learn."""
    rate, images = learning_rate(now.train), now.train.batch_size
    most, usual = (0.1 * max(1.0, images / 16), 0.01) if now.train.optimizer == "sgd" else (0.01, 0.001)
    if rate < most or (rate == most and now.train.optimizer == "sgd"):
        return None
    scaled = f" (train.lr {now.train.lr:g} for {now.train.base_batch_size} images)" if now.train.base_batch_size else ""
    return f"a learning rate of {rate:g}{scaled} is far too high for {now.train.optimizer}: try train.lr {usual:g}"


def long_warmup(now: Context) -> str | None:
    steps = now.train.epochs * now.steps
    warmup = to_iterations(now.train, now.steps, now.train.warmup)
    if warmup <= max(1, steps // 2):
        return None
    return f"train.warmup takes {warmup:,} of {steps:,} steps: a tenth is usual; mind train.schedule_unit"


def late_drops(now: Context) -> str | None:
    """Counted in iterations of somebody else's data set, drops may never come."""
    if now.train.schedule not in ("step", "multi_step"):
        return None
    first, steps = to_iterations(now.train, now.steps, min(now.train.steps)), now.train.epochs * now.steps
    if first < steps:
        return None
    return f"the learning rate first falls at step {first:,} of {steps:,}: lower train.steps; mind train.schedule_unit"


# Epochs


def frozen_backbone(now: Context) -> str | None:
    epochs, model = now.train.backbone_frozen_epochs, now.params.model
    name = f"train.backbone_frozen_epochs {epochs}"
    if epochs and not model.pretrained:
        return f"{name} keeps a backbone that has learned nothing as it is: set it to 0"
    if epochs < now.train.epochs:
        return None
    return f"{name} of {now.train.epochs} epochs: the backbone never learns; lower it"


def always_plain(now: Context) -> str | None:
    augment = now.train.augment
    if augment.close_mosaic_epochs < now.train.epochs or not (augment.mosaic or augment.mixup):
        return None
    return (
        f"train.augment.close_mosaic_epochs {augment.close_mosaic_epochs} of {now.train.epochs} epochs: mosaic and "
        "mixup never happen; lower it"
    )


def costly_validation(now: Context) -> str | None:
    """Without a backward pass an image takes about a third of a training image's time."""
    validations = -(-now.train.epochs // now.train.validate_every)
    learning = now.train.epochs * now.steps * now.train.batch_size
    share = now.judged * validations / (now.judged * validations + 3 * learning)
    if share < 0.4 or now.train.validate_every >= now.train.epochs:
        return None
    return f"validation takes about {share:.0%} of the time: raise train.validate_every, now {now.train.validate_every}"


# Machine


def no_gpu(now: Context) -> str | None:
    pixels = now.train.size[0] * now.train.size[1]
    if now.device != "cpu" or pixels < _LONG or now.train.epochs * now.images < 1000:
        return None
    return f"no GPU for images of {pixels / 1e6:.1f} megapixels: a smaller {now.size}, or a recipe for CPUs (cpu_lite0)"


def many_workers(now: Context) -> str | None:
    if now.machine.workers <= now.cores:
        return None
    return f"machine.workers {now.machine.workers} on {now.cores} cores: at most {now.cores}"


def no_workers(now: Context) -> str | None:
    if now.device == "cpu" or now.machine.workers or now.train.overfit:
        return None
    return f"machine.workers 0: the GPU waits while images are decoded; try {max(1, min(8, now.cores - 1))}"


ADVICE: tuple[Callable[[Context], str | None], ...] = (
    unknown_classes,
    missing_classes,
    unequal_classes,
    unlearnable,
    small_boxes,
    empty_levels,
    high_rate,
    long_warmup,
    late_drops,
    large_batch,
    frozen_backbone,
    always_plain,
    costly_validation,
    no_gpu,
    many_workers,
    no_workers,
    large_images,
)
