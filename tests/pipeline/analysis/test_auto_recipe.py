"""`fcos recipes auto`: the rules on facts like those of known data sets and on random facts, and the written file."""

import json
import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import params, recipes
from pipeline.analysis import auto_facts, resource_limits
from pipeline.analysis.advice import RULES as ADVICE
from pipeline.analysis.advice import Context
from pipeline.analysis.auto_facts import Facts, MemoryUse, Size, Speed
from pipeline.analysis.auto_plan import (
    candidate_sizes,
    choose_batch,
    choose_network,
    choose_size,
    fitting_sizes,
    make_plan,
)
from pipeline.analysis.auto_recipe import parse_duration, undecided_choices
from pipeline.analysis.auto_rules import choose, notes
from pipeline.analysis.class_names import colored_class, sided_class
from pipeline.analysis.tiling import box_factors
from pipeline.data import annotations
from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image
from pipeline.errors import PipelineError
from pipeline.params import Params, TrainParams
from tests.support.projects import run

DEFAULTS = json.loads(json.dumps(asdict(recipes.defaults())))
GIB = 2**30
LITE0 = frozenset({"efficientnet_lite0"})
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


def make_facts(
    images: int,
    size: tuple[int, int],
    boxes: dict[str, list[float]],
    *,
    minutes: float = 10,
    milliseconds: float = 2.0,
    **changes: Any,
) -> Facts:
    """Images of one height and width, with square objects of these sides by class, equally many in each image.

    Args:
        milliseconds: of training for each thousand pixels of the input; validation takes a third.
    """
    classes = tuple(boxes)
    pairs = [(side, label) for label, name in enumerate(classes) for side in boxes[name]]
    val_images = changes.pop("val_images", max(1, images // 4))
    batch = 4 if images < 100 else 8 if images < 2000 else 16
    pixels = size[0] * size[1]
    speed = Speed(
        size=(min(size), max(size)),
        steps=math.ceil(images / batch),
        epoch=images * pixels * milliseconds * 1e-6,
        validation=val_images * pixels * milliseconds * 1e-6 / 3,
    )
    facts = Facts(
        dataset="custom",
        classes=classes,
        images=np.full((images, 2), size, dtype=np.float64),
        boxes=np.array([(side, side) for side, _ in pairs] * images, dtype=np.float64).reshape(-1, 2),
        box_images=np.repeat(np.arange(images), len(pairs)),
        box_classes=np.array([label for _, label in pairs] * images, dtype=np.int64),
        val_images=val_images,
        device="cpu",
        cores=2,
        processes=1,
        cached=False,
        memory=16 * GIB,
        weights=LITE0,
        seconds=minutes * 60,
        memory_use=MemoryUse(size=(480, 640), fixed=GIB // 8, per_image=GIB // 4),
        speed=speed,
    )
    return replace(facts, **changes)


def training(**changes: Any) -> TrainParams:
    """The default section `train` with other values."""
    return values_of({f"train.{key}": value for key, value in changes.items()}).train


def choices(facts: Facts) -> dict[str, Any]:
    return {choice.key: choice.value for choice in choose(facts)}


def values_of(chosen: dict[str, Any]) -> Params:
    """The defaults with the choices, checked as a parameter file is."""
    tree = json.loads(json.dumps(DEFAULTS))
    for key, value in chosen.items():
        *sections, last = key.split(".")
        section = tree
        for name in sections:
            section = section[name]
        assert last in section
        section[last] = value
    return params.validate(tree, "choices")


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
        "train.lr": 0.001,
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
    assert chosen["train.batch_size"] == 16
    assert chosen["train.lr"] == 0.001
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
        "train.lr": 0.002,
        "train.augment.flip": 0.0,
        "loss": "iou",
    }
    assert expected.items() <= chosen.items()


def test_weights_and_device_decide_on_the_backbone() -> None:
    facts = make_facts(500, (480, 640), {"cat": [200.0]})
    gpu = replace(facts, device="cuda", cores=16)
    assert choices(gpu)["model.backbone"] == "efficientnet_lite0"
    assert choices(gpu)["machine.workers"] == 8
    assert choices(replace(gpu, weights=LITE0 | {"resnet50"}))["model.backbone"] == "resnet50"
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
        choose(replace(facts, seconds=25))
    with pytest.raises(PipelineError, match="no objects to learn from"):
        choose(make_facts(10, (300, 400), {"dog": []}))


@pytest.mark.parametrize(
    ("name", "is_sided"),
    [
        ("0", True), ("A", True), ("turn left", True), ("left_hand", True), ("turnRight", True), ("text", True),
        ("Three", True), ("clockwise", True), ("dog", False), ("leftover", False), ("brighton", False),
        ("bottle", False), ("number plate", False), ("eastern newt", False), ("digit_3", True), ("number_7", True),
        ("digit 0", True), ("letter_a", True), ("license plate text", True), ("Ж", True), ("人", False), ("犬", False),
        ("type a", False), ("phase_2", False), ("?", False),
    ],
)  # fmt: skip
def test_names_that_have_a_side(name: str, is_sided: bool) -> None:
    assert (sided_class(("cat", name)) is not None) is is_sided


def test_names_that_have_a_color() -> None:
    assert colored_class(("car", "red_light")) == "red_light"
    assert colored_class(("greenhouse", "bored")) is None
    facts = make_facts(156, (360, 480), {"redLight": [150.0]}, minutes=60)
    assert choices(facts)["train.augment.color_jitter"] == 0.0


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("1.5h", 5400), ("5min", 300)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "m", "30 m", "-5m", "0m", "1h30"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration such as 90s, 30m, 2h or 1h30m"):
        parse_duration(text)


side = st.floats(1, 3000)


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


def test_class_names_in_comments() -> None:
    """Whatever letters a class name has, the file keeps its lines."""
    name = "a\nb\x07\u2028\x85"
    text = recipes.compose([name], {"seed": recipes.Setting("7", name)}, {}, Path("x.yaml"))
    assert params.parse(text, Path("x.yaml")).seed == 7
    assert text.splitlines()[1] == r"# a\nb\x07\u2028\x85"
    assert r"seed: 7 # a\nb\x07\u2028\x85; " in text


def test_what_the_person_decided_stays(tmp_path: Path) -> None:
    """Workers, for which there is a choice on a GPU; but tiles turn the cache off."""
    (tmp_path / "params.yaml").write_text(
        recipes.compose(
            (),
            {"machine.workers": recipes.Setting("12", None), "machine.cache": recipes.Setting("true", None)},
            {},
            tmp_path,
        )
    )
    own = params.load(tmp_path / "params.yaml")
    gpu = replace(make_facts(60, (3000, 4000), {"car": [20.0]}), device="cuda", cores=2, cached=True)
    assert choices(gpu)["machine.workers"] == 1
    kept = {choice.key: choice.value for choice in undecided_choices(gpu, own)}
    assert "machine.workers" not in kept
    assert (kept["train.tiles"] is not None, kept["machine.cache"]) == (True, False)


def test_limits_of_cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The narrowest limit holds, of the process's cgroup or of one around it; cached files give way."""
    job = tmp_path / "jobs/7"
    job.mkdir(parents=True)
    files = {
        job / "memory.max": "max", job / "cpu.max": "max 100000", job.parent / "cpu.max": "250000 100000",
        job.parent / "memory.max": "1000", job.parent / "memory.current": "700",
        job.parent / "memory.stat": "anon 450\ninactive_file 250\n", tmp_path / "membership": "0::/jobs/7\n",
    }  # fmt: skip
    for file, text in files.items():
        file.write_text(text)
    monkeypatch.setattr(resource_limits, "_ROOT", tmp_path)
    monkeypatch.setattr(resource_limits, "_MEMBERSHIP", tmp_path / "membership")
    assert (resource_limits.memory_below_limit(), resource_limits.core_limit()) == (550, 2.5)
    monkeypatch.setattr(auto_facts, "core_limit", lambda: 0.5)
    monkeypatch.setattr(auto_facts, "memory_below_limit", lambda: 4096.0)
    assert (auto_facts.usable_cores(), auto_facts.free_memory(torch.device("cpu"))) == (1, 4096)
    (tmp_path / "membership").write_text("4:memory:/jobs\n")
    assert (resource_limits.memory_below_limit(), resource_limits.core_limit()) == (math.inf, math.inf)


@pytest.fixture
def small(home: Path, picture: Callable[..., Path]) -> Path:
    """Twelve training images of 64×64 pixels and three validation images; a comment of the person's in convert."""
    for name, count in (("train", 12), ("val", 3)):
        for number in range(count):
            picture(home / f"data/raw/digits/{name}{number}.png", (64, 64), seed=number)
        images = tuple(Image(n + 1, f"{name}{n}.png", 64, 64) for n in range(count))
        objects = tuple(Annotation(n + 1, n + 1, 1 + n % 2, (8.0, 8.0, 30.0, 24.0), 720.0) for n in range(count))
        split = AnnotationSet((Category(1, "1"), Category(2, "2")), images, objects)
        annotations.write(split, home / f"data/unified/{name}.json")
    path = home / "params.yaml"
    text = path.read_text().replace("  val_fraction: 0.2 #", "  val_fraction: 0.25 # a quarter is enough;")
    path.write_text(text.replace("  device: auto", "  device: cpu").replace("seed: 0 #", "seed: 3 #"))
    return home


def test_the_file(small: Path) -> None:
    """It has the person's sections as they are, the choices with their reasons, and `fcos check` has no advice."""
    before = (small / "params.yaml").read_text()
    refused = run(small, "fcos", "recipes", "auto", check=False)
    assert re.fullmatch(r"fcos: .*params\.yaml: has uncommitted changes; .* --force\n", refused)
    output = run(small, "fcos", "recipes", "auto", "--time", "24h", "--out", "auto.yaml")
    assert (small / "params.yaml").read_text() == before
    text = (small / "auto.yaml").read_text()
    lines = text.splitlines()
    assert lines[1] == "# Chosen by `fcos recipes auto --time 24h`. Reasons precede the comments of changed lines."
    assert lines[2] == "# Data: 12 images with 12 objects of 2 classes to learn from, 3 images to validate on."
    assert re.match(r"# Measured: CPU, \d+ cores?: [\d.]+ images/s with loading, [\d.]+ in validation, peak", lines[3])
    assert recipes.sections(text)["convert"] == recipes.sections(before)["convert"]
    values, own = params.load(small / "auto.yaml"), params.load()
    assert (values.seed, values.convert, values.machine) == (3, own.convert, own.machine)
    assert (values.model.levels, values.train.size, values.train.batch_size) == ((3,), (64, 64), 4)
    assert values.train.epochs == 150
    assert "  flip: 0.0 # mirrored, an object of class '1' would be another or none; horizontal flip;" in text
    assert "train.augment.flip=0.0  # mirrored, an object of class '1' would be another or none\n" in output
    assert f"auto.yaml: written; copy it to {small}/params.yaml, then train with `dvc repro`\n" in output
    assert output.endswith("fcos: measuring tiny at train.size [64, 64]\n")
    assert "fcos: " not in output.removesuffix("fcos: measuring tiny at train.size [64, 64]\n")  # no advice


def test_errors_of_the_command(small: Path) -> None:
    assert "Invalid value for --time: '30' is no duration such as" in run(
        small, "fcos", "recipes", "auto", "--time", "30", "--force", check=False
    )
    assert "--time is for the recipe auto" in run(small, "fcos", "recipes", "cpu_lite0", "--time", "30m", check=False)
    (small / "data/unified/val.json").unlink()
    missing = run(small, "fcos", "recipes", "auto", "--force", check=False)
    assert missing == f"fcos: {small}/data/unified/val.json: does not exist yet; run `dvc repro convert` first\n"
