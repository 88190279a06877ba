"""Painted images: each object is a rectangle of its own colour on black, so where a box goes, its colour must go."""

from dataclasses import replace
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fcos.input_size import InputSize
from pipeline.augment import Augmentation, Sample, flip, generator, resize
from pipeline.augment.colours import jitter
from pipeline.augment.geometry import affine, aside, corners_of, crop_with_object, warp, zoom_in
from pipeline.augment.mixup import mixup, weight_of
from pipeline.augment.mosaic import mosaic
from pipeline.augment.randomness import Luck
from pipeline.augment.samples import FILL, crop
from pipeline.params import AugmentParams

# No mixture of two of them, or of one with black or with FILL, is like a third.
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255), (0, 255, 255), (255, 255, 255))
OFF = AugmentParams(
    flip=0.0,
    scale=(1.0, 1.0),
    jitter=0.0,
    jitter_strength=(0.4, 0.4, 0.4, 0.1),
    affine=0.0,
    degrees=10.0,
    shear=5.0,
    translate=0.1,
    perspective=0.0,
    distortion=0.3,
    crop=0.0,
    crop_least=0.3,
    mosaic=0.0,
    mixup=0.0,
    plain_epochs=0,
)
OPTIONS = ("flip", "jitter", "affine", "perspective", "crop", "mosaic", "mixup")
Boxes = list[list[int]]


def scene(height: int, width: int, boxes: Boxes, first: int = 0, name: str = "scene") -> Sample:
    """Objects are labelled, and coloured, from `first` on."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    labels = torch.arange(first, first + len(boxes))
    for label, (x1, y1, x2, y2) in zip(labels.tolist(), boxes, strict=True):
        image[:, y1:y2, x1:x2] = torch.tensor(COLOURS[label], dtype=torch.uint8).view(3, 1, 1)
    return Sample(image, torch.tensor(boxes, dtype=torch.float32).view(-1, 4), labels, name)


def painted(image: torch.Tensor, label: int) -> list[int]:
    """The box around the pixels of a label's colour, in whole pixels."""
    unlike = (image.int() - torch.tensor(COLOURS[label]).view(3, 1, 1)).abs().amax(dim=0)
    rows, columns = torch.nonzero(unlike < 70, as_tuple=True)
    assert len(rows), f"no pixel of object {label}"
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]


def same(a: Sample, b: Sample) -> bool:
    return all(torch.equal(x, y) for x, y in ((a.image, b.image), (a.boxes, b.boxes), (a.labels, b.labels)))


# The primitives, by hand


def test_resize_by_hand() -> None:
    found = resize(scene(100, 200, [[20, 10, 60, 90]]), 0.5)
    assert found.image.shape == (3, 50, 100)
    assert found.boxes.tolist() == [[10, 5, 30, 45]]


def test_boxes_follow_the_rounded_sides() -> None:
    found = resize(scene(101, 33, [[0, 0, 33, 101]]), 0.3)
    assert found.image.shape == (3, 30, 10)
    torch.testing.assert_close(found.boxes, torch.tensor([[0.0, 0.0, 10.0, 30.0]]))


def test_a_cut_out_is_resized_as_if_it_were_a_whole_image() -> None:
    whole = torch.randint(0, 256, (40, 60, 3), dtype=torch.uint8, generator=generator(0)).permute(2, 0, 1)
    cut = crop(Sample(whole, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), ""), 3, 5, 30, 50)
    alone = replace(cut, image=cut.image.contiguous())
    assert torch.equal(resize(cut, 1.7).image, resize(alone, 1.7).image)


def test_flip_moves_boxes_with_the_pixels_and_back() -> None:
    original = scene(40, 61, [[3, 5, 20, 30], [50, 1, 61, 9]])
    mirrored = flip(original)
    assert mirrored.boxes.tolist() == [painted(mirrored.image, 0), painted(mirrored.image, 1)]
    assert mirrored.boxes[0].tolist() == [41, 5, 58, 30]
    assert same(flip(mirrored), original)


@pytest.mark.parametrize(
    ("box", "kept"),
    [
        ([10, 10, 40, 30], [[2, 2, 30, 22]]),  # cut at the right
        ([0, 10, 12, 30], [[0, 2, 4, 22]]),  # a third is seen
        ([0, 10, 10, 30], []),  # a fifth is seen
        ([37, 10, 39, 20], [[29, 2, 30, 12]]),  # half of it, a pixel wide
        ([50, 50, 60, 60], []),
    ],
)
def test_what_is_seen_stays_and_the_rest_goes(box: list[int], kept: Boxes) -> None:
    found = crop(scene(60, 60, [box]), top=8, left=8, height=30, width=30)
    assert found.image.shape == (3, 30, 30)
    assert found.boxes.tolist() == kept
    assert len(found.labels) == len(kept)
    if kept:
        assert found.boxes.tolist() == [painted(found.image, 0)]


def test_an_object_under_a_pixel_stays_while_it_is_whole() -> None:
    tiny = replace(scene(60, 60, [[10, 10, 40, 40]]), boxes=torch.tensor([[20.3, 20.0, 20.7, 30.0]]))
    torch.testing.assert_close(crop(tiny, 8, 8, 40, 40).boxes, torch.tensor([[12.3, 12.0, 12.7, 22.0]]))
    assert not len(crop(replace(tiny, boxes=torch.tensor([[47.3, 20.0, 49.3, 30.0]])), 8, 8, 40, 40).boxes)


def test_a_quarter_turn_by_hand() -> None:
    original = scene(40, 40, [[4, 6, 20, 30], [25, 1, 39, 11]])
    turned = warp(original, corners_of((40, 40)).roll(-1, dims=0))
    # Pillow cuts off what isn't whole instead of rounding it.
    torch.testing.assert_close(turned.image, original.image.rot90(-1, dims=(1, 2)), atol=1, rtol=0)
    expected = torch.tensor([[10.0, 4.0, 34.0, 20.0], [29.0, 25.0, 39.0, 39.0]])
    torch.testing.assert_close(turned.boxes, expected, atol=1e-3, rtol=0)


def test_what_comes_into_view_is_filled() -> None:
    moved = warp(scene(30, 40, [[0, 0, 30, 30]]), corners_of((30, 40)) + torch.tensor([20.0, 0.0]))
    assert (moved.image[:, :, :20] == torch.tensor(FILL).view(3, 1, 1)).all()
    torch.testing.assert_close(moved.boxes, torch.tensor([[20.0, 0.0, 40.0, 30.0]]), atol=1e-3, rtol=0)


@pytest.mark.parametrize(("left", "kept"), [(14.0, [[0, 5, 6, 15]]), (16.0, [])])
def test_what_is_moved_out_of_view_goes(left: float, kept: Boxes) -> None:
    """Of a width of 20, 6 or 4 stay."""
    moved = warp(scene(20, 40, [[0, 5, 20, 15]]), corners_of((20, 40)) - torch.tensor([left, 0.0]))
    torch.testing.assert_close(moved.boxes, torch.tensor(kept).view(-1, 4).float(), atol=1e-3, rtol=0)


def test_affine_by_hand() -> None:
    corners = corners_of((30, 40))
    still = affine(corners, size=(30, 40), degrees=0, shear=0, translate=0, random=Random(0))
    torch.testing.assert_close(still, corners)
    # Lengths stay under a turn, and so does the area under a shear.
    turned = affine(corners, size=(30, 40), degrees=90, shear=0, translate=0, random=Random(0))
    torch.testing.assert_close(torch.linalg.vector_norm(turned[1] - turned[0]), torch.tensor(40.0))
    torch.testing.assert_close(turned.mean(dim=0), corners.mean(dim=0))
    moved = affine(corners, size=(30, 40), degrees=0, shear=0, translate=0.5, random=Random(1)) - corners
    torch.testing.assert_close(moved, moved[:1].expand(4, 2))
    assert (moved[0].abs() <= torch.tensor([20.0, 15.0])).all()


@pytest.mark.parametrize("distortion", [0.3, 1.0])
def test_every_look_from_aside_is_one(distortion: float) -> None:
    """Corners that pass each other would turn the image inside out."""
    original = scene(60, 80, [[0, 0, 80, 60]])
    for seed in range(60):
        corners = aside(corners_of((60, 80)), distortion, Random(seed))
        moved = (corners - corners_of((60, 80))).abs() / torch.tensor([80, 60])
        assert moved.max() <= distortion / 2
        found = warp(original, corners)
        around = [*corners.amin(dim=0).tolist(), *corners.amax(dim=0).tolist()]
        torch.testing.assert_close(found.boxes, torch.tensor([around]), atol=0.05, rtol=0)
        assert painted(found.image, 0) == pytest.approx(around, abs=4)


def test_jitter_changes_what_its_strength_names() -> None:
    image = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8, generator=generator(0))
    nothing, still = jitter(image, (0.0, 0.0, 0.0, 0.0), Random(0)), torch.tensor([0.299, 0.587, 0.114])
    assert torch.equal(nothing, image)
    brighter = jitter(image // 2, (0.4, 0.0, 0.0, 0.0), Random(0)).float()
    factor = (brighter.sum() / (image // 2).sum()).item()
    assert 0.6 <= factor <= 1.4
    assert factor != pytest.approx(1, abs=0.02)
    torch.testing.assert_close(brighter, image // 2 * factor, atol=2, rtol=0)
    pale = jitter(image, (0.0, 0.0, 1.0, 0.0), Random(0))
    grey, before = (torch.einsum("chw,c->hw", each.float(), still).mean() for each in (pale, image))
    assert grey == pytest.approx(before, abs=6)
    turned = jitter(image, (0.0, 0.0, 0.0, 0.5), Random(0))
    torch.testing.assert_close(turned.amax(dim=0), image.amax(dim=0), atol=3, rtol=0)  # value, of HSV
    assert not torch.equal(turned, image)


def test_mosaic_by_hand() -> None:
    """Three images fill their quarters, the last, halved, doesn't."""
    sizes = [(20, 50), (20, 30), (40, 50), (20, 30)]
    images = [scene(h, w, [[0, 0, w, h]], first=label) for label, (h, w) in enumerate(sizes)]
    found = mosaic(list(zip(images, [1.0, 1.0, 1.0, 0.5], strict=True)), (60, 80), (20, 50), Random(0))
    assert found.image.shape == (3, 60, 80)
    assert found.labels.tolist() == [0, 1, 2, 3]
    expected = [[0, 0, 50, 20], [50, 0, 80, 20], [0, 20, 50, 60], [50, 20, 65, 30]]
    assert found.boxes.tolist() == expected
    assert [painted(found.image, label) for label in range(4)] == expected
    assert (found.image[:, 30:, 65:] == torch.tensor(FILL).view(3, 1, 1)).all()


def test_a_mosaic_shows_a_part_of_what_has_no_room() -> None:
    """Of 60×80, 20×50 and so on; which part is luck, and the object is small enough to be seen whole, cut or not."""
    parts = [(scene(60, 80, [[30, 20, 45, 35]], first=label), 1.0) for label in range(4)]
    seen = set()
    for seed in range(30):
        found = mosaic(parts, (60, 80), (20, 50), Random(seed))
        for label, box in zip(found.labels.tolist(), found.boxes.tolist(), strict=True):
            assert painted(found.image, label) == box
            seen.add((label, *box))
    assert {label for label, *_ in seen} == {0, 1, 2, 3}
    assert len(seen) > 30


def test_mixup_by_hand() -> None:
    below, above = scene(40, 80, [[10, 10, 70, 30]]), scene(80, 80, [[0, 0, 80, 80]], first=1)
    found = mixup(below, above, 0.25)  # red, with green of half the size over its left half
    assert found.boxes.tolist() == [[10, 10, 70, 30], [0, 0, 40, 40]]
    assert found.labels.tolist() == [0, 1]
    for at, colour in {(0, 0): (0, 63, 0), (20, 20): (191, 63, 0), (20, 60): (255, 0, 0), (0, 60): (0, 0, 0)}.items():
        assert found.image[:, at[0], at[1]].tolist() == pytest.approx(colour, abs=1)
    assert below.image[:, 0, 0].tolist() == [0, 0, 0], "the first image was written to"


def test_weights_leave_both_images_to_be_seen() -> None:
    weights = torch.tensor([weight_of(Random(seed)) for seed in range(400)])
    assert weights.mean() == pytest.approx(0.5, abs=0.03)
    assert weights.min() > 0.1
    assert weights.max() < 0.9


sides = st.integers(48, 140)


@st.composite
def scenes(draw: st.DrawFn, first: int = 0, objects: int = 2, name: str = "scene") -> Sample:
    """Objects stand side by side with a gap."""
    height, width = draw(sides), draw(sides)
    share = width // objects
    boxes = []
    for place in range(objects):
        x1 = draw(st.integers(place * share, (place + 1) * share - 16))
        x2 = draw(st.integers(x1 + 10, (place + 1) * share - 4))
        y1 = draw(st.integers(0, height - 12))
        boxes.append([x1, y1, x2, draw(st.integers(y1 + 10, height))])
    return scene(height, width, boxes, first, name)


seeds = st.integers(0, 2**32 - 1)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(scenes(), st.floats(0.05, 1), seeds)
def test_a_crop_keeps_an_object_whole(sample: Sample, least: float, seed: int) -> None:
    found = crop_with_object(sample, least, Random(seed))
    sizes = {int(label): (box[2:] - box[:2]).tolist() for label, box in zip(sample.labels, sample.boxes, strict=True)}
    after = zip(found.labels.tolist(), found.boxes, strict=True)
    assert any((box[2:] - box[:2]).tolist() == sizes[label] for label, box in after)
    assert all(part >= least * side - 1e-3 for part, side in zip(found.size, sample.size, strict=True))
    assert all(painted(found.image, int(i)) == box for i, box in zip(found.labels, found.boxes.tolist(), strict=True))


def test_a_crop_of_an_image_without_objects() -> None:
    for seed in range(20):
        found = crop_with_object(scene(50, 70, []), 0.3, Random(seed))
        assert 15 <= found.size[0] <= 50
        assert 21 <= found.size[1] <= 70


@settings(max_examples=30, deadline=None, derandomize=True)
@given(scenes(), st.floats(1, 4), seeds)
def test_a_zoom_shows_a_part_of_that_size(sample: Sample, zoom: float, seed: int) -> None:
    found = zoom_in(sample, zoom, Random(seed))
    assert found.size == tuple(round(side / zoom) for side in sample.size)
    assert all(painted(found.image, int(i)) == box for i, box in zip(found.labels, found.boxes.tolist(), strict=True))


# All together


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
    """Four images whose seven objects are all of different colours."""
    objects = (2, 1, 2, 2)
    firsts = (0, 2, 3, 5)
    return [draw(scenes(first, count, f"{first}.png")) for first, count in zip(firsts, objects, strict=True)]


INPUTS = st.sampled_from([InputSize((64, 96)), InputSize((80, 80)), InputSize((72, 100), letterbox=True)])


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    collections(),
    INPUTS,
    st.fixed_dictionaries(
        {name: st.sampled_from([0.0, 0.5, 1.0]) for name in OPTIONS if name not in ("jitter", "mixup")}
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
        lit = torch.tensor(COLOURS[label]) > 0
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
    how = augmentation(epochs=5, plain_epochs=plain, **{option: 1.0})
    changed = [not same(how(files, 6, epoch, 0), files.samples[0]) for epoch in range(5)]
    assert changed == [epoch < 5 - plain for epoch in range(5)]


def test_plain_epochs_leave_the_rest_on(files: Files) -> None:
    how = augmentation(epochs=5, plain_epochs=5, flip=1.0)
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
        assert torch.equal(augmentation(**few, jitter=1.0)(files, 6, 0, index).boxes, plain.boxes)


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


def test_the_same_key_gives_the_same_numbers_and_another_key_others() -> None:
    assert torch.equal(torch.rand(4, generator=generator(0, 1, "a")), torch.rand(4, generator=generator(0, 1, "a")))
    assert not torch.equal(torch.rand(4, generator=generator(0, 1, "a")), torch.rand(4, generator=generator(0, 2, "a")))
    luck = Luck((0, 1, "a"))
    assert luck.of("flip").random() == luck.of("flip").random()
    different = {luck.of("flip").random(), luck.of("crop").random(), luck.within("mosaic", 1).of("flip").random()}
    assert len(different) == 3
    assert luck.drawn("flip", 0.0) is None
    assert luck.drawn("flip", 1.0) is not None
