"""Augmentation as a whole: each transform happens with its probability, and boxes stay on their pixels."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fcos.config import InputSize
from pipeline.loading.transforms import Augmentation, Sample, flip, resize
from pipeline.params import AugmentParams
from tests.support.painted_scenes import COLORS, painted_box, samples_equal, scene, scenes, seeds, sides

OFF = AugmentParams(
    flip=0.0,
    scale=(1.0, 1.0),
    color_jitter=0.0,
    color_jitter_strength=(0.4, 0.4, 0.4, 0.1),
    affine=0.0,
    degrees=10.0,
    shear=5.0,
    translate=0.1,
    perspective=0.0,
    perspective_distortion=0.3,
    crop=0.0,
    min_crop=0.3,
    mosaic=0.0,
    mixup=0.0,
    close_mosaic_epochs=0,
)
OPTIONS = ("flip", "color_jitter", "affine", "perspective", "crop", "mosaic", "mixup")


class Files:
    """Reads images from memory, and counts the reads."""

    def __init__(self, samples: list[Sample]) -> None:
        self.samples, self.reads = samples, 0

    def __call__(self, index: int) -> Sample:
        self.reads += 1
        return self.samples[index]


def augmentation(size: InputSize | None = None, epochs: int = 4, seed: int = 0, **options: object) -> Augmentation:
    multi_scale = options.pop("multi_scale", None)
    params = replace(OFF, **options)  # type: ignore[arg-type]
    return Augmentation(
        params=params,
        input_size=size or InputSize((64, 96)),
        multi_scale=multi_scale,  # type: ignore[arg-type]
        epochs=epochs,
        seed=seed,
    )


@st.composite
def collections(draw: st.DrawFn) -> list[Sample]:
    """Four images whose seven objects have different colors."""
    counts = (2, 1, 2, 2)
    labels = (0, 2, 3, 5)  # the first of each image
    return [draw(scenes(first, count, f"{first}.png")) for first, count in zip(labels, counts, strict=True)]


INPUTS = st.sampled_from([InputSize((64, 96)), InputSize((80, 80)), InputSize((72, 100), letterbox=True)])


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    collections(),
    INPUTS,
    st.fixed_dictionaries(
        {name: st.sampled_from([0.0, 0.5, 1.0]) for name in OPTIONS if name not in ("color_jitter", "mixup")}
    ),
    st.sampled_from([(1.0, 1.0), (0.7, 1.6)]),
    seeds,
)
def test_boxes_stay_on_their_pixels(
    samples: list[Sample], size: InputSize, options: dict[str, float], scale: tuple[float, float], seed: int
) -> None:
    result = augmentation(size, seed=seed, scale=scale, **options)(Files(samples), 4, 0, 0)
    height, width = result.size
    warped = bool(options["affine"] or options["perspective"])
    original = set(samples[0].labels.tolist())
    assert set(result.labels.tolist()) <= (set(range(7)) if options["mosaic"] else original)
    assert len(set(result.labels.tolist())) == len(result.labels) == len(result.boxes), "an object appears twice"
    for label, box in zip(result.labels.tolist(), result.boxes.tolist(), strict=True):
        x1, y1, x2, y2 = box
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height
        if min(x2 - x1, y2 - y1) < 12:
            continue  # too few pixels with an unmixed color
        left, top, right, bottom = painted_box(result.image, label)
        assert left >= x1 - 4
        assert top >= y1 - 4
        assert right <= x2 + 4
        assert bottom <= y2 + 4
        # The bounding box of a rotated object that the image's edge cuts may be larger than its visible part.
        if not warped or (x1 > 0 and y1 > 0 and x2 < width and y2 < height):
            assert [left, top, right, bottom] == pytest.approx(box, abs=8 if warped else 4)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(collections(), INPUTS, seeds)
def test_mixup_keeps_the_objects_of_both_images(samples: list[Sample], size: InputSize, seed: int) -> None:
    result = augmentation(size, seed=seed, mixup=1.0)(Files(samples), 4, 0, 0)
    labels = set(result.labels.tolist())
    others = [set(sample.labels.tolist()) for sample in samples[1:]]
    assert labels - set(samples[0].labels.tolist()) in others
    assert set(samples[0].labels.tolist()) <= labels
    assert result.size == resize(samples[0], size.scale(*samples[0].size)).size
    for label, (x1, y1, x2, y2) in zip(result.labels.tolist(), result.boxes.tolist(), strict=True):
        if min(x2 - x1, y2 - y1) < 6:
            continue  # no pixel with an unmixed color
        inside = result.image[:, round(y1) + 1 : round(y2) - 1, round(x1) + 1 : round(x2) - 1].float()
        lit = torch.tensor(COLORS[label]) > 0
        assert inside[lit].min() > 20, f"object {label} is not visible in its whole box"


@pytest.fixture
def files() -> Files:
    boxes = [[10, 8, 40, 38], [60, 20, 90, 60]]
    return Files([scene(64, 96, boxes[: 2 - i % 2], first=2 * (i % 3), name=f"{i}.png") for i in range(6)])


def test_without_options_the_image_is_unchanged(files: Files) -> None:
    result = augmentation()(files, 6, 0, 0)
    assert samples_equal(result, files.samples[0])
    assert result.image is files.samples[0].image, "the image was copied"
    assert files.reads == 1


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_with_probability_1_always_happens(files: Files, option: str) -> None:
    transform = augmentation(**{option: 1.0})
    changed = [
        not samples_equal(transform(files, 6, epoch, index), files.samples[index])
        for epoch in range(4)
        for index in range(6)
    ]
    # A crop may keep the whole image.
    assert sum(changed) >= 20 if option == "crop" else all(changed)


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_with_probability_one_half_changes_half_of_the_images(files: Files, option: str) -> None:
    transform = augmentation(epochs=40, **{option: 0.5})
    changed = sum(
        not samples_equal(transform(files, 6, epoch, index), files.samples[index])
        for epoch in range(30)
        for index in (0, 1)
    )
    assert 18 <= changed <= 42  # of 60; the standard deviation is 4


def test_other_images_are_read_only_by_mosaic_and_mixup(files: Files) -> None:
    for options, reads in (({"mosaic": 1.0}, 4), ({"mixup": 1.0}, 2), ({"mosaic": 1.0, "mixup": 1.0}, 5)):
        files.reads = 0
        augmentation(**options)(files, 6, 0, 0)
        assert files.reads == reads


@pytest.mark.parametrize("last", [0, 1, 3, 9])
@pytest.mark.parametrize("option", ["mosaic", "mixup"])
def test_the_last_epochs_are_without_mosaic_and_mixup(files: Files, option: str, last: int) -> None:
    transform = augmentation(epochs=5, close_mosaic_epochs=last, **{option: 1.0})
    changed = [not samples_equal(transform(files, 6, epoch, 0), files.samples[0]) for epoch in range(5)]
    assert changed == [epoch < 5 - last for epoch in range(5)]


def test_the_last_epochs_keep_other_options(files: Files) -> None:
    transform = augmentation(epochs=5, close_mosaic_epochs=5, flip=1.0)
    assert samples_equal(transform(files, 6, 4, 0), flip(files.samples[0]))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(sides, sides, st.integers(20, 90), st.integers(0, 40), seeds)
def test_multi_scale_stays_in_its_range(height: int, width: int, low: int, more: int, seed: int) -> None:
    transform = augmentation(InputSize((64, 96)), seed=seed, multi_scale=(low, low + more))
    shorter, longer = sorted(transform(Files([scene(height, width, [])]), 1, 0, 0).size)
    assert longer <= 96
    assert low <= shorter <= low + more or longer == 96
    assert shorter <= low + more


def test_multi_scale_uses_its_whole_range(files: Files) -> None:
    transform = augmentation(InputSize((64, 96)), epochs=99, multi_scale=(30, 33))
    assert {transform(files, 6, epoch, 0).size[0] for epoch in range(40)} == {30, 31, 32, 33}


def test_random_draws_depend_only_on_seed_epoch_and_image(files: Files) -> None:
    transform = augmentation(scale=(0.7, 1.4), **dict.fromkeys(OPTIONS, 0.7))
    again = augmentation(scale=(0.7, 1.4), **dict.fromkeys(OPTIONS, 0.7))
    torch.manual_seed(99)
    samples = [transform(files, 6, 2, index) for index in range(6)]
    assert all(samples_equal(again(files, 6, 2, index), samples[index]) for index in reversed(range(6)))
    assert not any(samples_equal(transform(files, 6, 3, index), samples[index]) for index in range(6))
    other_seed = augmentation(scale=(0.7, 1.4), seed=1, **dict.fromkeys(OPTIONS, 0.7))
    assert not any(samples_equal(other_seed(files, 6, 2, index), samples[index]) for index in range(6))


def test_an_option_does_not_change_the_random_draws_of_another(files: Files) -> None:
    options = {"scale": (0.7, 1.4), "affine": 0.5, "mosaic": 0.5}
    for index in range(6):
        without = augmentation(**options)(files, 6, 0, index)
        assert samples_equal(augmentation(**options, flip=1.0)(files, 6, 0, index), flip(without))
        assert torch.equal(augmentation(**options, color_jitter=1.0)(files, 6, 0, index).boxes, without.boxes)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_mosaic_and_mixup_work_with_few_images(files: Files, count: int) -> None:
    for index in range(count):
        result = augmentation(**dict.fromkeys(OPTIONS, 1.0))(files, count, 0, index)
        assert max(result.size) <= 96


def test_images_of_one_pixel_are_augmented(files: Files) -> None:
    thin = [scene(1, 90, []), scene(90, 1, []), scene(1, 1, []), files.samples[0]]
    for index in range(4):
        result = augmentation(scale=(0.5, 2.0), **dict.fromkeys(OPTIONS, 1.0))(Files(thin), 4, 0, index)
        assert result.image.dtype == torch.uint8
        assert min(result.size) >= 1


def test_boxes_are_clipped_to_the_image() -> None:
    """Annotations may exceed its edges by a thousandth of a pixel."""
    beyond = replace(scene(64, 96, [[0, 0, 96, 64]]), boxes=torch.tensor([[-0.001, -0.001, 96.001, 64.001]]))
    for transform in (augmentation(), augmentation(flip=1.0)):
        assert transform(Files([beyond]), 1, 0, 0).boxes.tolist() == [[0, 0, 96, 64]]


def test_the_name_is_that_of_the_first_image(files: Files) -> None:
    assert augmentation(mosaic=1.0, mixup=1.0)(files, 6, 0, 3).name == "3.png"
