"""The code of an MLflow model, which MLflow runs to load one: a detector that reads encoded images."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import BAD_REQUEST
from mlflow.pyfunc import PythonModel, PythonModelContext

# In an MLflow model, the code that is imported below lies in an archive beside this file.
if (archive := Path(__file__).with_name("code") / "code.zip").is_file():
    sys.path.insert(0, str(archive))

from fcos.postprocess import Postprocess
from pipeline.data.image_files import MAX_MEGAPIXELS, PixelLimit
from pipeline.errors import PipelineError
from pipeline.inference.device import choose_device
from pipeline.inference.recorded_views import choose_views
from pipeline.inference.saved_detector import SavedDetector
from pipeline.inference.score_thresholds import score_thresholds
from pipeline.prediction.detector import ConfiguredDetector
from pipeline.prediction.images import predict_image
from pipeline.prediction.records import to_record


class ServedDetector(PythonModel):  # type: ignore[misc]
    """Detects objects in encoded images (JPEG, PNG, …)."""

    def load_context(self, context: PythonModelContext) -> None:
        """Loads the detector, on the device that the model's configuration names.

        Its `max_megapixels` is the size of the largest image that is decoded, 150 by default.
        """
        weights, config = Path(context.artifacts["weights"]), context.model_config or {}
        detector = SavedDetector.load(weights, choose_device(config.get("device", "auto")))
        self._limit = PixelLimit(config.get("max_megapixels", MAX_MEGAPIXELS), "max_megapixels=")
        postprocess = Postprocess(**json.loads(Path(context.artifacts["postprocess"]).read_text()))
        views, _ = choose_views(weights, plain=False, score=None)
        self.class_names = detector.class_names
        self._detector = ConfiguredDetector(
            detector, score_thresholds(weights, detector.class_names), postprocess, views
        )

    def predict(
        self,
        context: PythonModelContext,  # noqa: ARG002 - MLflow gives this name
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Detects objects in the images of the column `image`, one file's bytes per row.

        Args:
            params: `score` overrides the score thresholds, which are those of operating_point.json if the model has
                one.

        Returns:
            The column `detections`: for each image a list of {bbox, category, category_id, score}.

        Raises:
            MlflowException: an image can't be decoded, or is too large; `mlflow models serve` answers 400.
        """
        score = (params or {}).get("score")
        detector = self._detector
        if score is not None:
            detector = replace(detector, thresholds=[score] * len(detector.thresholds))
        images = enumerate(model_input["image"], start=1)
        found = [_detect(detector, image, f"image {number}", self._limit) for number, image in images]
        return pd.DataFrame({"detections": found})


def _detect(detector: ConfiguredDetector, image: bytes, name: str, limit: PixelLimit) -> list[dict[str, Any]]:
    with TemporaryDirectory(prefix="fcos-") as folder:
        path = Path(folder, "image")
        path.write_bytes(image)
        try:
            _, found = predict_image(detector, path, limit)
        except PipelineError as error:
            raise MlflowException(str(error).replace(str(path), name), BAD_REQUEST) from None
    detections: list[dict[str, Any]] = to_record(found, detector.model.description.categories)["detections"]
    return detections


set_model(ServedDetector())
