"""Every rule of advice on a case where it applies, and no advice for sound parameters."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline import recipes
from pipeline.analysis.advice import RULES, advice
from pipeline.analysis.advice_context import Context, make_context
from pipeline.analysis.tiling import propose_for, propose_tiles, resize_factors
from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image
from pipeline.overrides import override
from pipeline.params import Params
from tests.support.parameters import paper_defaults

_DEFAULTS = paper_defaults()
DIGITS = replace(_DEFAULTS, train=replace(_DEFAULTS.train, epochs=8, batch_size=8))
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
    """Images of one size. Each has boxes of these widths and heights along its diagonal; classes alternate."""

    def position(index: int) -> float:
        return index / (len(boxes) - 1) if len(boxes) > 1 else 0.5

    used = [names.index(name) + 1 for name in (only or names)]
    annotations = tuple(
        Annotation(
            id=number * len(boxes) + index + 1,
            image_id=number + 1,
            category_id=used[(number + index) % len(used)],
            bbox=(
                *((room - side) * position(index) for room, side in zip(size, (width, height), strict=True)),
                width,
                height,
            ),
            area=width * height,
            difficult=difficult,
        )
        for number in range(images)
        for index, (width, height) in enumerate(boxes)
    )
    categories = tuple(Category(index + 1, name) for index, name in enumerate(names))
    return AnnotationSet(categories, tuple(Image(n + 1, f"{n}.jpg", *size) for n in range(images)), annotations)


def training(values: Params = DIGITS, **changes: object) -> Params:
    """Parameters with changed fields of `train`, `model`, `train.augment` or `machine`, as in `training(lr=1.0)`."""
    parts = (values.train, values.model, values.train.augment, values.machine)
    train, model, augment, machine = ({k: v for k, v in changes.items() if hasattr(part, k)} for part in parts)
    assert len(train) + len(model) + len(augment) + len(machine) == len(changes)
    return replace(
        values,
        model=replace(values.model, **model),
        train=replace(values.train, **train, augment=replace(values.train.augment, **augment)),
        machine=replace(values.machine, **machine),
    )


def context_of(
    values: Params, train: AnnotationSet | None = None, val: AnnotationSet | None = None, *, steps: int = 500
) -> Context:
    train = split() if train is None else train
    return replace(make_context(values, train, train if val is None else val, steps=steps), cores=16, device="cpu")


def advise(context: Context) -> dict[str, str]:
    return {rule.__name__: line for rule in RULES if (line := rule(context))}


@pytest.mark.parametrize("name", VOC)
def test_recipes_for_voc_have_no_advice_on_a_gpu(name: str) -> None:
    """letterbox640_r50 is not tested: one of its levels has no objects on VOC."""
    values = recipes.load(name)
    context = replace(context_of(values), device="cuda")
    allowed = {"no_workers"} if values.machine.workers == 0 else set()
    assert set(advise(context)) <= allowed


def test_no_advice_for_digits() -> None:
    scenes = split(200, size=(256, 256), boxes=((20, 21), (40, 60), (70, 110)))
    assert advise(context_of(recipes.defaults(), scenes, steps=250)) == {}
    assert list(advise(context_of(DIGITS, scenes, steps=125))) == ["empty_levels"]
    assert advise(context_of(training(levels=(3, 4)), scenes, steps=125)) == {}


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("high_learning_rate", {"lr": 0.2}, "a learning rate of 0.2 is far too high for muon: try train.lr 0.01"),
        ("high_learning_rate", {"lr": 0.02, "optimizer": "adamw"}, "0.02 is far too high for adamw: try"),
        ("high_learning_rate", {"lr": 0.5, "optimizer": "sgd"}, "0.5 is far too high for sgd: try train.lr 0.01"),
        (
            "high_learning_rate",
            {"lr": 0.001, "base_batch_size": 1, "batch_size": 16, "optimizer": "adamw"},
            "0.016 (train.lr 0.001 for 1 images)",
        ),
        ("long_warmup", {"warmup": 3.0, "schedule_unit": "epochs", "epochs": 4}, "warmup takes 1,500 of 2,000 steps"),
        (
            "late_drops",
            {"schedule": "multi_step", "steps": (60000, 80000), "warmup": 0, "schedule_unit": "iterations"},
            "drops first at step 60,000 of 4,000",
        ),
        ("large_batch", {"batch_size": 64}, "train.batch_size 64 exceeds the 40 images: set it to at most 40"),
        ("large_batch", {"max_images": 5}, "exceeds the 5 images"),
        ("frozen_backbone", {"backbone_frozen_epochs": 8, "pretrained": True}, "8 of 8 epochs: the backbone"),
        ("frozen_backbone", {"backbone_frozen_epochs": 1}, "freezes a backbone without pretrained weights"),
        ("no_mosaic_epochs", {"close_mosaic_epochs": 8, "mosaic": 0.5}, "mosaic and mixup are never applied"),
        ("many_workers", {"workers": 20}, "machine.workers 20 exceeds the 16 cores: set it to at most 16"),
        ("no_gpu", {"size": (800, 1333), "epochs": 30}, "inputs of 1.1 megapixels without a GPU"),
    ],
)  # fmt: skip
def test_parameters(name: str, changes: dict[str, object], expected: str) -> None:
    assert expected in advise(context_of(training(**changes)))[name]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("high_learning_rate", {"lr": 0.1, "optimizer": "sgd"}),
        (
            "high_learning_rate",
            {"lr": 0.02, "base_batch_size": 16, "batch_size": 256, "optimizer": "sgd"},
        ),  # linear scaling
        (
            "late_drops",
            {"steps": (60000,), "warmup": 0, "schedule_unit": "iterations"},
        ),  # a cosine schedule has no drops
        ("no_mosaic_epochs", {"close_mosaic_epochs": 8}),
        ("frozen_backbone", {"backbone_frozen_epochs": 7, "pretrained": True}),
        ("many_workers", {"workers": 16}),
    ],
)
def test_no_advice_for_sound_parameters(name: str, changes: dict[str, object]) -> None:
    assert name not in advise(context_of(training(**changes)))


def test_a_backbone_of_another_detector_may_be_frozen(tmp_path: Path) -> None:
    (tmp_path / "detector.safetensors").touch()
    values = training(backbone_frozen_epochs=1, start_from=str(tmp_path))
    assert "frozen_backbone" not in advise(context_of(values))


def test_tiles_for_small_boxes_in_large_images() -> None:
    """Boxes of 12 pixels in 2,400: 1.3 at an input of 256, and 24 in tiles of 128, of which a tenth holds them."""
    scenes = split(size=(2400, 2400), boxes=((12, 12), (12, 12), (12, 12)))
    lines = advise(context_of(DIGITS, scenes))
    options = ["train.tiles=[128, 0.1]", "evaluate.tiles=[128, 0.1]"]
    assert lines["small_boxes_in_large_images"] == (
        "100% of the boxes are under 12 px at the input size: tiles of 128 px would show their median at 24 px "
        f"instead of 1: -S '{options[0]}' -S '{options[1]}'"
    )
    assert propose_for(DIGITS.train, scenes) == lines["small_boxes_in_large_images"]
    assert "large_images" not in lines  # which advises the cache
    cached = advise(context_of(training(cache=True), scenes))["small_boxes_in_large_images"]
    assert cached.endswith(f"-S '{options[1]}' -S machine.cache=false")
    trained = advise(context_of(override(DIGITS, options[:1]), scenes))
    assert trained["untiled_evaluation"] == f"training is on tiles, but evaluation isn't: -S '{options[1]}'"
    few = split(5, size=(2000, 2000), boxes=((12, 12),))
    assert "large_batch" in advise(context_of(DIGITS, few))
    assert "large_batch" not in advise(context_of(override(DIGITS, options), few))
    changed = override(DIGITS, options)
    assert changed.train.tiles == changed.evaluate.tiles == (128, 0.1)
    assert not {"small_boxes", "small_boxes_in_large_images", "untiled_evaluation", "unlearnable_objects"} & set(
        advise(context_of(changed, scenes))
    )
    # Boxes of 200 pixels are large enough, and images of 300 are hardly shrunk.
    assert "small_boxes_in_large_images" not in advise(
        context_of(DIGITS, split(size=(2000, 2000), boxes=((200, 200),)))
    )
    assert "small_boxes_in_large_images" not in advise(context_of(DIGITS, split(size=(300, 300), boxes=((8, 8),))))


def test_tiles_follow_the_small_boxes() -> None:
    """Three of ten boxes have 5 px at the input size and 78.1 stored: 256 / (22 / 78.1) = 909, and 896 = 28 · 32."""
    boxes = np.array([(5.0, 5.0)] * 3 + [(150.0, 150.0)] * 7)
    assert propose_tiles(training(size=(256, 256)).train, boxes, np.array([(3000.0, 4000.0)])) == (
        "30% of the boxes are under 12 px at the input size: tiles of 896 px would show their median at 22 px "
        "instead of 5: -S 'train.tiles=[896, 0.1]' -S 'evaluate.tiles=[896, 0.1]'"
    )


def test_a_larger_input_is_enough_for_photographs() -> None:
    """Boxes of 25 px in 480×640 have 10 at 256×256; 22 need 0.88 of 640 pixels, and 576 is the multiple of 32."""
    boxes = np.array([(10.0, 10.0)])
    for images, letterbox, size in (((480.0, 640.0), False, "[448, 576]"), ((640.0, 480.0), True, "[576, 448]")):
        train = training(size=(256, 256), letterbox=letterbox).train
        assert propose_tiles(train, boxes, np.array([images])) == (
            "100% of the boxes are under 12 px at the input size: a larger input shows them better: "
            f"-S 'train.size={size}'"
        )


def test_a_gpu_needs_workers() -> None:
    assert "try 8" in advise(replace(context_of(DIGITS), device="cuda"))["no_workers"]


def test_classes() -> None:
    three = ("cat", "dog", "emu")
    train, val = split(names=three, only=("cat",)), split(names=three, only=("cat", "dog"))
    lines = advise(context_of(DIGITS, train, val))
    assert lines["untrained_classes"].startswith("val has objects of dog but train has none")
    assert lines["missing_classes"].startswith("1 of 3 classes have no objects (emu)")
    many = tuple(f"c{number}" for number in range(12))
    line = advise(context_of(DIGITS, split(names=many, only=("c0",))))["missing_classes"]
    assert "11 of 12 classes have no objects (c1, c2, c3, c4, c5 and 6 more)" in line


def test_imbalanced_classes() -> None:
    common = split(1001, boxes=((90, 90),), only=("cat",))
    rare = replace(common.annotations[0], id=5000, category_id=2)
    lines = advise(context_of(DIGITS, replace(common, annotations=(*common.annotations, rare))))
    assert lines["imbalanced_classes"].startswith("cat has 1,001 objects and dog has 1:")


def test_difficult_objects_count_only_if_they_are_trained() -> None:
    easy, hard = split(20, only=("cat",)), split(20, only=("dog",), difficult=1)
    both = replace(easy, annotations=(*easy.annotations, *(replace(a, id=a.id + 1000) for a in hard.annotations)))
    assert make_context(DIGITS, both, both, steps=1).train_counts == {"cat": 80, "dog": 0}
    assert make_context(training(include_difficult=True), both, both, steps=1).train_counts == {"cat": 80, "dog": 80}


def test_small_boxes() -> None:
    """At 256 of 375 pixels, 11 pixels become 7.5, and 12 become 8.2."""
    boxes = ((11, 11), (11, 11), (12, 12), (90, 90), (90, 90))
    lines = advise(context_of(DIGITS, split(size=(375, 375), boxes=boxes)))
    assert (
        lines["small_boxes"]
        == "40% of the boxes are under 8 px at the input size: increase train.size (now [256, 256])"
    )
    coarse = advise(context_of(training(levels=(4, 5)), split(size=(375, 375), boxes=boxes)))
    assert coarse["small_boxes"].endswith(", and start model.levels at 3")


@pytest.mark.parametrize(
    ("longest", "changes", "expected"),
    [
        # The other objects, of 20 and 100 px, are for P3 and P4. P5 is for distances over 128 px; they are at most half
        # the side plus 1.5 strides of 32 px, without zoom.
        (160, {"scale": (1, 1)}, "no object falls on P5 (sizes over 128 px)"),
        (161, {"scale": (1, 1)}, None),
        (130, {}, None),  # zoomed by up to 1.25
        (150, {"scale": (1, 1), "multi_scale": (256, 300)}, None),
        (160, {"scale": (1, 1), "center_sampling_radius": 0.0}, None),  # the distance may be the whole side
        (128, {"scale": (1, 1), "center_sampling_radius": 0.0}, "no object falls on P5"),
        (160, {"scale": (1, 1), "regression_ranges": (32, 64)}, None),
        (20, {"scale": (1, 1), "assigner": "atss"}, None),  # this assigner has no size ranges
    ],
)
def test_empty_top_levels(longest: int, changes: dict[str, object], expected: str | None) -> None:
    lines = advise(context_of(training(**changes), split(size=(256, 256), boxes=((20, 20), (100, 20), (longest, 20)))))
    assert (lines.get("empty_levels") or "").startswith(expected or "")
    assert ("empty_levels" in lines) == bool(expected)


@pytest.mark.parametrize(
    ("levels", "largest", "expected"),
    [
        # Of 4 strides of 8 px, a box has at most 64 px: 66 and 200 px have more. 200 px are twice 12.5 strides.
        ((3,), 4, "50% of the objects need more than model.distribution_max 4 strides of 8 px, so their boxes would be "
         "too small: -S model.distribution_max=14, or add coarser model.levels"),
        ((3,), 13, None),
        ((4,), 4, "25% of the objects need more than model.distribution_max 4 strides of 16 px"),  # 128 px at most
        ((5, 6, 7), 8, None),
    ],
)  # fmt: skip
def test_capped_boxes(levels: tuple[int, ...], largest: int, expected: str | None) -> None:
    scenes = split(size=(256, 256), boxes=((20, 20), (64, 20), (66, 20), (200, 20)))
    changes = {"levels": levels, "distribution_max": largest}
    lines = advise(context_of(training(**changes, box_output="distribution"), scenes))
    assert (lines.get("capped_boxes") or "").startswith(expected or "")
    assert ("capped_boxes" in lines) == bool(expected)
    assert "capped_boxes" not in advise(context_of(training(**changes), scenes))


@pytest.mark.parametrize(
    ("longest", "changes", "expected"),
    [
        (257, {}, "25% of the objects are longer than 256 px at the input size, 16 strides of P4: add coarser "
                  "model.levels, at least 5"),
        (256, {}, None),
        (257, {"levels": (3, 4, 5)}, None),
        (400, {"assigner": "fcos"}, None),  # the last of its ranges has no upper end
        (400, {"box_output": "distribution", "distribution_max": 4}, None),  # capped_boxes tells it
        (257, {"assigner": "atss"}, "25% of the objects"),
    ],
)  # fmt: skip
def test_missing_coarse_levels(longest: int, changes: dict[str, object], expected: str | None) -> None:
    values = {"levels": (3, 4), "assigner": "task_aligned", "size": (512, 512)} | changes
    scenes = split(size=(512, 512), boxes=((20, 20), (100, 20), (200, 20), (longest, 20)))
    lines = advise(context_of(training(**values), scenes))
    assert (lines.get("missing_coarse_levels") or "").startswith(expected or "")
    assert ("missing_coarse_levels" in lines) == bool(expected)


def test_empty_levels_at_both_ends() -> None:
    lines = advise(context_of(DIGITS, split(size=(256, 256), boxes=((20, 20),))))
    assert lines["empty_levels"].startswith("no object falls on P4, P5 (sizes over 64 px): leave")
    lines = advise(context_of(training(levels=(3, 4, 5, 6)), split(size=(256, 256), boxes=((250, 250),))))
    assert lines["empty_levels"].startswith("no object falls on P3, P6: adapt model.regression_ranges")


def test_unlearnable_objects() -> None:
    """One in four boxes is too small to contain a location."""
    boxes = ((2.0, 2.0), (30.0, 30.0), (50.0, 50.0), (90.0, 90.0))
    lines = advise(context_of(DIGITS, split(size=(256, 256), boxes=boxes)))
    assert lines["unlearnable_objects"].startswith("25.0% of the objects have no location")
    assert "unlearnable_objects" not in advise(context_of(training(assigner="task_aligned"), split(boxes=boxes)))


def test_large_images() -> None:
    large = split(size=(4000, 3000), boxes=((900, 900),))
    assert advise(context_of(DIGITS, large))["large_images"].startswith("images are 16 times as large as train.size")
    assert "large_images" not in advise(context_of(training(cache=True), large))


def test_validation_that_takes_most_of_the_time() -> None:
    train, val = split(16), split(100)
    lines = advise(context_of(DIGITS, train, val, steps=2))
    assert lines["costly_validation"] == "validation takes about 68% of the time: increase train.validate_every (now 1)"
    assert "costly_validation" not in advise(context_of(training(validate_every=8), train, val, steps=2))


def test_scales_equal_those_of_the_input_size() -> None:
    for letterbox in (False, True):
        values = training(size=(300, 400), letterbox=letterbox)
        for shape in ((375, 500), (500, 375), (100, 900)):
            (scale,) = resize_factors(values.train, np.array([shape], dtype=float))
            assert scale == pytest.approx(values.train.input_size.scale(*shape))


def test_images_that_training_leaves_out_are_not_counted() -> None:
    full, blank = split(10), split(20)
    half = replace(blank, annotations=full.annotations)
    crowd = replace(half, annotations=(replace(half.annotations[0], iscrowd=1), *half.annotations[1:]))
    assert make_context(DIGITS, half, half, steps=1).images == 20
    assert make_context(training(include_empty=False), half, half, steps=1).images == 10
    assert make_context(training(include_crowd=False), crowd, crowd, steps=1).images == 19


def test_a_split_without_objects_is_no_error() -> None:
    """Loading the training data raises the error; advice only lists the classes."""
    blank = replace(split(), annotations=())
    assert list(advise(context_of(DIGITS, blank))) == ["missing_classes"]


def test_lines_are_in_the_order_of_the_rules() -> None:
    lines = advice(training(lr=1.0, batch_size=64, device="cpu"), split(), split(), steps=100)
    assert [line.split()[0] for line in lines] == ["a", "train.batch_size"]
    assert all("\n" not in line for line in lines)


def test_every_rule_is_tested_in_this_file() -> None:
    text = Path(__file__).read_text()
    names = [rule.__name__ for rule in RULES]
    assert [name for name in names if f'"{name}"' not in text] == []
