"""Detections of several views of an image, merged to those of the image."""

from collections.abc import Sequence

import pytest
import torch

from fcos.postprocess import Detections
from pipeline.inference.merging import MERGES, by_score, merge_by_nms, merge_by_wbf

Box = tuple[float, float, float, float]


def detections(*found: tuple[Box, float, int]) -> Detections:
    boxes, scores, labels = zip(*found, strict=True) if found else ((), (), ())
    return Detections(torch.tensor(boxes).view(-1, 4), torch.tensor(scores), torch.tensor(labels, dtype=torch.int64))


def as_tuples(image: Detections) -> list[tuple[Box, float, int]]:
    return list(zip(map(tuple, image.boxes.tolist()), image.scores.tolist(), image.labels.tolist(), strict=True))


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    intersection = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return intersection / (sum(areas) - intersection)


def fused_box(cluster: list[tuple[Box, float]]) -> list[float]:
    total = sum(score for _, score in cluster)
    return [sum(score * box[side] for box, score in cluster) / total for side in range(4)]


def slow_wbf(views: Sequence[Detections], threshold: float) -> list[tuple[list[float], float, int]]:
    """The steps of section 3 of the paper, one after another, for one image."""
    pooled = sorted((item for view in views for item in as_tuples(view)), key=lambda item: -item[1])  # 1
    fused = []
    for label in {label for _, _, label in pooled}:
        clusters: list[list[tuple[Box, float]]] = []  # 2: L; the list F is computed from it
        for box, score, its_label in pooled:
            if its_label != label:
                continue
            overlaps = [iou(box, fused_box(cluster)) for cluster in clusters]  # 3
            if overlaps and max(overlaps) > threshold:
                clusters[overlaps.index(max(overlaps))].append((box, score))  # 5
            else:
                clusters.append([(box, score)])  # 4
        for cluster in clusters:
            mean = sum(score for _, score in cluster) / len(cluster)  # equation 1
            fused.append((fused_box(cluster), mean * min(len(cluster), len(views)) / len(views), label))  # equation 5
    return sorted(fused, key=lambda item: -item[1])


def random_views(views: int, objects: int, classes: int, seed: int) -> list[Detections]:
    """The same objects in each view, with other sides and scores, a few of them missing."""
    generator = torch.Generator().manual_seed(seed)
    corner, sides = (torch.rand(objects, 2, generator=generator) * scale for scale in (80, 40))
    boxes = torch.cat([corner, corner + sides + 5], dim=1)
    labels = torch.randint(classes, (objects,), generator=generator)
    found = []
    for _ in range(views):
        kept = torch.rand(objects, generator=generator) < 0.8
        moved = boxes[kept] + torch.randn(int(kept.sum()), 4, generator=generator)
        scores = torch.rand(len(moved), generator=generator)
        found.append(by_score(Detections(moved, scores, labels[kept])))
    return found


@pytest.mark.parametrize(("objects", "classes"), [(25, 1), (40, 5), (3, 80)])
def test_wbf_is_that_of_the_paper(objects: int, classes: int) -> None:
    images = [random_views(3, objects, classes, seed) for seed in range(3)]
    images.insert(1, [detections()] * 3)
    merged = merge_by_wbf(list(zip(*images, strict=True)), 0.55, 1000)
    assert len(merged) == 4
    for views, image in zip(images, merged, strict=True):
        expected = slow_wbf(views, 0.55)
        assert len(expected) < sum(map(len, views)) or not expected  # something was fused
        assert image.labels.tolist() == [label for _, _, label in expected]
        assert image.scores.tolist() == pytest.approx([score for _, score, _ in expected])
        boxes = [value for box, _, _ in expected for value in box]
        assert image.boxes.flatten().tolist() == pytest.approx(boxes, abs=1e-4)


def test_wbf_by_hand() -> None:
    first = detections(((0, 0, 10, 10), 0.9, 1), ((50, 50, 60, 60), 0.5, 0))
    second = detections(((0, 0, 10, 12), 0.3, 1), ((50, 50, 60, 60), 0.1, 1))
    (image,) = merge_by_wbf([[first], [second]], 0.55, 100)
    # Height (0.9 · 10 + 0.3 · 12) / 1.2; the two boxes that only one view found have half their score.
    expected = [((0, 0, 10, 10.5), 0.6, 1), ((50, 50, 60, 60), 0.25, 0), ((50, 50, 60, 60), 0.05, 1)]
    assert [label for _, _, label in as_tuples(image)] == [label for _, _, label in expected]
    for (box, score, _), (expected_box, expected_score, _) in zip(as_tuples(image), expected, strict=True):
        assert (*box, score) == pytest.approx((*expected_box, expected_score))


def test_nms_keeps_the_best_box_of_each_object() -> None:
    first = detections(((0, 0, 10, 10), 0.5, 1), ((50, 50, 60, 60), 0.4, 0))
    second = detections(((0, 0, 10, 11), 0.9, 1), ((0, 0, 10, 10), 0.8, 0), ((50, 50, 60, 75), 0.3, 0))
    (image,) = merge_by_nms([[first], [second]], 0.55, 100)
    assert [score for _, score, _ in as_tuples(image)] == pytest.approx([0.9, 0.8, 0.4, 0.3])  # the last: IoU 0.4


@pytest.mark.parametrize("merge", MERGES)
def test_the_number_of_detections_is_limited_to_the_best(merge: str) -> None:
    views = random_views(2, 30, 2, 0)
    every, best = (MERGES[merge]([[view] for view in views], 0.55, limit)[0] for limit in (1000, 7))
    assert len(every) > 7
    assert as_tuples(best) == as_tuples(every)[:7]


@pytest.mark.parametrize("merge", MERGES)
def test_no_detections(merge: str) -> None:
    merged = MERGES[merge]([[detections(), detections()], [detections(), detections()]], 0.55, 100)
    assert [len(image) for image in merged] == [0, 0]
