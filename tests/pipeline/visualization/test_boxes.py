"""Drawing, checked by pixels."""

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image as Pillow

from pipeline.visualization.boxes import Box, class_color, contrasting_color, draw_boxes
from pipeline.visualization.fonts import load_font

RED = (255, 0, 0)


def colored(image: Pillow.Image, color: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    ys, xs = np.nonzero((np.asarray(image) == color).all(axis=-1))
    return xs, ys


def test_a_box_without_a_label_is_only_an_outline() -> None:
    image = draw_boxes(Pillow.new("RGB", (600, 500)), [(100, 50, 300, 200)], [""], [RED])
    xs, ys = colored(image, RED)
    assert (xs.min(), xs.max(), ys.min(), ys.max()) == (100, 299, 50, 199)
    assert image.getpixel((200, 120)) == (0, 0, 0)


def test_the_given_image_is_not_changed() -> None:
    image = Pillow.new("RGB", (600, 500))
    draw_boxes(image, [(100, 50, 300, 200)], ["cat"], [RED], [0.9])
    assert image.getbbox() is None


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK"])
def test_any_mode_becomes_rgb(mode: str) -> None:
    assert draw_boxes(Pillow.new(mode, (50, 40)), [], [], []).mode == "RGB"


def test_a_small_image_is_enlarged_with_its_box() -> None:
    image = draw_boxes(Pillow.new("RGB", (48, 24)), [(12, 6, 24, 18)], [""], [RED])
    assert image.size == (480, 240)
    xs, ys = colored(image, RED)
    assert (xs.min(), xs.max(), ys.min(), ys.max()) == (120, 239, 60, 179)


@pytest.mark.parametrize("size", [(28, 28), (640, 480), (4000, 300), (500, 3000)])
@pytest.mark.parametrize("corner", [(0.0, 0.0), (0.9, 0.0), (0.0, 0.9), (0.9, 0.9)])
def test_a_label_stays_completely_inside_the_image(size: tuple[int, int], corner: tuple[float, float]) -> None:
    width, height = size
    box: Box = (corner[0] * width, corner[1] * height, (corner[0] + 0.1) * width, (corner[1] + 0.1) * height)
    color = (255, 255, 0)
    bare = draw_boxes(Pillow.new("RGB", size), [box], [""], [color])
    image = draw_boxes(Pillow.new("RGB", size), [box], ["raccoon"], [color])
    changed = np.nonzero((np.asarray(bare) != np.asarray(image)).any(axis=-1))
    xs, ys = colored(image, color)
    text = load_font(max(12, max(image.size) / 36)).getbbox("raccoon")
    assert len(changed[0]) > 0
    assert xs.max() - xs.min() >= min(text[2] - text[0], image.width) - 1
    assert ys.max() - ys.min() >= text[3] - text[1] - 1


@pytest.mark.parametrize("box", [(-50, -50, 900, 900), (700, 700, 800, 800), (10, 10, 10, 10), (5, 5, 5.2, 5.3)])
def test_boxes_outside_or_without_size_raise_no_error(box: Box) -> None:
    assert draw_boxes(Pillow.new("RGB", (600, 500)), [box], ["x"], [RED], [0.5]).size == (600, 500)


def test_size_and_text_of_a_video_frame() -> None:
    def height_of_tag(side: int, text_size: float) -> int:
        black = Pillow.new("RGB", (side, side))
        drawn = draw_boxes(black, [(0, 300, side, 301)], ["A"], [(0, 0, 255)], enlarge=False, text_size=text_size)
        assert drawn.size == black.size
        return int((np.asarray(drawn)[:299, 2, 2] == 255).sum())

    assert height_of_tag(1000, 0.04) == pytest.approx(2 * height_of_tag(1000, 0.02), abs=2)
    assert height_of_tag(400, 0.01) == height_of_tag(400, 0.03)  # at least 12 pixels


def test_the_highest_score_is_drawn_on_top() -> None:
    boxes: list[Box] = [(100, 100, 300, 300)] * 2
    image = draw_boxes(Pillow.new("RGB", (600, 500)), boxes, ["a", "a"], [RED, (0, 255, 0)], [0.9, 0.3])
    assert image.getpixel((100, 200)) == RED


def test_labels_of_equal_boxes_lie_apart() -> None:
    boxes: list[Box] = [(100, 100, 300, 300)] * 2
    image = draw_boxes(Pillow.new("RGB", (600, 500)), boxes, ["a", "b"], [RED, (0, 255, 0)], [0.3, 0.9])
    best, other = colored(image, (0, 255, 0))[1], colored(image, RED)[1]
    assert (best.min() < 98, other.min()) == (True, 101)  # above the box, and below its upper edge


def test_lists_of_unequal_length_are_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        draw_boxes(Pillow.new("RGB", (60, 50)), [(0, 0, 5, 5)], [], [RED])


def test_class_colors_are_stable_and_distinct() -> None:
    colors = [class_color(label) for label in range(80)]
    assert colors == [class_color(label) for label in range(80)]
    assert len(set(colors)) == 80
    steps = [sum(abs(a - b) for a, b in zip(*pair, strict=True)) for pair in pairwise(colors)]
    assert min(steps) > 90


def test_contrasting_color() -> None:
    assert contrasting_color((255, 255, 0)) == (0, 0, 0)
    assert contrasting_color((0, 0, 128)) == (255, 255, 255)
