"""Small random scenes with overlapping, coinciding and ignored boxes, for hypothesis."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from hypothesis import strategies as st

from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image
from pipeline.data.detections import Detection

Record = TypeVar("Record", Annotation, Detection)

# Few positions and sizes, so that boxes overlap, coincide, and have an IoU of exactly 0.5.
boxes = st.tuples(
    st.sampled_from([0.0, 10.0, 20.0, 40.0]),
    st.sampled_from([0.0, 10.0]),
    st.sampled_from([10.0, 20.0, 40.0, 120.0]),
    st.sampled_from([20.0, 40.0, 100.0]),
)
places = st.tuples(st.integers(1, 3), st.sampled_from([5, 2]))  # image, category


@st.composite
def scenes(draw: st.DrawFn) -> tuple[AnnotationSet, tuple[Detection, ...]]:
    """Three images, two classes, up to 12 objects and 30 detections, some with equal scores."""
    objects = draw(st.lists(st.tuples(places, boxes, st.sampled_from(["", "", "", "crowd", "difficult"])), max_size=12))
    annotations = tuple(
        Annotation(number, image, category, box, box[2] * box[3], int(kind == "crowd"), int(kind == "difficult"))
        for number, ((image, category), box, kind) in enumerate(objects)
    )
    images = tuple(Image(number, f"{number}.jpg", 200, 200) for number in (1, 2, 3))
    truth = AnnotationSet((Category(5, "cat"), Category(2, "dog")), images, annotations)  # ids in descending order
    found = draw(st.lists(st.tuples(places, boxes, st.integers(0, 9)), max_size=30))
    return truth, tuple(Detection(image, category, box, score / 10) for (image, category), box, score in found)


def repeat_images(
    objects: AnnotationSet, detections: Sequence[Detection], weights: Sequence[int]
) -> tuple[AnnotationSet, list[Detection]]:
    """A data set with each image as often as its weight says."""
    copies = {image.id: range(weight) for image, weight in zip(objects.images, weights, strict=True)}
    images = (replace(image, id=10 * image.id + copy) for image in objects.images for copy in copies[image.id])

    def repeat(records: Sequence[Record]) -> list[Record]:
        return [replace(item, image_id=10 * item.image_id + copy) for item in records for copy in copies[item.image_id]]

    annotations = tuple(repeat(objects.annotations))
    return replace(objects, images=tuple(images), annotations=annotations), repeat(detections)
