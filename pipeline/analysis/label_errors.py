"""Candidates for label errors: where a detector that hasn't seen an image disagrees with its labels.

Detections must be of images that the detector was not trained on: it repeats the errors that it has learned. The idea
of judging labels by such detections is that of ObjectLab (Tkachenko et al., arXiv:2309.00832). The ranks are our own.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.data.annotations import Annotation, AnnotationSet, Image
from pipeline.data.detections import Detection
from pipeline.evaluation.error_kinds import MIN_RELATED_IOU, iou_matrix

Kind = Literal["missing", "spurious", "wrong_class", "poor_box"]
KINDS: tuple[Kind, ...] = ("missing", "spurious", "wrong_class", "poor_box")

SAME_OBJECT_IOU = 0.5  # of a detection and a label, or of two detections, that show the same object
DIFFERENT_OBJECT_IOU = 0.3  # below it, they show different objects
MIN_RANK = 0.05  # of a candidate
NUM_SIMILAR = 101  # labels of a class of similar size that a label is compared with

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A label that is probably wrong, or an object that probably has none, and what the detector proposes."""

    kind: Kind
    rank_score: float  # 0 to 1
    image_id: int
    file_name: str
    split: str
    annotation_id: int | None  # None if the label is missing
    bbox: Box | None  # proposed: x, y, width, height in pixels; None if the box stays
    category: str | None  # proposed; None if the class stays

    def to_json(self) -> dict[str, Any]:
        return {
            "image_id": self.image_id,
            "file_name": self.file_name,
            "kind": self.kind,
            "rank_score": round(self.rank_score, 6),
            "annotation_id": self.annotation_id,
            "bbox": self.bbox and [round(value, 2) for value in self.bbox],
            "category": self.category,
            "split": self.split,
        }


def find(truth: Mapping[str, AnnotationSet], detections: Mapping[str, Sequence[Detection]]) -> list[Candidate]:
    """The candidates in all splits, best first; at most one for each label.

    With s the score of a detection, and IoU that of its box with the label's:

    missing      s of a detection that shows no labelled object
    wrong_class  a · (1 − b): a and b are the highest s · IoU of detections of another class and of the label's class
    poor_box     s · (1 − IoU) of the detection of its class with the highest s · IoU
    spurious     c − s, s of the best detection of any class, c the mean of s over labels of the same class and of
                 similar size: objects that the detector seldom finds say little about their labels

    Crowds and difficult objects are no candidates, and an object in a crowd is not missing.

    Args:
        truth: the labels of each split, by its name.
        detections: in the images of each split.
    """
    evidence = [
        _Evidence(split, annotations, image, labels[image.id], found[image.id])
        for split, annotations in truth.items()
        for labels, found in [(annotations.by_image(), _by_image(detections[split]))]
        for image in annotations.images
    ]
    usual_scores = _usual_scores(evidence)
    candidates = [item for image in evidence for item in image.candidates(usual_scores)]
    return sorted((item for item in candidates if item.rank_score >= MIN_RANK), key=lambda item: -item.rank_score)


def first_of_each_kind(candidates: Sequence[Candidate], count: int) -> list[Candidate]:
    """At most `count` candidates of each kind, in the same order."""
    numbers = Counter[Kind]()
    kept = []
    for candidate in candidates:
        numbers[candidate.kind] += 1
        if numbers[candidate.kind] <= count:
            kept.append(candidate)
    return kept


def _by_image(detections: Iterable[Detection]) -> dict[int, list[Detection]]:
    """The detections of each image, highest score first."""
    groups: dict[int, list[Detection]] = defaultdict(list)
    for detection in sorted(detections, key=lambda detection: -detection.score):
        groups[detection.image_id].append(detection)
    return groups


class _Evidence:
    """The labels of an image beside the detections in it."""

    def __init__(
        self,
        split: str,
        truth: AnnotationSet,
        image: Image,
        annotations: Sequence[Annotation],
        detections: Sequence[Detection],
    ) -> None:
        self.split, self.image, self.detections = split, image, detections
        self.class_names = {category.id: category.name for category in truth.categories}
        ious = iou_matrix(detections, annotations)
        counted = [not (item.iscrowd or item.difficult) for item in annotations]
        self.unlabelled: Bools = ious.max(axis=1, initial=0.0) < DIFFERENT_OBJECT_IOU  # [N]
        self.labels = [item for item, count in zip(annotations, counted, strict=True) if count]
        self.ious: Floats = ious[:, np.array(counted, dtype=bool)]  # [N, M], of detections and labels
        self.scores = np.array([detection.score for detection in detections], dtype=np.float64)[:, None]  # [N, 1]
        classes = np.array([detection.category_id for detection in detections], dtype=np.int64)
        self.same_class: Bools = classes[:, None] == np.array(
            [item.category_id for item in self.labels], dtype=np.int64
        )

    def best_scores(self) -> Floats:
        """The highest score of a detection of each label's object, of any class [M]; 0 without one."""
        return _highest(self.scores * (self.ious >= DIFFERENT_OBJECT_IOU))

    def candidates(self, usual_scores: Mapping[tuple[str, int], float]) -> Iterator[Candidate]:
        """At most one candidate for each label, and those for objects without a label."""
        yield from self._missing()
        best_scores = self.best_scores()
        for index, label in enumerate(self.labels):
            usual = usual_scores[self.split, label.id]
            spurious = self._candidate("spurious", max(0.0, usual - float(best_scores[index])), label)
            found = (spurious, self._wrong_class(index), self._poor_box(index))
            yield max(filter(None, found), key=lambda candidate: candidate.rank_score)

    def _missing(self) -> Iterator[Candidate]:
        found = [item for item, is_free in zip(self.detections, self.unlabelled, strict=True) if is_free]
        boxes = [Annotation(0, self.image.id, item.category_id, item.bbox, 0.0) for item in found]
        ious, kept = iou_matrix(found, boxes), list[int]()
        for index, detection in enumerate(found):
            if not (ious[index, kept] >= SAME_OBJECT_IOU).any():  # else an object that has been proposed
                kept.append(index)
                name = self.class_names[detection.category_id]
                yield self._candidate("missing", detection.score, bbox=detection.bbox, category=name)

    def _wrong_class(self, index: int) -> Candidate | None:
        """Detections of another class are on the label, and those of its class are less certain."""
        ious, same = self.ious[:, index], self.same_class[:, index]
        support = self.scores[:, 0] * ious * (ious >= SAME_OBJECT_IOU)
        if not (support * ~same).any():
            return None
        best = int(np.argmax(support * ~same))
        rank = float(support[best]) * (1 - float(_highest((support * same)[:, None])[0]))
        name = self.class_names[self.detections[best].category_id]
        return self._candidate("wrong_class", rank, self.labels[index], category=name)

    def _poor_box(self, index: int) -> Candidate | None:
        """The detection of the label's object has another box."""
        ious, same = self.ious[:, index], self.same_class[:, index]
        support = self.scores[:, 0] * ious * (same & (ious >= MIN_RELATED_IOU))
        if not support.any():
            return None
        best = int(np.argmax(support))
        detection = self.detections[best]
        rank = detection.score * (1 - float(ious[best]))
        return self._candidate("poor_box", rank, self.labels[index], bbox=detection.bbox)

    def _candidate(
        self,
        kind: Kind,
        rank_score: float,
        label: Annotation | None = None,
        bbox: Box | None = None,
        category: str | None = None,
    ) -> Candidate:
        image = self.image
        identity = label.id if label else None
        return Candidate(kind, rank_score, image.id, image.file_name, self.split, identity, bbox, category)


def _highest(values: Floats) -> Floats:
    """The highest value of each column; 0 for a column without values."""
    highest: Floats = values.max(axis=0, initial=0.0)
    return highest


def _usual_scores(evidence: Sequence[_Evidence]) -> dict[tuple[str, int], float]:
    """For each label, by split and id: the mean of the best scores of labels of its class of similar size."""
    groups: dict[str, list[tuple[tuple[str, int], float, float]]] = defaultdict(list)
    for image in evidence:
        for label, score in zip(image.labels, image.best_scores().tolist(), strict=True):
            size = label.bbox[2] * label.bbox[3]
            groups[image.class_names[label.category_id]].append(((image.split, label.id), size, score))
    usual: dict[tuple[str, int], float] = {}
    for group in groups.values():
        keys, sizes, scores = zip(*group, strict=True)
        usual |= zip(keys, _local_means(np.array(sizes), np.array(scores)).tolist(), strict=True)
    return usual


def _local_means(positions: Floats, values: Floats) -> Floats:
    """The mean of the NUM_SIMILAR values at the nearest positions, in their order; of all, if there are fewer."""
    window = min(NUM_SIMILAR, len(values))
    order = np.argsort(positions, kind="stable")
    sums = np.concatenate([[0.0], np.cumsum(values[order])])
    first = np.clip(np.arange(len(values)) - window // 2, 0, len(values) - window)
    means = np.empty(len(values))
    means[order] = (sums[first + window] - sums[first]) / window
    return means
