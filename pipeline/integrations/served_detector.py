"""The code of an MLflow model, which MLflow runs to load one: a detector that reads encoded images."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

# In an MLflow model, the code that is imported below lies in an archive beside this file.
if (archive := Path(__file__).with_name("code") / "code.zip").is_file():
    sys.path.insert(0, str(archive))

from fcos.postprocess import Postprocess
from pipeline.inference.device import choose_device
from pipeline.inference.recorded_views import choose_views
from pipeline.inference.saved_detector import SavedDetector
from pipeline.inference.score_thresholds import score_thresholds
from pipeline.inference.views import Views
from pipeline.prediction.detector import ConfiguredDetector
from pipeline.prediction.images import predict_image
from pipeline.prediction.records import to_record


class ServedDetector(PythonModel):  # type: ignore[misc]
    """Detects objects in encoded images (JPEG, PNG, …)."""

    def load_context(self, context: PythonModelContext) -> None:
        """Loads the detector, on the GPU if there is one."""
        self._weights = Path(context.artifacts["weights"])
        self._detector = SavedDetector.load(self._weights, choose_device("auto"))
        settings = json.loads(Path(context.artifacts["postprocess"]).read_text())
        self._postprocess = Postprocess(**settings)

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
        """
        score = (params or {}).get("score")
        thresholds = score_thresholds(self._weights, self._detector.class_names, score)
        views, _ = choose_views(self._weights, plain=False, score=score)
        return pd.DataFrame({"detections": [self._detect(image, thresholds, views) for image in model_input["image"]]})

    def _detect(self, image: bytes, thresholds: Sequence[float], views: Views) -> list[dict[str, Any]]:
        with TemporaryDirectory() as folder:
            path = Path(folder, "image")
            path.write_bytes(image)
            _, found = predict_image(ConfiguredDetector(self._detector, thresholds, self._postprocess, views), path)
        detections: list[dict[str, Any]] = to_record(found, self._detector.description.categories)["detections"]
        return detections


set_model(ServedDetector())
