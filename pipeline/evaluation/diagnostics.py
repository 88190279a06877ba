"""Where AP is lost, and how far scores can be trusted: TIDE's kinds of errors and calibration, by hotcoco."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import hotcoco
import numpy as np

from pipeline.data.annotations import AnnotationSet
from pipeline.data.detections import Detection
from pipeline.evaluation import coco

# hotcoco's names and ours, in the order of the paper.
_TIDE = {
    "Cls": "wrong_class",
    "Loc": "poor_box",
    "Both": "wrong_class_and_poor_box",
    "Dupe": "duplicate",
    "Bkg": "background",
    "Miss": "missed",
}


def diagnose(
    truth: AnnotationSet, detections: Sequence[Detection], evaluation: hotcoco.COCOeval | None = None
) -> dict[str, Any]:
    """Computes the cost of each kind of error and the calibration error, at an IoU of 0.5.

    - `errors`: for each kind, `count`, and `AP50_cost`: how much AP50 would rise if errors of this kind were corrected
      (TIDE, Bolya et al., 2008.08115). Costs don't add up to 1 − AP50, since each is computed as if the others stayed.
      None without objects.
    - `calibration_error`: the expected calibration error (Guo et al., 1706.04599): the mean difference between the
      scores of detections and the share of them that is correct, in ten bins of scores. None without detections, or
      if a score is not between 0 and 1.
    - `objects_beyond_limit`: objects that no detector can find by COCO's rule, which counts 100 detections of a class
      in an image; and the `highest_possible_AP` with them.

    Args:
        evaluation: hotcoco's, after `evaluate()`; by default, it is computed.
    """
    evaluation = evaluation or coco.fast_evaluation(truth, detections)
    is_calibrated = bool(detections) and all(0 <= detection.score <= 1 for detection in detections)
    has_objects = any(not (item.iscrowd or item.difficult) for item in truth.annotations)
    tide = evaluation.tide_errors()
    return {
        "errors": {
            ours: {
                "AP50_cost": tide["delta_ap"][theirs] if has_objects else None,
                "count": tide["counts"][theirs],
            }
            for theirs, ours in _TIDE.items()
        },
        "calibration_error": evaluation.calibration()["ece"] if is_calibrated else None,
        "objects_beyond_limit": count_objects_beyond_limit(truth),
        "highest_possible_AP": highest_possible_ap(truth),
    }


def highest_possible_ap(truth: AnnotationSet, limit: int = coco.MAX_DETECTIONS) -> float | None:
    """The AP of a detector that finds everything, if `limit` detections of a class in an image count.

    With 150 objects in an image, it is 0.663: at a precision of 1, a recall of 2/3 reaches 67 of COCO's 101 recalls.
    """
    counted, objects = Counter[int](), Counter[int]()
    for (_, category), count in _objects_of_class_in_image(truth).items():
        counted[category] += min(count, limit)
        objects[category] += count
    recalls = [counted[category] / objects[category] for category in objects]
    reached = np.searchsorted(np.linspace(0, 1, 101), recalls, side="right")
    return float(np.mean(reached / 101)) if recalls else None


def count_objects_beyond_limit(truth: AnnotationSet, limit: int = coco.MAX_DETECTIONS) -> int:
    """Number of objects beyond `limit` in the same image and of the same class."""
    return sum(max(0, count - limit) for count in _objects_of_class_in_image(truth).values())


def count_objects_beyond_max_detections(truth: AnnotationSet, max_detections: int) -> int:
    """Number of objects, of all classes together, beyond the most detections that a detector keeps in an image."""
    images = Counter[int]()
    for (image, _), count in _objects_of_class_in_image(truth).items():
        images[image] += count
    return sum(max(0, count - max_detections) for count in images.values())


def _objects_of_class_in_image(truth: AnnotationSet) -> Counter[tuple[int, int]]:
    return Counter(
        (item.image_id, item.category_id) for item in truth.annotations if not (item.iscrowd or item.difficult)
    )
