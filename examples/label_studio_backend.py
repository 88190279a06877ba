"""Pre-annotates tasks of Label Studio with a trained detector: see README.md in this folder."""

import functools
import os
from typing import Any

import PIL.Image
from label_studio_ml.model import LabelStudioMLBase
from PIL.ImageOps import exif_transpose

import fcos


@functools.cache
def load_detector() -> fcos.Predictor:
    return fcos.load(os.environ["FCOS_WEIGHTS"])


class Backend(LabelStudioMLBase):
    """An ML backend for labeling configurations with an Image and RectangleLabels."""

    def predict(self, tasks: list[dict[str, Any]], *_: Any, **__: Any) -> list[dict[str, Any]]:
        """The detections in the image of each task, for the classes that the labeling configuration has."""
        controls = [item for item in self.parsed_label_config.items() if item[1]["type"] == "RectangleLabels"]
        if not controls:
            raise ValueError("the labeling configuration has no RectangleLabels")
        name, control = controls[0]
        (target,), key = control["to_name"], control["inputs"][0]["value"]
        tags = {"from_name": name, "to_name": target, "type": "rectanglelabels"}
        return [self._predict_task(task["data"][key], tags, set(control["labels"])) for task in tasks]

    def _predict_task(self, url: str, tags: dict[str, str], labels: set[str]) -> dict[str, Any]:
        with PIL.Image.open(self.get_local_path(url)) as image:
            found = load_detector().predict(exif_transpose(image))  # Label Studio shows images upright
        detections = zip(found.boxes.tolist(), found.names, found.scores.tolist(), strict=True)
        size = {"original_width": found.width, "original_height": found.height, "image_rotation": 0}
        regions = [
            {
                **tags,
                **size,
                "score": score,
                "value": to_percent(box, found.width, found.height) | {tags["type"]: [name]},
            }
            for box, name, score in detections
            if name in labels
        ]
        return {"result": regions, "score": max((region["score"] for region in regions), default=0.0)}


def to_percent(box: list[float], width: int, height: int) -> dict[str, Any]:
    """x1, y1, x2, y2 in pixels as Label Studio's rectangle, in percent of the image."""
    x1, y1, x2, y2 = box
    return {
        "x": 100 * x1 / width,
        "y": 100 * y1 / height,
        "width": 100 * (x2 - x1) / width,
        "height": 100 * (y2 - y1) / height,
        "rotation": 0,
    }
