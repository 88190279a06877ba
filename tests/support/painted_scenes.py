"""Painted images: each object is a rectangle of its own color on black, so where a box goes, its color must go."""

import torch
from hypothesis import strategies as st

from pipeline.loading.transforms import Sample

# No mixture of two of them, or of one with black or with FILL, is like a third.
COLORS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255), (0, 255, 255), (255, 255, 255))
Boxes = list[list[int]]
sides = st.integers(48, 140)
seeds = st.integers(0, 2**32 - 1)


def scene(height: int, width: int, boxes: Boxes, first: int = 0, name: str = "scene") -> Sample:
    """Objects are labeled, and colored, from `first` on."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    labels = torch.arange(first, first + len(boxes))
    for label, (x1, y1, x2, y2) in zip(labels.tolist(), boxes, strict=True):
        image[:, y1:y2, x1:x2] = torch.tensor(COLORS[label], dtype=torch.uint8).view(3, 1, 1)
    return Sample(image, torch.tensor(boxes, dtype=torch.float32).view(-1, 4), labels, name)


def painted(image: torch.Tensor, label: int) -> list[int]:
    """The box around the pixels of a label's color, in whole pixels."""
    unlike = (image.int() - torch.tensor(COLORS[label]).view(3, 1, 1)).abs().amax(dim=0)
    rows, columns = torch.nonzero(unlike < 70, as_tuple=True)
    assert len(rows), f"no pixel of object {label}"
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]


def same(a: Sample, b: Sample) -> bool:
    return all(torch.equal(x, y) for x, y in ((a.image, b.image), (a.boxes, b.boxes), (a.labels, b.labels)))


@st.composite
def scenes(draw: st.DrawFn, first: int = 0, objects: int = 2, name: str = "scene") -> Sample:
    """Objects stand side by side with a gap."""
    height, width = draw(sides), draw(sides)
    share = width // objects
    boxes = []
    for place in range(objects):
        x1 = draw(st.integers(place * share, (place + 1) * share - 16))
        x2 = draw(st.integers(x1 + 10, (place + 1) * share - 4))
        y1 = draw(st.integers(0, height - 12))
        boxes.append([x1, y1, x2, draw(st.integers(y1 + 10, height))])
    return scene(height, width, boxes, first, name)
