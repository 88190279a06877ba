"""Advice before a training: each piece where it is due, and none where all is well."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import params, recipes
from pipeline.analysis import advice as advising
from pipeline.analysis.advice import ADVICE, Context, advice, look
from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image
from pipeline.params import Params
from tests.support.paths import PROJECT

DIGITS = params.load(PROJECT / "params.yaml")
VOC = [name for name in recipes.recipes() if "voc" in name] + ["cpu_lite0"]
CLASSES = ("cat", "dog")


def split(
    images: int = 40,
    *,
    size: tuple[int, int] = (500, 375),
    boxes: tuple[tuple[float, float], ...] = ((40, 50), (90, 60), (210, 180), (480, 360)),
    names: tuple[str, ...] = CLASSES,
    only: tuple[str, ...] | None = None,
    difficult: int = 0,
) -> AnnotationSet:
    """Images of one size, each with boxes of these widths and heights from corner to corner; of classes in turn."""

    def at(place: int) -> float:
        return place / (len(boxes) - 1) if len(boxes) > 1 else 0.5

    used = [names.index(name) + 1 for name in (only or names)]
    found = tuple(
        Annotation(
            id=number * len(boxes) + place + 1,
            image_id=number + 1,
            category_id=used[(number + place) % len(used)],
            bbox=(
                *((room - side) * at(place) for room, side in zip(size, (width, height), strict=True)),
                width,
                height,
            ),
            area=width * height,
            difficult=difficult,
        )
        for number in range(images)
        for place, (width, height) in enumerate(boxes)
    )
    categories = tuple(Category(place + 1, name) for place, name in enumerate(names))
    return AnnotationSet(categories, tuple(Image(n + 1, f"{n}.jpg", *size) for n in range(images)), found)


def training(values: Params = DIGITS, **changes: object) -> Params:
    """`training(lr=1.0)`; a model's field too, and one of `augment`."""
    parts = (values.train, values.model, values.train.augment, values.machine)
    train, model, augment, machine = ({k: v for k, v in changes.items() if hasattr(part, k)} for part in parts)
    assert len(train) + len(model) + len(augment) + len(machine) == len(changes)
    return replace(
        values,
        model=replace(values.model, **model),
        train=replace(values.train, **train, augment=replace(values.train.augment, **augment)),
        machine=replace(values.machine, **machine),
    )


def context(
    values: Params, train: AnnotationSet | None = None, val: AnnotationSet | None = None, *, steps: int = 500
) -> Context:
    train = split() if train is None else train
    return replace(look(values, train, train if val is None else val, steps=steps), cores=16, device="cpu")


def told(now: Context) -> dict[str, str]:
    return {tell.__name__: line for tell in ADVICE if (line := tell(now))}


@pytest.mark.parametrize("name", VOC)
def test_recipes_for_voc_have_no_advice_on_a_gpu(name: str) -> None:
    """letterbox640_r50 isn't among them: of its levels one is really idle there."""
    values = recipes.load(name)
    now = replace(context(values), device="cuda")
    allowed = {"no_workers"} if values.machine.workers == 0 else set()
    assert set(told(now)) <= allowed


def test_no_advice_for_digits_but_on_its_idle_level() -> None:
    scenes = split(200, size=(256, 256), boxes=((20, 21), (40, 60), (70, 110)))
    assert list(told(context(DIGITS, scenes, steps=125))) == ["empty_levels"]
    assert told(context(training(levels=(3, 4)), scenes, steps=125)) == {}


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("high_rate", {"lr": 0.02}, "a learning rate of 0.02 is far too high for adamw: try train.lr 0.001"),
        ("high_rate", {"lr": 0.5, "optimizer": "sgd"}, "0.5 is far too high for sgd: try train.lr 0.01"),
        ("high_rate", {"lr": 0.001, "base_batch_size": 1, "batch_size": 16}, "0.016 (train.lr 0.001 for 1 images)"),
        ("long_warmup", {"warmup": 3.0, "schedule_unit": "epochs", "epochs": 4}, "warmup takes 1,500 of 2,000 steps"),
        (
            "late_drops",
            {"schedule": "multi_step", "steps": (60000, 80000), "warmup": 0, "schedule_unit": "iterations"},
            "first falls at step 60,000 of 4,000",
        ),
        ("large_batch", {"batch_size": 64}, "train.batch_size 64 is more than the 40 images: at most 40"),
        ("large_batch", {"max_images": 5}, "more than the 5 images"),
        ("frozen_backbone", {"backbone_frozen_epochs": 8, "pretrained": True}, "8 of 8 epochs: the backbone"),
        ("frozen_backbone", {"backbone_frozen_epochs": 1}, "keeps a backbone that has learned nothing as it is"),
        ("always_plain", {"close_mosaic_epochs": 8, "mosaic": 0.5}, "mosaic and mixup never happen"),
        ("many_workers", {"workers": 20}, "machine.workers 20 on 16 cores: at most 16"),
        ("no_gpu", {"size": (800, 1333), "epochs": 30}, "no GPU for images of 1.1 megapixels"),
    ],
)  # fmt: skip
def test_parameters(name: str, changes: dict[str, object], expected: str) -> None:
    assert expected in told(context(training(**changes)))[name]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("high_rate", {"lr": 0.1, "optimizer": "sgd"}),
        ("high_rate", {"lr": 0.02, "base_batch_size": 16, "batch_size": 256, "optimizer": "sgd"}),  # linear scaling
        ("late_drops", {"steps": (60000,), "warmup": 0, "schedule_unit": "iterations"}),  # cosine has none
        ("always_plain", {"close_mosaic_epochs": 8}),
        ("frozen_backbone", {"backbone_frozen_epochs": 7, "pretrained": True}),
        ("many_workers", {"workers": 16}),
    ],
)
def test_right_parameters_are_left_alone(name: str, changes: dict[str, object]) -> None:
    assert name not in told(context(training(**changes)))


def test_workers_for_a_gpu() -> None:
    assert "try 8" in told(replace(context(DIGITS), device="cuda"))["no_workers"]


def test_classes() -> None:
    three = ("cat", "dog", "emu")
    train, val = split(names=three, only=("cat",)), split(names=three, only=("cat", "dog"))
    lines = told(context(DIGITS, train, val))
    assert lines["unknown_classes"].startswith("val has objects of dog, and train none")
    assert lines["missing_classes"].startswith("no object of 1 of 3 classes (emu)")
    many = tuple(f"c{number}" for number in range(12))
    line = told(context(DIGITS, split(names=many, only=("c0",))))["missing_classes"]
    assert "11 of 12 classes (c1, c2, c3, c4, c5 and 6 more)" in line


def test_unequal_classes() -> None:
    common = split(1001, boxes=((90, 90),), only=("cat",))
    rare = replace(common.annotations[0], id=5000, category_id=2)
    lines = told(context(DIGITS, replace(common, annotations=(*common.annotations, rare))))
    assert lines["unequal_classes"].startswith("cat has 1,001 objects and dog 1:")


def test_difficult_objects_are_no_objects_unless_they_are_learned() -> None:
    easy, hard = split(20, only=("cat",)), split(20, only=("dog",), difficult=1)
    both = replace(easy, annotations=(*easy.annotations, *(replace(a, id=a.id + 1000) for a in hard.annotations)))
    assert look(DIGITS, both, both, steps=1).learned == {"cat": 80, "dog": 0}
    assert look(training(include_difficult=True), both, both, steps=1).learned == {"cat": 80, "dog": 80}


def test_small_boxes() -> None:
    """At 256 of 375 pixels, 11 pixels become 7.5, and 12 become 8.2."""
    boxes = ((11, 11), (11, 11), (12, 12), (90, 90), (90, 90))
    lines = told(context(DIGITS, split(size=(375, 375), boxes=boxes)))
    assert lines["small_boxes"] == "40% of boxes are under 8 px at this input size: a larger train.size, now [256, 256]"
    coarse = told(context(training(levels=(4, 5)), split(size=(375, 375), boxes=boxes)))
    assert coarse["small_boxes"].endswith(", and model.levels that begin at 3")


@pytest.mark.parametrize(
    ("longest", "changes", "expected"),
    [
        # Beside objects of 20 and 100 pixels, for P3 and P4.
        # P5 learns what is over 128: at most half the side, and 1.5 strides of 32; without zoom
        (160, {"scale": (1, 1)}, "no object falls on P5, for sizes over 128 px"),
        (161, {"scale": (1, 1)}, None),
        (130, {}, None),  # zoomed by 1.25
        (150, {"scale": (1, 1), "multi_scale": (256, 300)}, None),
        (160, {"scale": (1, 1), "center_sampling_radius": 0.0}, None),  # the whole side counts
        (128, {"scale": (1, 1), "center_sampling_radius": 0.0}, "no object falls on P5"),
        (160, {"scale": (1, 1), "regression_ranges": (32, 64)}, None),
        (20, {"scale": (1, 1), "assigner": "atss"}, None),  # no ranges
    ],
)
def test_levels_at_the_top(longest: int, changes: dict[str, object], expected: str | None) -> None:
    lines = told(context(training(**changes), split(size=(256, 256), boxes=((20, 20), (100, 20), (longest, 20)))))
    assert (lines.get("empty_levels") or "").startswith(expected or "")
    assert ("empty_levels" in lines) == bool(expected)


def test_levels_that_are_not_reached() -> None:
    lines = told(context(DIGITS, split(size=(256, 256), boxes=((20, 20),))))
    assert lines["empty_levels"].startswith("no object falls on P4, P5, for sizes over 64 px: leave")
    lines = told(context(training(levels=(3, 4, 5, 6)), split(size=(256, 256), boxes=((250, 250),))))
    assert lines["empty_levels"].startswith("no object falls on P3, P6: choose model.regression_ranges")


def test_unlearnable() -> None:
    """Boxes that no location lies in, beside others that are learned."""
    boxes = ((2.0, 2.0), (30.0, 30.0), (50.0, 50.0), (90.0, 90.0))
    lines = told(context(DIGITS, split(size=(256, 256), boxes=boxes)))
    assert lines["unlearnable"].startswith("no location learns 25.0% of the objects")
    assert "unlearnable" not in told(context(training(assigner="task_aligned"), split(boxes=boxes)))


def test_large_images() -> None:
    large = split(size=(4000, 3000), boxes=((900, 900),))
    assert told(context(DIGITS, large))["large_images"].startswith("images are 16 times as large as train.size")
    assert "large_images" not in told(context(training(cache=True), large))


def test_validation_that_takes_most_of_the_time() -> None:
    train, val = split(16), split(100)
    lines = told(context(DIGITS, train, val, steps=2))
    assert lines["costly_validation"] == "validation takes about 68% of the time: raise train.validate_every, now 1"
    assert "costly_validation" not in told(context(training(validate_every=8), train, val, steps=2))


def test_scales_are_those_of_the_input_size() -> None:
    for letterbox in (False, True):
        values = training(size=(300, 400), letterbox=letterbox)
        for shape in ((375, 500), (500, 375), (100, 900)):
            (scale,) = advising._scales(values, advising.np.array([shape], dtype=float))
            assert scale == pytest.approx(values.train.input_size.scale(*shape))


def test_images_that_are_left_out_do_not_count() -> None:
    full, blank = split(10), split(20)
    half = replace(blank, annotations=full.annotations)
    crowd = replace(half, annotations=(replace(half.annotations[0], iscrowd=1), *half.annotations[1:]))
    assert look(DIGITS, half, half, steps=1).images == 20
    assert look(training(include_empty=False), half, half, steps=1).images == 10
    assert look(training(include_crowd=False), crowd, crowd, steps=1).images == 19


def test_nothing_to_learn_is_for_others_to_say() -> None:
    """The training data refuse it; advice doesn't stumble over it."""
    blank = replace(split(), annotations=())
    assert list(told(context(DIGITS, blank))) == ["missing_classes"]


def test_lines_come_in_the_order_of_the_list() -> None:
    lines = advice(training(lr=1.0, batch_size=64, device="cpu"), split(), split(), steps=100)
    assert [line.split()[0] for line in lines] == ["a", "train.batch_size"]
    assert all("\n" not in line for line in lines)


def test_each_piece_is_tested_here() -> None:
    """By its name in this file."""
    text = Path(__file__).read_text()
    names: list[Callable[[Context], str | None]] = list(ADVICE)
    assert [tell.__name__ for tell in names if f'"{tell.__name__}"' not in text] == []
