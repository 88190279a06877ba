"""All that happens to an image on its way to a batch: what is wanted, as often as it is, boxes on their pixels."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fcos.config import InputSize
from pipeline.loading.transforms import Augmentation, Sample, flip, resize
from pipeline.params import AugmentParams
from tests.support.painted_scenes import COLORS, painted, same, scene, scenes, seeds, sides

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
    """Images, and a count of how often one was read."""

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
    """Four images whose seven objects are all of different colors."""
    objects = (2, 1, 2, 2)
    firsts = (0, 2, 3, 5)
    return [draw(scenes(first, count, f"{first}.png")) for first, count in zip(firsts, objects, strict=True)]


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
    found = augmentation(size, seed=seed, scale=scale, **options)(Files(samples), 4, 0, 0)
    height, width = found.size
    warped = bool(options["affine"] or options["perspective"])
    own = set(samples[0].labels.tolist())
    assert set(found.labels.tolist()) <= (set(range(7)) if options["mosaic"] else own)
    assert len(set(found.labels.tolist())) == len(found.labels) == len(found.boxes), "an object was invented"
    for label, box in zip(found.labels.tolist(), found.boxes.tolist(), strict=True):
        x1, y1, x2, y2 = box
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height
        if min(x2 - x1, y2 - y1) < 12:
            continue  # too few pixels that aren't mixed with others
        left, top, right, bottom = painted(found.image, label)
        assert left >= x1 - 4
        assert top >= y1 - 4
        assert right <= x2 + 4
        assert bottom <= y2 + 4
        # The hull of a turned object that is cut at the image's edge may be larger than what is seen of it.
        if not warped or (x1 > 0 and y1 > 0 and x2 < width and y2 < height):
            assert [left, top, right, bottom] == pytest.approx(box, abs=8 if warped else 4)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(collections(), INPUTS, seeds)
def test_mixup_has_the_objects_of_both(samples: list[Sample], size: InputSize, seed: int) -> None:
    found = augmentation(size, seed=seed, mixup=1.0)(Files(samples), 4, 0, 0)
    labels = set(found.labels.tolist())
    others = [set(sample.labels.tolist()) for sample in samples[1:]]
    assert labels - set(samples[0].labels.tolist()) in others
    assert set(samples[0].labels.tolist()) <= labels
    assert found.size == resize(samples[0], size.scale(*samples[0].size)).size
    for label, (x1, y1, x2, y2) in zip(found.labels.tolist(), found.boxes.tolist(), strict=True):
        if min(x2 - x1, y2 - y1) < 6:
            continue  # no pixel that isn't mixed with others
        inside = found.image[:, round(y1) + 1 : round(y2) - 1, round(x1) + 1 : round(x2) - 1].float()
        lit = torch.tensor(COLORS[label]) > 0
        assert inside[lit].min() > 20, f"object {label} isn't seen all over its box"


@pytest.fixture
def files() -> Files:
    boxes = [[10, 8, 40, 38], [60, 20, 90, 60]]
    return Files([scene(64, 96, boxes[: 2 - i % 2], first=2 * (i % 3), name=f"{i}.png") for i in range(6)])


def test_nothing_wanted_is_nothing_done(files: Files) -> None:
    found = augmentation()(files, 6, 0, 0)
    assert same(found, files.samples[0])
    assert found.image is files.samples[0].image, "it was copied"
    assert files.reads == 1


@pytest.mark.parametrize("option", OPTIONS)
def test_what_is_certain_always_happens(files: Files, option: str) -> None:
    how = augmentation(**{option: 1.0})
    changed = [not same(how(files, 6, epoch, index), files.samples[index]) for epoch in range(4) for index in range(6)]
    # A crop may be to the whole image.
    assert sum(changed) >= 20 if option == "crop" else all(changed)


@pytest.mark.parametrize("option", OPTIONS)
def test_half_of_the_luck_is_half_of_the_images(files: Files, option: str) -> None:
    how = augmentation(epochs=40, **{option: 0.5})
    changed = sum(
        not same(how(files, 6, epoch, index), files.samples[index]) for epoch in range(30) for index in (0, 1)
    )
    assert 18 <= changed <= 42  # of 60; the standard deviation is 4


def test_images_are_read_only_where_they_are_wanted(files: Files) -> None:
    for options, reads in (({"mosaic": 1.0}, 4), ({"mixup": 1.0}, 2), ({"mosaic": 1.0, "mixup": 1.0}, 5)):
        files.reads = 0
        augmentation(**options)(files, 6, 0, 0)
        assert files.reads == reads


@pytest.mark.parametrize("plain", [0, 1, 3, 9])
@pytest.mark.parametrize("option", ["mosaic", "mixup"])
def test_the_last_epochs_are_plain(files: Files, option: str, plain: int) -> None:
    how = augmentation(epochs=5, close_mosaic_epochs=plain, **{option: 1.0})
    changed = [not same(how(files, 6, epoch, 0), files.samples[0]) for epoch in range(5)]
    assert changed == [epoch < 5 - plain for epoch in range(5)]


def test_plain_epochs_leave_the_rest_on(files: Files) -> None:
    how = augmentation(epochs=5, close_mosaic_epochs=5, flip=1.0)
    assert same(how(files, 6, 4, 0), flip(files.samples[0]))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(sides, sides, st.integers(20, 90), st.integers(0, 40), seeds)
def test_multi_scale_stays_in_its_range(height: int, width: int, low: int, more: int, seed: int) -> None:
    how = augmentation(InputSize((64, 96)), seed=seed, multi_scale=(low, low + more))
    shorter, longer = sorted(how(Files([scene(height, width, [])]), 1, 0, 0).size)
    assert longer <= 96
    assert low <= shorter <= low + more or longer == 96
    assert shorter <= low + more


def test_multi_scale_uses_its_whole_range(files: Files) -> None:
    how = augmentation(InputSize((64, 96)), epochs=99, multi_scale=(30, 33))
    assert {how(files, 6, epoch, 0).size[0] for epoch in range(40)} == {30, 31, 32, 33}


def test_luck_is_of_seed_epoch_and_image_alone(files: Files) -> None:
    how = augmentation(scale=(0.7, 1.4), **dict.fromkeys(OPTIONS, 0.7))
    again = augmentation(scale=(0.7, 1.4), **dict.fromkeys(OPTIONS, 0.7))
    torch.manual_seed(99)
    samples = [how(files, 6, 2, index) for index in range(6)]
    assert all(same(again(files, 6, 2, index), samples[index]) for index in reversed(range(6)))
    assert not any(same(how(files, 6, 3, index), samples[index]) for index in range(6))
    other = augmentation(scale=(0.7, 1.4), seed=1, **dict.fromkeys(OPTIONS, 0.7))
    assert not any(same(other(files, 6, 2, index), samples[index]) for index in range(6))


def test_one_option_does_not_change_the_luck_of_another(files: Files) -> None:
    few = {"scale": (0.7, 1.4), "affine": 0.5, "mosaic": 0.5}
    for index in range(6):
        plain = augmentation(**few)(files, 6, 0, index)
        assert same(augmentation(**few, flip=1.0)(files, 6, 0, index), flip(plain))
        assert torch.equal(augmentation(**few, color_jitter=1.0)(files, 6, 0, index).boxes, plain.boxes)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_images_are_enough(files: Files, count: int) -> None:
    for index in range(count):
        found = augmentation(**dict.fromkeys(OPTIONS, 1.0))(files, count, 0, index)
        assert max(found.size) <= 96


def test_images_of_one_pixel_pass(files: Files) -> None:
    thin = [scene(1, 90, []), scene(90, 1, []), scene(1, 1, []), files.samples[0]]
    for index in range(4):
        found = augmentation(scale=(0.5, 2.0), **dict.fromkeys(OPTIONS, 1.0))(Files(thin), 4, 0, index)
        assert found.image.dtype == torch.uint8
        assert min(found.size) >= 1


def test_no_box_is_over_the_edge() -> None:
    """Annotations may be, by a thousandth of a pixel."""
    over = replace(scene(64, 96, [[0, 0, 96, 64]]), boxes=torch.tensor([[-0.001, -0.001, 96.001, 64.001]]))
    for how in (augmentation(), augmentation(flip=1.0)):
        assert how(Files([over]), 1, 0, 0).boxes.tolist() == [[0, 0, 96, 64]]


def test_the_name_stays(files: Files) -> None:
    assert augmentation(mosaic=1.0, mixup=1.0)(files, 6, 0, 3).name == "3.png"
