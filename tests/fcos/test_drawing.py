"""Places of labels; colors are tested where they are drawn."""

import pytest

from fcos.drawing import Box, label_position

IMAGE = (200, 100)
LABEL = (30.0, 10.0)


@pytest.mark.parametrize(
    ("box", "place"),
    [
        ((50, 40, 120, 80), (50, 30)),  # above
        ((50, 5, 120, 80), (50, 5)),  # no room above: inside
        ((190, 40, 199, 80), (170, 30)),  # moved to the left, into the image
        ((0, 95, 20, 99), (0, 85)),
    ],
)
def test_a_single_label(box: Box, place: tuple[float, float]) -> None:
    assert label_position(box, LABEL, IMAGE) == place


def test_labels_of_one_box_lie_apart_until_all_places_are_taken() -> None:
    box: Box = (50, 40, 120, 80)
    taken: list[Box] = []
    for place in ((50, 30), (50, 40), (50, 80), (50, 70), (90, 30), (90, 40), (90, 80), (90, 70), (50, 30)):
        assert label_position(box, LABEL, IMAGE, taken) == place
        taken.append((*place, place[0] + LABEL[0], place[1] + LABEL[1]))


def test_a_label_larger_than_the_image_starts_at_its_corner() -> None:
    assert label_position((5, 5, 10, 10), (300, 120), IMAGE) == (0, 0)
