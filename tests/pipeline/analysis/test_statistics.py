"""Numbers of the page against ones worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline import params
from pipeline.analysis import advice, statistics
from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image
from pipeline.params import Params
from tests.support.paths import PROJECT


@pytest.fixture(scope="module")
def usual() -> Params:
    """Stride 8, 16 and 32; distances up to 64, 128 and beyond."""
    values = params.load(PROJECT / "params.yaml")
    return replace(
        values,
        train=replace(values.train, size=(512, 512), letterbox=False),
        machine=replace(values.machine, device="cpu"),
    )


def split(*boxes: tuple[float, float, float, float], images: int = 1) -> AnnotationSet:
    """Images of 256×256, all boxes in the first."""
    return AnnotationSet(
        categories=(Category(1, "cat"),),
        images=tuple(Image(number, f"{number}.png", 256, 256) for number in range(1, images + 1)),
        annotations=tuple(Annotation(number, 1, 1, box, box[2] * box[3]) for number, box in enumerate(boxes, start=1)),
    )


def counted(histogram: statistics.Histogram) -> list[tuple[str, int]]:
    return [(one.name, one.count) for one in histogram.bins]


def test_box_sizes_are_in_half_octaves() -> None:
    sides = np.array([[16.0, 16.0], [32.0, 8.0], [22.0, 22.0], [23.0, 23.0], [1.0, 1.0], [5000.0, 5000.0]])
    histogram = statistics.box_sizes(sides)
    assert [pair for pair in counted(histogram) if pair[1]] == [
        ("under 3 px", 1), ("16 to 23 px", 3), ("23 to 32 px", 1), ("over 1448 px", 1),
    ]  # fmt: skip
    assert histogram.total == 6
    assert histogram.most == 3
    assert histogram.note.startswith("median 19 px; ")


def test_aspect_ratios_have_squares_in_the_middle_of_a_bin() -> None:
    sides = np.array([[10.0, 10.0], [10.0, 11.0], [11.0, 10.0], [10.0, 20.0], [20.0, 10.0], [10.0, 19.0]])
    histogram = statistics.aspect_ratios(sides)
    assert [(one.tick, one.count) for one in histogram.bins] == [("1:2", 1), ("", 0), ("1:1", 3), ("", 0), ("2:1", 2)]
    assert histogram.note == "33% are wider than high, 17% higher than wide"


def test_objects_per_image_count_what_is_learned() -> None:
    crowd = replace(split((0, 0, 9, 9)).annotations[0], id=9, iscrowd=1)
    many = split(*[(0, 0, 9, 9)] * 7, images=3)
    histogram = statistics.objects_per_image(replace(many, annotations=(*many.annotations, crowd)), difficult=False)
    assert [pair for pair in counted(histogram) if pair[1]] == [("0 objects", 2), ("6 to 7 objects", 1)]
    assert histogram.note == "2.3 on average, 7 at most; 2 images have none"


def test_image_sizes_are_the_commonest() -> None:
    shapes = np.array([(height, 100) for height in range(1, 11)] + [(480, 640)] * 3, dtype=np.float64)
    rows = statistics.image_sizes(shapes)
    assert (rows[0].name, rows[0].count, rows[0].share) == ("640×480", 3, 3 / 13)
    assert (rows[-1].name, rows[-1].count) == ("3 others", 3)
    assert sum(row.count for row in rows) == 13


def test_levels_at_twice_the_size(usual: Params) -> None:
    """At 512 px a box of 20 is 40, for P3; one of 200 is 400, for P5; one of a pixel holds no location."""
    data = split((100, 100, 20, 20), (20, 20, 200, 200), (0.1, 0.1, 1, 1))
    now = advice.look(usual, data, data, steps=1)
    assert [(row.name, row.count, row.of) for row in statistics.levels(now)] == [
        ("P3", 1, 3), ("P4", 0, 3), ("P5", 1, 3), ("none", 1, 3),
    ]  # fmt: skip
    assert statistics.levels(now)[1].detail == "stride 16; distances up to 128 px"
    assert any(line.startswith("no location learns 33.3% of the objects") for line in statistics.told(now))


def test_an_assigner_that_needs_a_detector_has_no_levels(usual: Params) -> None:
    values = replace(usual, model=replace(usual.model, assigner="task_aligned"))
    data = split((100, 100, 20, 20))
    assert statistics.levels(advice.look(values, data, data, steps=1)) == []
