"""AP by the size of objects as the network sees them: in pixels of the resized image."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import hotcoco
import numpy as np

from fcos.config import InputSize
from pipeline.data.annotations import Annotation, AnnotationSet, Image
from pipeline.data.detections import Detection
from pipeline.evaluation import coco
from pipeline.evaluation.columns import Columns
from pipeline.evaluation.matches import Floats

# A size is the square root of width times height. Bins double, as the strides of a feature pyramid do.
BOUNDS = (0, 8, 16, 32, 64, 128, 256, 512, math.inf)
_LARGEST = 1e18  # of an area
NAMES = tuple(f"{low}-{high}" if high < math.inf else f"{low}+" for low, high in pairwise(BOUNDS))


@dataclass(frozen=True, eq=False)
class SizedEvaluation:
    """hotcoco's evaluation after matching detections to objects, of all sizes ("all") and of each bin."""

    evaluation: hotcoco.COCOeval
    objects: Sequence[int]  # of each bin

    def summarize(self) -> dict[str, dict[str, Any]]:
        """The number of objects, AP and AP50 for each bin of sizes; AP is None where no object has such a size.

        As in COCO's AP of small objects, a detection of no object counts as wrong in the bin of its own size only.
        """
        self.evaluation.accumulate()
        # IoU threshold, recall, class, size and limit of detections; −1 without objects.
        precision = np.asarray((self.evaluation.eval or {})["precision"])
        return {
            name: {
                "objects": count,
                "AP": coco.mean_precision(precision[:, :, :, index, -1]),
                "AP50": coco.mean_precision(precision[0, :, :, index, -1]),
            }
            for index, (name, count) in enumerate(zip(NAMES, self.objects, strict=True), start=1)
        }


def evaluate(
    truth: AnnotationSet, detections: Sequence[Detection], input_size: InputSize | None = None
) -> SizedEvaluation:
    """Matches detections to objects.

    Args:
        input_size: the rule by which images are resized; None: sizes are in pixels of the stored images.
    """
    scales = {image.id: _scale(image, input_size) for image in truth.images}
    sizes = _sizes(truth.annotations, scales)
    objects, results = coco.truth_dict(truth), coco.results_dict(truth, detections)
    _set_areas(objects["annotations"], sizes)
    _set_areas(results["annotations"], _sizes(detections, scales))
    evaluation = hotcoco.COCOeval(hotcoco.COCO(objects), hotcoco.COCO(results), "bbox")
    evaluation.params.area_rng = [[0, _LARGEST], *_half_open_ranges(BOUNDS)]
    evaluation.params.area_rng_lbl = ["all", *NAMES]
    evaluation.params.max_dets = [coco.MAX_DETECTIONS]
    evaluation.evaluate()
    counted = np.array([not (item.iscrowd or item.difficult) for item in truth.annotations], dtype=bool)
    return SizedEvaluation(evaluation, np.histogram(sizes[counted], BOUNDS)[0].tolist())


def _scale(image: Image, input_size: InputSize | None) -> float:
    """The factor by which an image is resized; 1 for an image whose size its annotations don't state."""
    return input_size.scale(image.height, image.width) if input_size and image.height and image.width else 1.0


def _sizes(records: Sequence[Annotation] | Sequence[Detection], scales: Mapping[int, float]) -> Floats:
    """The square roots of the areas of boxes in the resized images."""
    columns = Columns.of(records)
    scale = np.array([scales[image] for image in columns.image_ids.tolist()])
    sizes: Floats = np.sqrt(columns.boxes[:, 2] * columns.boxes[:, 3]) * scale
    return sizes


def _set_areas(records: Sequence[dict[str, Any]], sizes: Floats) -> None:
    for record, area in zip(records, (sizes**2).tolist(), strict=True):
        record["area"] = area


def _half_open_ranges(bounds: Iterable[float]) -> Iterable[list[float]]:
    """Ranges of areas. Both ends of COCO's ranges belong to them, so an object at a bound would count twice."""
    for low, high in pairwise(bounds):
        yield [float(low**2), float(np.nextafter(high**2, 0)) if high < math.inf else _LARGEST]
