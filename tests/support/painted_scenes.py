"""Painted images: each object is a rectangle of a distinct color on black, so tests can locate it by its color."""

import torch
from hypothesis import strategies as st

from pipeline.loading.transforms import Sample

# A mixture of two of these colors, or of one with black or FILL, is unlike any third one.
COLORS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255), (0, 255, 255), (255, 255, 255))
Boxes = list[list[int]]
sides = st.integers(48, 140)
seeds = st.integers(0, 2**32 - 1)


def scene(height: int, width: int, boxes: Boxes, first: int = 0, name: str = "scene") -> Sample:
    """An image with an object per box; labels and colors are numbered from `first` on."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    labels = torch.arange(first, first + len(boxes))
    for label, (x1, y1, x2, y2) in zip(labels.tolist(), boxes, strict=True):
        image[:, y1:y2, x1:x2] = torch.tensor(COLORS[label], dtype=torch.uint8).view(3, 1, 1)
    return Sample(image, torch.tensor(boxes, dtype=torch.float32).view(-1, 4), labels, name)


def painted_box(image: torch.Tensor, label: int) -> list[int]:
    """x1, y1, x2, y2 of the bounding box, in whole pixels, of the pixels with a label's color."""
    difference = (image.int() - torch.tensor(COLORS[label]).view(3, 1, 1)).abs().amax(dim=0)
    rows, columns = torch.nonzero(difference < 70, as_tuple=True)
    assert len(rows), f"no pixel of object {label}"
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]


def samples_equal(a: Sample, b: Sample) -> bool:
    return all(torch.equal(x, y) for x, y in ((a.image, b.image), (a.boxes, b.boxes), (a.labels, b.labels)))


@st.composite
def scenes(draw: st.DrawFn, first: int = 0, objects: int = 2, name: str = "scene") -> Sample:
    """Random scenes whose objects are side by side with gaps between them."""
    height, width = draw(sides), draw(sides)
    slot = width // objects
    boxes = []
    for position in range(objects):
        x1 = draw(st.integers(position * slot, (position + 1) * slot - 16))
        x2 = draw(st.integers(x1 + 10, (position + 1) * slot - 4))
        y1 = draw(st.integers(0, height - 12))
        boxes.append([x1, y1, x2, draw(st.integers(y1 + 10, height))])
    return scene(height, width, boxes, first, name)
