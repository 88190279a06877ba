"""Random scenes: small ones with overlapping, coinciding and ignored boxes, for hypothesis; and larger ones."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
from hypothesis import strategies as st

from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image
from pipeline.data.detections import Detection

Record = TypeVar("Record", Annotation, Detection)
CLASSES = 4  # of the larger scenes

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


def detected_objects(seed: int, images: int = 40) -> tuple[AnnotationSet, list[Detection]]:
    """Images with detections near objects, some with another class, some twice, and others anywhere."""
    rng = np.random.default_rng(seed)
    pictures = tuple(Image(number, f"{number}.jpg", 640, 640) for number in range(1, images + 1))
    objects, found = list[Annotation](), list[Detection]()
    for image in pictures:
        for _ in range(rng.poisson(4)):
            box = tuple(map(float, (*rng.uniform(0, 500, 2), *rng.uniform(10, 120, 2))))
            label = int(rng.integers(1, CLASSES + 1))
            objects.append(Annotation(len(objects) + 1, image.id, label, box, box[2] * box[3]))  # type: ignore[arg-type]
            for _ in range(rng.integers(0, 3)):
                near = np.array(box) + rng.normal(0, rng.choice([2, 12]), 4)
                near[2:] = near[2:].clip(3)
                other = label if rng.random() < 0.8 else int(rng.integers(1, CLASSES + 1))
                found.append(Detection(image.id, other, tuple(near.tolist()), float(rng.beta(4, 2))))
        for _ in range(rng.poisson(2)):
            far = tuple(map(float, (*rng.uniform(0, 500, 2), *rng.uniform(10, 120, 2))))
            found.append(Detection(image.id, int(rng.integers(1, CLASSES + 1)), far, float(rng.beta(2, 4))))  # type: ignore[arg-type]
    return AnnotationSet(tuple(Category(k, f"c{k}") for k in range(1, CLASSES + 1)), pictures, tuple(objects)), found
