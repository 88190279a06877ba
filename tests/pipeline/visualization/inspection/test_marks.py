"""Marked boxes: what matters is bright and labeled, labels stay readable, small objects are enlarged."""

from itertools import combinations

import numpy as np
import pytest
from PIL import Image as Pillow

from pipeline.visualization.inspection.marks import (
    Mark,
    area,
    choose_view,
    crop_to,
    draw_marks,
    moved,
    overlap,
    place_labels,
    shorten,
)

RED, GREEN = (255, 0, 0), (0, 255, 0)


def near(picture: Pillow.Image, color: tuple[int, int, int]) -> int:
    """The number of pixels of about this color."""
    return int((np.abs(np.asarray(picture).astype(int) - color).max(axis=-1) < 40).sum())


def test_boxes_that_are_not_in_question_are_pale_and_have_no_label() -> None:
    black = Pillow.new("RGB", (400, 300))
    drawn = draw_marks(
        black,
        [Mark((20, 40, 180, 200), RED, "cat 0.9"), Mark((220, 40, 380, 200), GREEN, "dog", in_question=False)],
    )
    assert near(drawn, RED) > 1000
    assert near(drawn, GREEN) == 0
    assert near(drawn, (0, 153, 0)) == 2 * 160 + 2 * 158  # one pixel wide, at 60 % of the color
    assert black.getbbox() is None


@pytest.mark.parametrize("count", [3, 40, 200])
def test_labels_never_cover_each_other_and_the_first_one_is_always_there(count: int) -> None:
    rng = np.random.default_rng(count)
    corners, sides = rng.uniform(0, 440, (count, 2)), rng.uniform(3, 200, (count, 2))
    marks = [
        Mark((x, y, min(x + w, 480), min(y + h, 360)), RED, f"a long name of class {number} 0.87")
        for number, ((x, y), (w, h)) in enumerate(zip(corners.clip(max=(470, 350)), sides, strict=True))
    ]
    placed = place_labels(marks, (480, 360))
    tags = [tag for _, _, tag in placed]
    assert placed[0][0] == marks[0]
    assert len(placed) == count if count == 3 else 3 < len(placed) < count
    assert sum(map(area, tags[:-1])) <= 0.12 * 480 * 360  # labels hide little of the picture
    assert all(overlap(a, b) == 0 for a, b in combinations(tags, 2))
    assert all(0 <= x1 < x2 < 480 and 0 <= y1 < y2 < 360 for x1, y1, x2, y2 in tags)
    assert all(line.width <= tag[2] - tag[0] and line.text.endswith(" 0.87") for _, line, tag in placed)


def test_a_label_does_not_hide_a_small_box() -> None:
    """The usual place is above the box, where another small box is: it goes below."""
    box, other = (100.0, 100.0, 140.0, 140.0), (100.0, 80.0, 130.0, 98.0)
    ((_, _, alone),) = place_labels([Mark(box, RED, "cat")], (480, 480))
    assert alone[3] == 100
    ((_, _, beside),) = place_labels([Mark(box, RED, "cat"), Mark(other, RED)], (480, 480))
    assert overlap(beside, other) == overlap(beside, box) == 0


def test_a_long_name_keeps_its_beginning_and_end() -> None:
    assert [shorten("abcdefghij", length) for length in (10, 9, 4, 1)] == ["abcdefghij", "abcd…ghij", "ab…j", "…"]


def test_small_boxes_are_shown_with_their_surroundings() -> None:
    whole = (0, 0, 1200, 800)
    assert choose_view((1200, 800), (0, 0, 100, 20)) == whole  # a twelfth of the longer side
    assert choose_view((1200, 800), (600, 400, 650, 420)) == (375, 160, 875, 660)  # ten times 50, around the middle
    assert choose_view((1200, 800), (1190, 790, 1200, 800)) == (1100, 700, 1200, 800)
    assert choose_view((1200, 800), (5, 5, 6, 6)) == (0, 0, 96, 96)
    assert choose_view((90, 40), (5, 5, 6, 6)) == (0, 0, 90, 40)
    assert choose_view((3000, 200), (1000, 50, 1040, 60)) == (820, 0, 1220, 200)


def test_a_view_is_cut_out_and_its_boxes_move_with_it() -> None:
    image = Pillow.new("RGB", (400, 300))
    image.paste(RED, (200, 100, 240, 120))
    picture, scale = crop_to(image, (150, 50, 350, 150), 480)
    assert (picture.size, scale) == ((480, 240), 2.4)
    box = moved((200, 100, 240, 120), (150, 50, 350, 150), scale)
    assert box == pytest.approx((120, 120, 216, 168))
    reds = np.argwhere((np.abs(np.asarray(picture).astype(int) - RED).max(axis=-1)) < 60)
    assert tuple(reds.min(axis=0)) == pytest.approx((120, 120), abs=1)
    assert tuple(reds.max(axis=0)) == pytest.approx((167, 215), abs=1)
