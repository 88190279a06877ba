"""How far the detections of an exported detector are from those of the detector itself."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from fcos.inference import detect
from fcos.onnx_detector import OnnxDetector
from fcos.onnx_files import SUFFIX
from fcos.ops.boxes import aligned_iou
from fcos.postprocess import Detections, Postprocess
from pipeline.data.annotations import AnnotationSet
from pipeline.data.detections import Detection
from pipeline.errors import PipelineError, count_noun
from pipeline.evaluation import coco
from pipeline.export import torch_program
from pipeline.inference.detect import to_records
from pipeline.inference.saved_detector import SavedDetector

# float32: other orders of summation change the last digits; int8 is compared, not judged.
MAX_SCORE_DIFFERENCE = 1e-4
MIN_IOU = 0.999
MAX_SHIFT = 0.01  # pixels: of a thin box, whose IoU rounding lowers
MAX_AP_DIFFERENCE = 0.0005
_MATCH_IOU = 0.5

DetectImage = Callable[[Tensor], Detections]


@dataclass(frozen=True)
class Parity:
    """The comparison of N images."""

    images: int
    detections: int  # of the detector itself
    unmatched: int  # detections of either that have no counterpart of their class
    score_difference: float  # the largest one of two matched detections
    iou: float  # the smallest one of two matched boxes
    moved: int  # further pairs: boxes of one class that overlap, but with a larger shift than rounding causes
    ap: tuple[float, float] | None = None  # of the detector itself and of the exported one; None: no annotations

    @property
    def holds(self) -> bool:
        """Whether the two differ by rounding only."""
        # Rounding can choose another one of two equally good boxes, or of the last ones that max_detections admits.
        others = self.unmatched + self.moved
        few = others <= 0.01 * self.detections or (others == 1 and not self.moved)
        is_close = self.score_difference <= MAX_SCORE_DIFFERENCE
        is_as_good = self.ap is None or abs(self.ap[0] - self.ap[1]) <= MAX_AP_DIFFERENCE
        return self.detections > 0 and few and is_close and is_as_good

    def describe(self) -> str:
        """A line for people."""
        moved = f", {self.moved} with another box" if self.moved else ""
        ap = ""
        if self.ap:
            ap = f", AP at score threshold 0: {self.ap[1]:.4f}, the detector's {self.ap[0]:.4f}"
        return (
            f"{count_noun(self.images, 'image')}, {count_noun(self.detections, 'detection')}: {self.unmatched} without "
            f"counterpart{moved}, scores differ by at most {self.score_difference:.1g}, IoU at least {self.iou:.5f}{ap}"
        )


def compare_file(
    path: Path,
    model: SavedDetector,
    images: Iterable[Tensor],
    postprocess: Postprocess,
    split: AnnotationSet | None = None,
) -> Parity:
    """Compares the detector in an ONNX file or a program of torch with the detector that it was made from.

    Args:
        images: uint8 [3, H, W] as stored.
        split: the annotations of these images, in their order, for AP.
    """
    input_size = model.description.input_size

    def ours(image: Tensor) -> Detections:
        return detect(model.network, [image], input_size, postprocess)[0]

    return compare(images, ours, _detector_in(path, model, postprocess), split)


def _detector_in(path: Path, model: SavedDetector, postprocess: Postprocess) -> DetectImage:
    description = model.description
    if path.suffix != SUFFIX:
        return partial(
            torch_program.detect,
            torch_program.load(path),
            config=description.model,
            input_size=description.input_size,
            postprocess=postprocess,
        )
    exported = OnnxDetector(path, torch.device("cpu"))
    return lambda image: exported.detect([image], description.input_size, postprocess)[0]


def check_file(
    path: Path,
    model: SavedDetector,
    images: Iterable[Tensor],
    postprocess: Postprocess,
    split: AnnotationSet | None = None,
) -> Parity:
    """Makes sure that a detector and its file differ by rounding only, whatever the score threshold.

    Args:
        images, split: as for `compare_file`.

    Raises:
        PipelineError: they differ by more, or there is no detection to compare.
    """
    # A good detector may find nothing above the threshold, in generated images above all.
    parity = compare_file(path, model, images, replace(postprocess, score_threshold=0.0), split)
    if not parity.detections:
        raise PipelineError(
            "the detector finds nothing at any score, so that the exported one can't be compared with it: nothing is "
            "written; --no-check writes it all the same"
        )
    if not parity.holds:
        raise PipelineError(
            f"the exported detector differs from the detector by more than rounding ({parity.describe()}): nothing is "
            "written; --no-check writes it all the same"
        )
    return parity


def compare(
    images: Iterable[Tensor], expected: DetectImage, exported: DetectImage, split: AnnotationSet | None = None
) -> Parity:
    """Compares the detections in each image, uint8 [3, H, W], of which a split has the annotations."""
    number, total, unmatched, moved, difference, lowest = 0, 0, 0, 0, 0.0, 1.0
    records: tuple[list[Detection], list[Detection]] = [], []
    for image in images:
        ours, theirs = expected(image), exported(image)
        pairs, ious = match(ours, theirs)
        total += len(ours)
        unmatched += len(ours) + len(theirs) - 2 * len(pairs)
        for (first, second), iou in zip(pairs, ious, strict=True):
            if iou < MIN_IOU and float((ours.boxes[first] - theirs.boxes[second]).abs().max()) > MAX_SHIFT:
                moved += 1
                continue
            difference = max(difference, abs(float(ours.scores[first]) - float(theirs.scores[second])))
            lowest = min(lowest, iou)
        if split:
            for found, detections in zip(records, (ours, theirs), strict=True):
                found += to_records(split.images[number], detections, split)
        number += 1
    ap = _average_precisions(split, *records) if split else None
    return Parity(number, total, unmatched, difference, lowest, moved, ap)


def _average_precisions(split: AnnotationSet, *records: list[Detection]) -> tuple[float, float] | None:
    """AP of both; None if the split has no objects."""
    first, second = (coco.fast_ap(split, found)["AP"] for found in records)
    return None if first is None or second is None else (first, second)


def match(ours: Detections, theirs: Detections) -> tuple[list[tuple[int, int]], list[float]]:
    """Pairs of detections of one class, the highest IoU first, each in one pair; and their IoU."""
    iou, _ = aligned_iou(ours.boxes.double()[:, None], theirs.boxes.double())
    iou = iou * (ours.labels[:, None] == theirs.labels)
    pairs: list[tuple[int, int]] = []
    ious: list[float] = []
    while iou.numel() and (best := float(iou.max())) >= _MATCH_IOU:
        first, second = divmod(int(iou.argmax()), len(theirs))
        pairs.append((first, second))
        ious.append(best)
        iou[first], iou[:, second] = 0, 0
    return pairs, ious
