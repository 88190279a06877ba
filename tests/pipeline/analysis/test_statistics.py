"""Statistics of the health page against numbers computed by hand."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.analysis import statistics
from pipeline.analysis.advice_context import make_context
from pipeline.analysis.advice_on_data import unlearnable_objects
from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image
from pipeline.params import Params
from tests.support.parameters import paper_defaults


@pytest.fixture(scope="module")
def values() -> Params:
    """Strides 8, 16 and 32; distances up to 64 px, up to 128 px and more."""
    values = paper_defaults()
    return replace(
        values,
        train=replace(values.train, size=(512, 512), letterbox=False),
        machine=replace(values.machine, device="cpu"),
    )


def split(*boxes: tuple[float, float, float, float], images: int = 1) -> AnnotationSet:
    """Images of 256×256 pixels; all boxes are in the first one."""
    return AnnotationSet(
        categories=(Category(1, "cat"),),
        images=tuple(Image(number, f"{number}.png", 256, 256) for number in range(1, images + 1)),
        annotations=tuple(Annotation(number, 1, 1, box, box[2] * box[3]) for number, box in enumerate(boxes, start=1)),
    )


def filled_bins(histogram: statistics.Histogram) -> list[tuple[str, int]]:
    return [(item.name, item.count) for item in histogram.bins if item.count]


def test_box_sizes_have_bins_of_half_octaves() -> None:
    sides = np.array([[16.0, 16.0], [32.0, 8.0], [22.0, 22.0], [23.0, 23.0], [1.0, 1.0], [5000.0, 5000.0]])
    histogram = statistics.box_size_histogram(sides)
    assert filled_bins(histogram) == [
        ("under 3 px", 1), ("16 to 23 px", 3), ("23 to 32 px", 1), ("over 1448 px", 1),
    ]  # fmt: skip
    assert histogram.total == 6
    assert histogram.largest == 3
    assert histogram.note.startswith("median 19 px; ")


def test_squares_are_in_the_middle_of_a_bin() -> None:
    sides = np.array([[10.0, 10.0], [10.0, 11.0], [11.0, 10.0], [10.0, 20.0], [20.0, 10.0], [10.0, 19.0]])
    histogram = statistics.aspect_ratio_histogram(sides)
    expected = [("1:2", 1), ("", 0), ("1:1", 3), ("", 0), ("2:1", 2)]
    assert [(item.tick, item.count) for item in histogram.bins] == expected
    assert histogram.note == "33% are wider than high, 17% are higher than wide"


def test_objects_per_image_exclude_crowds() -> None:
    crowd = replace(split((0, 0, 9, 9)).annotations[0], id=9, iscrowd=1)
    many = split(*[(0, 0, 9, 9)] * 7, images=3)
    with_crowd = replace(many, annotations=(*many.annotations, crowd))
    histogram = statistics.objects_per_image_histogram(with_crowd, include_difficult=False)
    assert filled_bins(histogram) == [("0 objects", 2), ("6 to 7 objects", 1)]
    assert histogram.note == "2.3 on average, 7 at most; 2 images have none"


def test_the_most_common_image_sizes_come_first() -> None:
    sizes = np.array([(height, 100) for height in range(1, 11)] + [(480, 640)] * 3, dtype=np.float64)
    bars = statistics.image_size_bars(sizes)
    assert (bars[0].name, bars[0].count, bars[0].share) == ("640×480", 3, 3 / 13)
    assert (bars[-1].name, bars[-1].count) == ("3 others", 3)
    assert sum(bar.count for bar in bars) == 13


def test_levels_at_twice_the_size(values: Params) -> None:
    """At 512 px, 20 px become 40 (P3) and 200 px become 400 (P5); a box of one pixel contains no location."""
    data = split((100, 100, 20, 20), (20, 20, 200, 200), (0.1, 0.1, 1, 1))
    context = make_context(values, data, data, steps=1)
    assert [(bar.name, bar.count, bar.total) for bar in statistics.level_bars(context)] == [
        ("P3", 1, 3), ("P4", 0, 3), ("P5", 1, 3), ("none", 1, 3),
    ]  # fmt: skip
    assert statistics.level_bars(context)[1].detail == "stride 16; distances up to 128 px"
    assert (unlearnable_objects(context) or "").startswith("33.3% of the objects have no location")


def test_an_assigner_that_needs_predictions_has_no_levels(values: Params) -> None:
    changed = replace(values, model=replace(values.model, assigner="task_aligned"))
    data = split((100, 100, 20, 20))
    assert statistics.level_bars(make_context(changed, data, data, steps=1)) == []
