"""The rules of `fcos recipes auto`, on facts like those of known data sets and on random facts."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.analysis.advice import RULES as ADVICE
from pipeline.analysis.advice_context import Context
from pipeline.analysis.auto_facts import Facts, MemoryUse, Size, Speed
from pipeline.analysis.auto_plan import (
    candidate_sizes,
    choose_batch,
    choose_network,
    choose_size,
    fitting_sizes,
    make_plan,
)
from pipeline.analysis.auto_rules import choose, notes
from pipeline.analysis.tiling import box_factors
from pipeline.errors import PipelineError
from pipeline.params import Params, TrainParams
from tests.support.auto_facts import GIB, LITE0, choices, make_facts, values_of

VOC = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
)


def training(**changes: Any) -> TrainParams:
    """The default section `train` with other values."""
    return values_of({f"train.{key}": value for key, value in changes.items()}).train


BLOOD = {"Platelets": [37.0], "RBC": [100.0] * 11, "WBC": [190.0]}


def test_blood_cells() -> None:
    """Like BCCD: nearly the size of cpu_lite0, at which platelets have 37 · 0.6 = 22.2 px.

    At 2 µs for a pixel of the input, 292 images of 288×384 take 64.6 s, and a validation of 72 images 5.3 s. In 540 s,
    ten validations leave time for 7 epochs. The longest distance is 190 · 0.6 · 1.25 / 2 = 71 px: P4 is the last level.
    """
    chosen = choices(make_facts(292, (480, 640), BLOOD, val_images=72))
    expected = {
        "model.backbone": "efficientnet_lite0",
        "model.pretrained": True,
        "model.levels": [3, 4],
        "model.regression_ranges": None,
        "train.size": [288, 384],
        "train.batch_size": 8,
        "train.accumulate": 1,
        "train.epochs": 7,
        "train.validate_every": 1,
        "model.tower_convolution": "depthwise",
        "model.box_output": "distribution",
        "train.optimizer": "muon",
        "train.lr": 0.005,
        "train.backbone_lr_factor": 0.1,
        "train.schedule": "one_cycle",
        "train.augment.flip": 0.5,
        "loss": "giou",
    }
    assert expected.items() <= chosen.items()
    assert "evaluate.tiles" not in chosen
    assert list(notes(make_facts(292, (480, 640), BLOOD))) == [
        "Imbalance: 85% of the objects are RBC; look at the AP of each class."
    ]


def test_less_time_gives_a_smaller_input() -> None:
    """Six epochs of 292 images in 270 s: 256×352 take 5 min 16 s, 192×256 take 2 min 52 s, 224×288 3 min 46 s."""
    assert choices(make_facts(292, (480, 640), BLOOD, minutes=5))["train.size"] == [224, 288]


def test_an_input_larger_than_small_objects_need() -> None:
    """Birds of 40 px have 32 at 256×320, which is enough; with time for twelve epochs at 288×384, they have 38.

    With random weights, it takes time for 24 epochs.
    """
    facts = make_facts(1000, (300, 400), {"bird": [40.0]}, milliseconds=0.02, val_images=100)
    needed = (12 * 1000 + 100 / 3) * 288 * 384 * 0.02e-6 / 0.9
    for weights, seconds in ((LITE0, needed), (frozenset[str](), 2 * needed)):
        enough = choices(replace(facts, seconds=seconds + 1, weights=weights))
        assert (enough["train.size"], enough["train.epochs"]) == ([288, 384], 12 * round(seconds / needed))
        assert choices(replace(facts, seconds=seconds - 1, weights=weights))["train.size"] == [288, 352]


def test_large_photographed_objects() -> None:
    """Like raccoon: an input of 320 px shows enough; P5 learns objects of 300 px; many epochs allow more augmentation.

    20 steps an epoch: 156 images of 256×320 take 25.6 s. 30 min allow 61 epochs and ten validations of 2.4 s.
    """
    facts = make_facts(156, (360, 480), {"raccoon": [150.0, 280.0, 420.0]}, minutes=30, val_images=44)
    chosen = choices(facts)
    assert chosen["train.size"] == [256, 320]
    assert chosen["model.levels"] == [3, 4, 5]
    assert chosen["train.epochs"] == 62
    assert chosen["train.validate_every"] == 7
    assert chosen["train.augment.scale"] == [0.7, 1.4]
    assert chosen["train.augment.color_jitter"] == 0.5


def test_many_classes_and_images() -> None:
    """Like VOC2007 in 2½ hours: 2,500 images of 288×384 at 2 µs take 9 min 13 s; the whole images have 300×400.

    The larger inputs of candidates end at 416 px: 288×384 shows bottles of 22 · 384/400 = 21 px, 320×416 of 22.9.
    """
    facts = make_facts(2500, (300, 400), {name: [22.0, 90.0, 280.0] for name in VOC}, minutes=150, val_images=2508)
    chosen = choices(facts)
    assert chosen["train.size"] == [320, 416]
    assert chosen["train.batch_size"] == 8  # 16 on a GPU
    assert choices(replace(facts, device="cuda"))["train.batch_size"] == 16
    assert chosen["train.lr"] == 0.005
    assert chosen["model.levels"] == [3, 4, 5]
    epochs, every = chosen["train.epochs"], chosen["train.validate_every"]
    epoch, validation = 2500 * 0.26624, 2508 * 0.26624 / 3
    assert math.ceil(epochs / every) == 5  # 15 % of 135 min are 1,215 s: five validations of 222.6 s
    assert epochs * epoch + 5 * validation <= 8100 < (epochs + 1) * epoch + 5 * validation


def test_aerial_images() -> None:
    """Objects of 20 px in 4000×3000: no input on a CPU shows them, so tiles do; crowds need more detections."""
    facts = make_facts(60, (3000, 4000), {"car": [20.0] * 99 + [60.0]}, milliseconds=0.5, minutes=600)
    chosen = choices(facts)
    assert chosen["train.size"] == [608, 800]  # 486,400 pixels: the next one has over half a million
    # 608 px of a tile are enlarged by 22/20 at least: a side of at most 552.7, and 544 is a multiple of 32.
    assert chosen["train.tiles"] == chosen["evaluate.tiles"] == [544, 0.1]
    assert chosen["postprocess.max_detections"] == 300
    assert chosen["model.levels"] == [
        3
    ]  # cars of 20 px, and a hundredth of them of 60 px, have up to 42 px from the center


def test_tiles_follow_the_objects_that_need_them() -> None:
    """15 % of the objects have 25 px and need tiles, the others don't: 608 / (22 / 25) = 690.9, and 672 = 21 · 32."""
    objects = {"car": [25.0] * 15 + [1500.0] * 85}
    facts = make_facts(100, (3000, 4000), objects, milliseconds=0.5, minutes=600)
    chosen = choices(facts)
    assert chosen["train.tiles"] == chosen["evaluate.tiles"] == [672, 0.1]
    assert "machine.cache" not in chosen
    assert choices(replace(facts, cached=True))["machine.cache"] is False
    reasons = {choice.key: choice.reason for choice in choose(facts)}
    assert reasons["train.tiles"] == "small objects have 25 px in images of 4000 px"


def test_objects_larger_than_a_tile_are_seen_in_the_whole_image() -> None:
    """In tiles of 672 px at 608, 25 px become 22.6; 1,500 px have 300 at 608×800, so P5 is the last level."""
    facts = make_facts(100, (3000, 4000), {"car": [25.0] * 15 + [1500.0] * 85}, milliseconds=0.5, minutes=600)
    assert np.unique(facts.long_sides((608, 800), 672)) == pytest.approx([25 * 608 / 672, 300])
    train = training(size=[608, 800], tiles=[672, 0.1])
    assert box_factors(train, facts.images[:2], np.array([(25.0, 25.0), (9.0, 1500.0)])) == pytest.approx(
        [608 / 672, 0.2]
    )
    assert choices(facts)["model.levels"] == [3, 4, 5]


def test_tiles_depend_on_the_input_that_memory_allows() -> None:
    """Objects of 80 px in 4000×3000 have 16 px at 608×800, and 7.7 at 288×384, the most for 1 GiB.

    An image of 288×384 takes 2 · 110,592 / 307,200 = 0.72 GiB with 2 GiB at 480×640; of 1.2 GiB, 60 % are 0.72.
    """
    facts = make_facts(60, (3000, 4000), {"car": [80.0]}, milliseconds=0.5, minutes=600)
    assert "train.tiles" not in choices(facts)
    scarce = replace(facts, memory=round(1.21 * GIB), memory_use=MemoryUse(size=(480, 640), fixed=0, per_image=2 * GIB))
    chosen = choices(scarce)
    assert chosen["train.size"] == [288, 384]
    assert chosen["train.tiles"] == [1024, 0.1]  # 288 / (22 / 80) = 1,047


def test_processes_share_a_batch() -> None:
    """Three processes with 2 of 6 images each; an image takes 92 MiB, of 60 % of 300 MiB beside 67 for the weights."""
    facts = replace(make_facts(292, (480, 640), BLOOD), processes=3)
    assert choices(facts)["train.batch_size"] == 6
    assert choices(facts)["train.accumulate"] == 1
    weights = MemoryUse(size=(480, 640), fixed=67 * 2**20, per_image=GIB // 4)
    chosen = choices(replace(facts, memory=300 * 2**20, memory_use=weights))
    assert (chosen["train.batch_size"], chosen["train.accumulate"]) == (6, 2)
    with pytest.raises(PipelineError, match=r"machine\.devices is 20, but there are only 10 training images"):
        choose(replace(make_facts(10, (300, 400), {"dog": [90.0]}), processes=20))


def test_rare_classes() -> None:
    """A class in one image of a hundred is drawn more often, one in three of a hundred is not."""
    facts = make_facts(100, (300, 400), {"cat": [150.0], "dog": []})
    for images, threshold in ((1, 0.02), (3, None)):
        labels = np.where(np.arange(100) < images, 1, 0)
        assert choices(replace(facts, box_classes=labels)).get("train.repeat_threshold") == threshold
    assert "train.repeat_threshold" not in choices(facts)  # no image has a dog


def test_digits() -> None:
    names = {str(digit): [30.0, 60.0] for digit in range(10)}
    chosen = choices(make_facts(1000, (256, 256), names, dataset="digits", minutes=30))
    expected = {
        "model.backbone": "tiny",
        "model.pretrained": False,
        "train.size": [256, 256],
        "train.optimizer": "muon",
        "train.lr": 0.01,
        "train.augment.flip": 0.0,
        "loss": "iou",
    }
    assert expected.items() <= chosen.items()


def test_weights_and_device_decide_on_the_backbone() -> None:
    facts = make_facts(500, (480, 640), {"cat": [200.0]})
    gpu = replace(facts, device="cuda", cores=16)
    assert choices(gpu)["model.backbone"] == "efficientnet_lite0"
    assert choices(gpu)["machine.workers"] == 8
    resnet50 = choices(replace(gpu, weights=LITE0 | {"resnet50"}))
    assert (resnet50["model.backbone"], resnet50["train.optimizer"]) == ("resnet50", "adamw")
    assert (resnet50["train.schedule"], resnet50["train.warmup"]) == ("cosine", 0.1)
    assert "train.backbone_lr_factor" not in resnet50
    assert choices(replace(facts, weights=frozenset({"resnet50"})))["model.backbone"] == "tiny"


def test_memory_splits_a_batch_before_it_shrinks_the_input() -> None:
    """An image of 288×384 takes 92 MiB, beside 128 MiB for the weights."""
    facts = make_facts(292, (480, 640), BLOOD)
    assert choices(replace(facts, memory=GIB))["train.accumulate"] == 2  # 128 + 4 · 92.2 = 497 of 614 MiB
    small = choices(replace(facts, memory=round(0.3 * GIB)))
    assert (small["train.accumulate"], small["train.size"]) == (8, [224, 288])  # 128 + 54 of 184 MiB


def test_too_little_time() -> None:
    """Less than an epoch trains on some images; less than a step and a validation is an error that says the time."""
    facts = make_facts(2500, (300, 400), {"dog": [150.0]}, val_images=100, milliseconds=10)
    chosen = choices(facts)  # 256×192: 0.49 s an image, 20.5 min an epoch; a validation takes 16.4 s
    assert (chosen["train.epochs"], chosen["train.max_images"]) == (1, int((540 - 16.384) / 0.49152))
    with pytest.raises(PipelineError, match=r"^--time: one step and the validation of 100 images take 1 min; "):
        choose(replace(facts, seconds=20))
    with pytest.raises(PipelineError, match="no objects to learn from"):
        choose(make_facts(10, (300, 400), {"dog": []}))


def test_color_stays_where_it_tells_the_class() -> None:
    facts = make_facts(156, (360, 480), {"redLight": [150.0]}, minutes=60)
    assert choices(facts)["train.augment.color_jitter"] == 0.0


@st.composite
def random_facts(draw: Callable[..., Any]) -> Facts:
    """Images of several sizes with objects of any size and shape inside them."""
    seed, images, objects = draw(st.integers(0, 999)), draw(st.integers(2, 2500)), draw(st.integers(1, 60))
    random = np.random.default_rng(seed)
    low, high = sorted((draw(st.integers(32, 4000)), draw(st.integers(32, 4000))))
    shapes = random.integers(low, high + 1, (images, 2)).astype(float)
    owners = random.integers(0, images, objects)
    largest = draw(st.floats(0.005, 1))
    factors = random.uniform(0.05, 1, (objects, 2))
    if draw(st.booleans()):  # a part of the objects is much smaller
        factors[: math.ceil(0.15 * objects)] *= 0.02
    boxes = np.maximum(2.0, shapes[owners] * largest * factors)
    names = draw(st.sampled_from([("cat",), ("cat", "dog", "left hand"), tuple("0123456789"), ("red light", "car")]))
    measured = draw(st.booleans())
    size: Size = (320, 416)
    return Facts(
        dataset=draw(st.sampled_from(["custom", "digits"])),
        classes=names,
        images=shapes,
        boxes=boxes,
        box_images=owners,
        box_classes=random.integers(0, len(names), objects),
        val_images=draw(st.integers(1, 3000)),
        device=draw(st.sampled_from(["cpu", "cuda"])),
        cores=draw(st.integers(1, 64)),
        processes=draw(st.sampled_from([1, 2, 8])),
        cached=draw(st.booleans()),
        memory=draw(st.integers(GIB // 2, 80 * GIB)),
        weights=draw(st.sampled_from([frozenset[str](), LITE0, LITE0 | {"resnet50"}])),
        seconds=draw(st.floats(60, 1e6)),
        memory_use=MemoryUse(size=size, fixed=GIB // 16, per_image=GIB // 8) if measured else None,
        speed=Speed(
            size=size,
            steps=math.ceil(images / 4),
            epoch=images * draw(st.floats(1e-3, 2)),
            validation=draw(st.floats(0.01, 300)),
        )
        if measured
        else None,
    )


@given(random_facts())
@settings(max_examples=40, deadline=None)
def test_random_facts(facts: Facts) -> None:
    """Valid parameters that keep to time and memory, and that `fcos check` has nothing against."""
    try:
        chosen = choices(facts)
    except PipelineError as error:
        if "machine.devices" in str(error):
            assert facts.processes > len(facts.images)
            return
        assert facts.speed  # a step and a validation at the smallest size that shows the objects take longer
        network, batch = choose_network(facts), choose_batch(facts)
        size = choose_size(facts, network, fitting_sizes(facts, network), batch)
        ratio = math.prod(size) / math.prod(facts.speed.size)
        step = facts.speed.epoch * batch / len(facts.images)
        assert (facts.speed.validation + step) * ratio > 0.89 * facts.seconds
        return
    values = values_of(chosen)
    train, plan = values.train, make_plan(facts)
    assert train.size[0] <= train.size[1]
    assert train.size[0] % 32 == train.size[1] % 32 == 0
    if facts.speed and facts.memory_use:
        ratio = math.prod(train.size) / math.prod(facts.speed.size)
        trained = (train.max_images or len(facts.images)) / len(facts.images) * train.epochs * facts.speed.epoch
        validated = math.ceil(train.epochs / train.validate_every) * facts.speed.validation
        assert (trained + validated) * ratio <= facts.seconds
        part = train.batch_size / facts.processes / train.accumulate * facts.memory_use.per_image * ratio
        fits = facts.memory_use.fixed + part <= facts.memory
        share = train.batch_size // facts.processes
        assert fits or (train.accumulate == share and train.size == candidate_sizes(facts, plan.network)[0])
    assert train.batch_size % (facts.processes * train.accumulate) == 0
    if train.tiles:
        assert train.tiles[0] <= max(32, np.median(facts.sides[:, 0]))
    lines = advice_on(facts, values) if facts.speed else []
    assert not lines, lines


def advice_on(facts: Facts, values: Params) -> list[str]:
    """Advice of `fcos check` on the choices, without that on objects which are too small at any input size."""
    train = values.train
    images = min(len(facts.images), train.max_images or len(facts.images))
    scales = facts.box_scales(train.size, train.tiles[0] if train.tiles else np.inf)
    context = Context(
        params=values,
        images=images,
        steps=math.ceil(images / train.batch_size),
        val_images=facts.val_images,
        image_sizes=facts.images,
        box_sizes=facts.boxes * scales[:, None],
        train_counts=Counter(dict.fromkeys(facts.classes, 1)),
        val_counts=Counter(dict.fromkeys(facts.classes, 1)),
        recall=None,
        device=facts.device,
        cores=facts.cores,
    )
    found = {rule.__name__: line for rule in ADVICE if (line := rule(context))}
    if facts.speed is None or train.size == make_plan(facts).largest_size:
        found.pop("small_boxes", None)
    return list(found.values())
