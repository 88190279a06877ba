"""Pre-annotates a task of CVAT with a trained detector: see README.md in this folder."""

from typing import Any

import cvat_sdk.auto_annotation as cvataa
import PIL.Image

import fcos


class Detector:
    """A detection function of CVAT: each class of the detector is a label with rectangles.

    Args:
        weights: file of the detector, such as models/detector.safetensors.
        device: `auto`, `cpu` or `cuda`.
    """

    def __init__(self, weights: str, device: str = "auto") -> None:
        self._detector = fcos.load(weights, device)
        labels = [cvataa.label_spec(name, label, type="rectangle") for label, name in enumerate(self._detector.names)]
        self.spec = cvataa.DetectionFunctionSpec(labels=labels)

    def detect(self, context: cvataa.DetectionFunctionContext, image: PIL.Image.Image) -> list[Any]:
        """The detections in a frame. Without --conf-threshold, the detector's own score thresholds apply."""
        result = self._detector.predict(image, score=context.conf_threshold)
        detections = zip(result.labels.tolist(), result.boxes.tolist(), result.scores.tolist(), strict=True)
        return [cvataa.rectangle(label, box, score=score) for label, box, score in detections]


create = Detector  # cvat-cli calls it with the parameters of the command line
