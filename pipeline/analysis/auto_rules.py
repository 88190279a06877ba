"""The rules of `fcos recipes auto`: from facts to parameters, each with its reason. No file is read, nothing is run.

`auto_plan` decides what depends on each other; `RULES` turns facts and plan into choices.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.analysis.auto_facts import Facts
from pipeline.analysis.auto_plan import (
    LARGE_EPOCHS,
    PLENTY_STEPS,
    Plan,
    choose_levels,
    make_plan,
    resize_factor,
    small_side,
    step_memory,
    stored_small_side,
)
from pipeline.analysis.class_names import colored_class, sided_class
from pipeline.analysis.tiling import WANTED_SIDE
from pipeline.errors import count_noun

_RARE = 0.02  # share of the images: those with a rarer class are drawn more often


@dataclass(frozen=True)
class Choice:
    """A parameter with its value, and why."""

    key: str
    value: Any  # as in JSON
    reason: str


def choose(facts: Facts) -> list[Choice]:
    """The parameters for these facts, in the order of `RULES`.

    Without `facts.memory_use` and `facts.speed`, memory and time limit nothing; the choices are then what to measure.

    Raises:
        PipelineError: the time is too short for a training, or the data has nothing to learn.
    """
    plan = make_plan(facts)
    return [choice for rule in RULES for choice in rule(facts, plan)]


# Rules: each gives choices for some parameters.


def network_rule(_: Facts, plan: Plan) -> Iterator[Choice]:
    network = plan.network
    yield Choice("model.backbone", network.backbone, network.reason)
    reason = "few images suffice to adapt a trained backbone" if network.pretrained else "random weights"
    yield Choice("model.pretrained", network.pretrained, reason)
    measured = f"as {network.backbone} was measured with"
    yield Choice("model.channels", network.channels, measured)
    yield Choice("model.tower_depth", network.tower_depth, measured)
    if network.tower_convolution != "standard":
        yield Choice("model.tower_convolution", network.tower_convolution, "as accurate with fewer operations")
    if network.box_output != "relu":
        yield Choice("model.box_output", network.box_output, "boxes fit better: 2 to 3 AP on BCCD")
    if network.backbone == "resnet50":
        yield Choice("model.frozen_stages", 2, "the paper's")
    yield Choice("loss", "giou" if network.pretrained else "iou", measured)


def size_rule(facts: Facts, plan: Plan) -> Iterator[Choice]:
    height, width = np.median(facts.images, axis=0)
    if plan.tile:
        yield Choice("train.size", list(plan.size), f"of tiles, too; images of about {width:.0f}×{height:.0f}")
        return
    reason = (
        f"images of about {width:.0f}×{height:.0f}; half of the objects have over "
        f"{np.median(facts.roots(plan.size)):.0f} px at this size, a quarter of the smallest class under "
        f"{small_side(facts, plan.size):.0f} px"
    )
    if facts.speed and small_side(facts, plan.size) < WANTED_SIDE and plan.size != plan.largest_size:
        reason += "; a larger input needs more time"
    yield Choice("train.size", list(plan.size), reason)


def levels_rule(facts: Facts, plan: Plan) -> Iterator[Choice]:
    levels, ends, sides = choose_levels(facts, plan.size, plan.tile[0] if plan.tile else np.inf)
    yield Choice("model.levels", levels, sides)
    reason = "8 strides suit them" if ends is None else "so that each level has objects"
    yield Choice("model.regression_ranges", ends, reason)


def batch_rule(facts: Facts, plan: Plan) -> Iterator[Choice]:
    images = count_noun(plan.length.max_images or len(facts.images), "image")
    reason = f"{images}: smaller batches are noisy, larger ones leave too few steps"
    if len(facts.images) == plan.batch:
        reason = f"all {images}" if plan.batch > 1 else "the only image"
    yield Choice("train.batch_size", plan.batch, reason)
    need = step_memory(facts, plan.size, plan.batch / facts.processes / plan.accumulate) / 2**30
    free = f"a part takes about {need:.1f} of {facts.memory / 2**30:.1f} GiB of free memory"
    yield Choice("train.accumulate", plan.accumulate, free if facts.memory_use else "memory was not measured")


def length_rule(facts: Facts, plan: Plan) -> Iterator[Choice]:
    length = plan.length
    minutes = "" if length.seconds is None else f"; about {_duration(length.seconds)} of {_duration(facts.seconds)}"
    yield Choice("train.epochs", length.epochs, f"{length.limit}: {plan.steps:,} steps{minutes}")
    if length.max_images:
        reason = f"{length.limit}: chosen by the seed out of {len(facts.images):,}"
        yield Choice("train.max_images", length.max_images, reason)
    count = math.ceil(length.epochs / length.validate_every)
    reason = f"{count_noun(count, 'validation')} of {count_noun(facts.val_images, 'image')}, a small part of the time"
    yield Choice("train.validate_every", length.validate_every, reason)


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def optimizer_rule(_: Facts, plan: Plan) -> Iterator[Choice]:
    network = plan.network
    rate = float(f"{network.lr * min(1.0, plan.batch / network.lr_batch):.3g}")
    scaled = f", scaled from {network.lr:g} for {network.lr_batch} images" if rate != network.lr else ""
    yield Choice("train.optimizer", network.optimizer, f"as {network.backbone} was measured with")
    yield Choice("train.lr", rate, f"as {network.backbone} was measured with{scaled}")
    if network.backbone_lr_factor != 1:
        reason = "at the full rate, the backbone forgets what its ImageNet weights know"
        yield Choice("train.backbone_lr_factor", network.backbone_lr_factor, reason)
    yield Choice("train.base_batch_size", plan.batch, "so that lr follows another batch_size")
    plenty = plan.steps >= PLENTY_STEPS
    if network.optimizer == "muon":
        yield Choice("train.schedule", "one_cycle", "with which this learning rate was measured")
        yield Choice("train.warmup", 0.3, "as it was measured with")
    else:
        yield Choice("train.schedule", "cosine", "with which this learning rate was measured")
        yield Choice("train.warmup", 0.03 if plenty else 0.1, f"of {plan.steps:,} steps")
    if plenty:
        yield Choice("train.ema_decay", 0.998, f"averages the last 500 of {plan.steps:,} steps")


def flip_rule(facts: Facts, _: Plan) -> Iterator[Choice]:
    name = sided_class(facts.classes)
    reason = f"mirrored, an object of class {name!r} would be another or none" if name else "no class has a side"
    yield Choice("train.augment.flip", 0.0 if name else 0.5, reason)


def augmentation_rule(facts: Facts, plan: Plan) -> Iterator[Choice]:
    if facts.speed is None or plan.length.epochs < LARGE_EPOCHS or not plan.network.pretrained:
        return
    seen = f"each image is seen {plan.length.epochs} times"
    yield Choice("train.augment.scale", [0.7, 1.4], seen)
    if not (name := colored_class(facts.classes)):
        yield Choice("train.augment.color_jitter", 0.5, seen)
    else:
        yield Choice("train.augment.color_jitter", 0.0, f"color tells the class {name!r}")


def tiles_rule(facts: Facts, plan: Plan) -> Iterator[Choice]:
    """Tiles gain 5 AP for FCOS on aerial pictures, 13 AP50 if it was also trained on them (SAHI, 2202.06934)."""
    if plan.tile:
        stored = stored_small_side(facts, plan.largest_size)
        reason = f"small objects have {stored:.0f} px in images of {np.median(facts.sides[:, 1]):.0f} px"
        yield Choice("train.tiles", list(plan.tile), reason)
        yield Choice("evaluate.tiles", list(plan.tile), "as train.tiles")
        if facts.cached:
            yield Choice("machine.cache", False, "images are cached at train.size, and tiles have others")


def imbalance_rule(facts: Facts, _: Plan) -> Iterator[Choice]:
    shares = np.where(facts.class_counts > 0, facts.image_shares, 1.0)
    if shares.min() < _RARE:
        name = facts.classes[int(shares.argmin())]
        yield Choice("train.repeat_threshold", _RARE, f"{name} is in {shares.min():.1%} of the images")


def crowd_rule(facts: Facts, _: Plan) -> Iterator[Choice]:
    if facts.most_objects > 80:
        count = 300 if facts.most_objects <= 240 else 1000
        yield Choice("postprocess.max_detections", count, f"an image has up to {facts.most_objects:,} objects")


def machine_rule(facts: Facts, plan: Plan) -> Iterator[Choice]:
    if facts.device == "cuda":
        yield Choice("machine.workers", max(1, min(8, facts.cores - 1)), f"{facts.cores} cores decode for the GPU")
    enlarged = 1 / resize_factor(facts, plan.size)
    if enlarged >= 4 and not plan.tile:
        yield Choice("machine.cache", True, f"images are {enlarged:.0f} times as large as the input: decode them once")


Rule = Callable[[Facts, Plan], Iterator[Choice]]
RULES: tuple[Rule, ...] = (
    network_rule,
    size_rule,
    levels_rule,
    batch_rule,
    length_rule,
    optimizer_rule,
    flip_rule,
    augmentation_rule,
    tiles_rule,
    imbalance_rule,
    crowd_rule,
    machine_rule,
)


def notes(facts: Facts) -> Iterator[str]:
    """What no parameter changes, but a person should know."""
    counts = facts.class_counts
    named = dict(zip(facts.classes, counts.tolist(), strict=True))
    rare = [f"{name} {count:,}" for name, count in named.items() if 0 < count < 20]
    if rare:
        yield f"Few objects, so little will be learned: {', '.join(rare[:8])}. More images of them help most."
    top = max(named, key=lambda name: named[name])
    if len(named) > 1 and named[top] > 10 * np.median(counts[counts > 0]):
        yield f"Imbalance: {named[top] / counts.sum():.0%} of the objects are {top}; look at the AP of each class."
