"""Painted images put together to one, by hand."""

from random import Random

import torch

from pipeline.loading.transforms import FILL
from pipeline.loading.transforms.mosaic import mosaic
from tests.support.painted_scenes import painted, scene


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
