"""Mosaics of painted images, compared with values worked out by hand."""

from random import Random

import torch

from pipeline.loading.transforms import FILL
from pipeline.loading.transforms.mosaic import mosaic
from tests.support.painted_scenes import painted_box, scene


def test_boxes_and_colors_of_a_mosaic() -> None:
    """Three images fill their quadrants; the last one, at half its size, does not."""
    sizes = [(20, 50), (20, 30), (40, 50), (20, 30)]
    images = [scene(h, w, [[0, 0, w, h]], first=label) for label, (h, w) in enumerate(sizes)]
    combined = mosaic(list(zip(images, [1.0, 1.0, 1.0, 0.5], strict=True)), (60, 80), (20, 50), Random(0))
    assert combined.image.shape == (3, 60, 80)
    assert combined.labels.tolist() == [0, 1, 2, 3]
    expected = [[0, 0, 50, 20], [50, 0, 80, 20], [0, 20, 50, 60], [50, 20, 65, 30]]
    assert combined.boxes.tolist() == expected
    assert [painted_box(combined.image, label) for label in range(4)] == expected
    assert (combined.image[:, 30:, 65:] == torch.tensor(FILL).view(3, 1, 1)).all()


def test_a_large_image_is_cut_at_random_positions() -> None:
    """Each image of 60×80 pixels is cut to its quadrant, such as 20×50; the position of the cut is random."""
    parts = [(scene(60, 80, [[30, 20, 45, 35]], first=label), 1.0) for label in range(4)]
    boxes = set()
    for seed in range(30):
        combined = mosaic(parts, (60, 80), (20, 50), Random(seed))
        for label, box in zip(combined.labels.tolist(), combined.boxes.tolist(), strict=True):
            assert painted_box(combined.image, label) == box
            boxes.add((label, *box))
    assert {label for label, *_ in boxes} == {0, 1, 2, 3}
    assert len(boxes) > 30
