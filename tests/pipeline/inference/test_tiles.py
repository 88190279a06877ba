"""Tiles of an image, and detections in them joined to those of the image."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fcos.postprocess import Detections
from pipeline.data.tiles import Tile, cut
from pipeline.inference.tiles import join

Box = tuple[float, float, float, float]
sides = st.integers(1, 300)


@given(height=sides, width=sides, size=st.integers(30, 300), overlap=st.floats(0, 0.9))
def test_tiles_cover_the_image_and_overlap_enough(height: int, width: int, size: int, overlap: float) -> None:
    whole, *tiles = cut(height, width, size, overlap)
    assert whole == Tile(0, 0, width, height)
    assert bool(tiles) == (max(height, width) > size)
    assert len(set(tiles)) == len(tiles)
    for low, high, length in (("x1", "x2", width), ("y1", "y2", height)):
        spans = sorted({(getattr(tile, low), getattr(tile, high)) for tile in tiles})
        assert {end - start for start, end in spans} <= {min(size, length)}
        if tiles:
            assert (spans[0][0], spans[-1][1]) == (0, length)
        for (_, end), (start, _) in pairwise(spans):
            assert end - start >= min(overlap * size, size - 1) - 1e-9
    across = len({tile.x1 for tile in tiles})
    assert len(tiles) == across * len({tile.y1 for tile in tiles})  # a grid


def test_as_few_tiles_as_possible() -> None:
    assert cut(100, 180, 100, 0.2) == [Tile(0, 0, 180, 100), Tile(0, 0, 100, 100), Tile(80, 0, 180, 100)]
    # 181 pixels need three tiles, spread evenly.
    assert [tile.x1 for tile in cut(100, 181, 100, 0.2)[1:]] == [0, 40, 81]


def test_the_pixels_of_a_tile() -> None:
    image = torch.arange(3 * 20 * 30, dtype=torch.uint8).view(20, 30, 3).permute(2, 0, 1)
    crop = Tile(4, 5, 14, 11).crop(image)
    assert torch.equal(crop, image[:, 5:11, 4:14])
    assert crop.movedim(0, -1).is_contiguous()  # the layout that `resized` is fast with


# An image of 180×100 pixels, and two tiles that overlap from 80 to 100.
REGIONS = cut(100, 180, 100, 0.2)


def detections(*found: tuple[Box, float, int]) -> Detections:
    boxes, scores, labels = zip(*found, strict=True) if found else ((), (), ())
    return Detections(torch.tensor(boxes).view(-1, 4), torch.tensor(scores), torch.tensor(labels, dtype=torch.int64))


def joined(whole: Detections, left: Detections, right: Detections, limit: int = 100) -> list[tuple[Box, float, int]]:
    image = join(REGIONS, [whole, left, right], 0.55, limit)
    scores = [round(score, 4) for score in image.scores.tolist()]
    return list(zip(map(tuple, image.boxes.tolist()), scores, image.labels.tolist(), strict=True))


def test_boxes_are_moved_to_their_place_in_the_image() -> None:
    assert joined(detections(), detections(((10, 10, 30, 30), 0.9, 0)), detections(((10, 20, 30, 40), 0.8, 1))) == [
        ((10, 10, 30, 30), 0.9, 0),
        ((90, 20, 110, 40), 0.8, 1),
    ]


def test_an_object_in_two_tiles_is_detected_once() -> None:
    left, right = detections(((84, 10, 96, 30), 0.7, 0)), detections(((4, 10, 16, 30), 0.9, 0))
    whole = detections(((83, 10, 96, 31), 0.2, 0))
    assert joined(whole, left, right) == [((84, 10, 96, 30), 0.9, 0)]


@pytest.mark.parametrize("label", [0, 1])
def test_a_cut_part_of_an_object_that_another_tile_has_complete(label: int) -> None:
    """The part has the higher score, and its IoU with the object is 0.5: NMS would keep the part and the object."""
    part, complete = ((85, 10, 100, 30), 0.9, 0), ((5, 10, 35, 30), 0.6, label)
    in_image = ((85, 10, 115, 30), 0.6, label)
    assert joined(detections(), detections(part), detections(complete)) == (
        [in_image] if label == 0 else [part, in_image]  # another class: another object
    )


def test_a_large_object_is_that_of_the_whole_image() -> None:
    """It is larger than a tile, and each tile has a part of it with a higher score."""
    large = ((10, 10, 175, 95), 0.5, 0)
    left, right = detections(((10, 10, 100, 95), 0.9, 0)), detections(((0, 10, 95, 95), 0.8, 0))
    assert joined(detections(large), left, right) == [large]


def test_two_parts_become_one_object_if_no_region_has_it_complete() -> None:
    left, right = detections(((50, 10, 99, 30), 0.6, 0)), detections(((0.5, 11, 70, 30), 0.8, 0))
    assert joined(detections(), left, right) == [((50, 10, 150, 30), 0.8, 0)]


@pytest.mark.parametrize(
    ("right", "reason"),
    [
        (((0, 60, 70, 80), 0.8, 0), "elsewhere along the border"),
        (((0, 10, 70, 30), 0.8, 1), "another class"),
        (((20, 10, 70, 30), 0.8, 0), "not at the border"),
    ],
)
def test_parts_of_different_objects_stay_apart(right: tuple[Box, float, int], reason: str) -> None:
    assert len(joined(detections(), detections(((50, 10, 100, 30), 0.6, 0)), detections(right))) == 2, reason


def test_a_box_at_the_border_of_the_image_is_complete() -> None:
    """A box around it in the whole image does not remove it, as that would remove a part."""
    edge, around = ((0, 0, 20, 20), 0.3, 0), ((0, 0, 60, 60), 0.9, 0)
    assert joined(detections(around), detections(edge), detections()) == [around, edge]


def test_an_object_in_the_corner_of_four_tiles() -> None:
    regions = cut(180, 180, 100, 0.2)
    corners = [
        ((60, 60, 100, 100), 0.5, 2),
        ((0, 60, 40, 100), 0.6, 2),
        ((60, 0, 100, 40), 0.7, 2),
        ((0, 0, 40, 40), 0.8, 2),
    ]
    found = join(regions, [detections(), *(detections(corner) for corner in corners)], 0.55, 100)
    assert found.boxes.tolist() == [[60, 60, 120, 120]]
    assert found.scores.tolist() == pytest.approx([0.8])
    assert found.labels.tolist() == [2]


def test_an_object_across_three_tiles_that_only_abut() -> None:
    regions = cut(50, 150, 50, 0)
    parts = [((20, 10, 50, 30), 0.5, 0), ((0, 10, 50, 30), 0.4, 0), ((0, 10, 20, 30), 0.3, 0)]
    found = join(regions, [detections(), *(detections(part) for part in parts)], 0.55, 100)
    assert found.boxes.tolist() == [[20, 10, 120, 30]]


def test_the_number_of_detections_is_limited_to_the_best() -> None:
    boxes = [((10.0 * index, 0, 10.0 * index + 8, 8), 0.1 + index / 20, 0) for index in range(8)]
    found = joined(detections(), detections(*boxes), detections(), limit=3)
    assert [score for _, score, _ in found] == [0.45, 0.4, 0.35]


def test_no_detections() -> None:
    assert joined(detections(), detections(), detections()) == []


def test_many_parts_are_compared_in_blocks() -> None:
    """300 rows of parts: each left part faces the right one in its row, and no other."""
    regions = cut(3000, 180, 3000, 0.2)
    assert len(regions) == 1
    regions = [Tile(0, 0, 180, 3000), Tile(0, 0, 100, 3000), Tile(80, 0, 180, 3000)]
    rows = [10.0 * row for row in range(300)]
    left = detections(*(((60, y, 100, y + 8), 0.5, 0) for y in rows))
    right = detections(*(((0, y, 40, y + 8), 0.6, 0) for y in rows))
    found = join(regions, [detections(), left, right], 0.55, 1000)
    assert sorted(found.boxes.tolist()) == [[60, y, 120, y + 8] for y in rows]
