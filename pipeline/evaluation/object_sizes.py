"""AP by the size of objects as the network sees them: in pixels of the resized image."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import hotcoco
import numpy as np

from fcos.config import InputSize
from pipeline.data.annotations import AnnotationSet, Image
from pipeline.data.detections import Detection
from pipeline.evaluation import coco

# A size is the square root of width times height. Bins double, as the strides of a feature pyramid do.
BOUNDS = (0, 8, 16, 32, 64, 128, 256, 512, math.inf)
NAMES = tuple(f"{low}-{high}" if high < math.inf else f"{low}+" for low, high in pairwise(BOUNDS))


def evaluate(
    truth: AnnotationSet, detections: Sequence[Detection], input_size: InputSize | None = None
) -> dict[str, dict[str, Any]]:
    """The number of objects, AP and AP50 for each bin of sizes; AP is None where no object has such a size.

    As in COCO's AP of small objects, a detection of no object counts as wrong in the bin of its own size only.

    Args:
        input_size: the rule by which images are resized; None: sizes are in pixels of the stored images.
    """
    scales = {image.id: _scale(image, input_size) for image in truth.images}
    objects, results = coco.truth_dict(truth), coco.results_dict(truth, detections)
    sizes = [_set_area(record, scales) for record in objects["annotations"] if not record["iscrowd"]]
    for record in results["annotations"]:
        _set_area(record, scales)
    counts, _ = np.histogram(sizes, BOUNDS)
    precision = _precision(objects, results)
    return {
        name: {
            "objects": int(count),
            "AP": coco.mean_precision(precision[:, :, :, index, -1]),
            "AP50": coco.mean_precision(precision[0, :, :, index, -1]),
        }
        for index, (name, count) in enumerate(zip(NAMES, counts, strict=True))
    }


def _scale(image: Image, input_size: InputSize | None) -> float:
    """The factor by which an image is resized; 1 for an image whose size its annotations don't state."""
    return input_size.scale(image.height, image.width) if input_size and image.height and image.width else 1.0


def _set_area(record: dict[str, Any], scales: Mapping[int, float]) -> float:
    """Sets the area of a record to that of its box in the resized image, and returns its square root."""
    size = math.sqrt(record["bbox"][2] * record["bbox"][3]) * scales[record["image_id"]]
    record["area"] = size**2
    return size


def _precision(objects: dict[str, Any], results: dict[str, Any]) -> Any:
    """Precision by IoU threshold, recall, class, bin and limit of detections; −1 without objects."""
    evaluation = hotcoco.COCOeval(hotcoco.COCO(objects), hotcoco.COCO(results), "bbox")
    evaluation.params.area_rng = list(_half_open_ranges(BOUNDS))
    evaluation.params.area_rng_lbl = list(NAMES)
    evaluation.evaluate()
    evaluation.accumulate()
    return np.asarray((evaluation.eval or {})["precision"])


def _half_open_ranges(bounds: Iterable[float]) -> Iterable[list[float]]:
    """Ranges of areas. Both ends of COCO's ranges belong to them, so an object at a bound would count twice."""
    for low, high in pairwise(bounds):
        yield [float(low**2), float(np.nextafter(high**2, 0)) if high < math.inf else 1e18]
