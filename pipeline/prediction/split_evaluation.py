"""What `fcos evaluate --weights` evaluates: the detections of any file of a detector in a split of this project."""

import sys
from functools import partial
from pathlib import Path

from tqdm import tqdm

from pipeline import params
from pipeline.data import annotations
from pipeline.errors import PipelineError
from pipeline.evaluation.inputs import Inputs
from pipeline.inference.detect import detect_split
from pipeline.inference.device import prepare_device
from pipeline.inference.postprocess import postprocess_of
from pipeline.inference.saved_detector import SavedDetector
from pipeline.inference.views import Views, detect_in_views
from pipeline.workspace import workspace


def of_weights(weights: Path, split: str, device: str, max_detections: int | None = None) -> Inputs:
    """Detects objects as the evaluate stage does: in the views of params.yaml, and with its post-processing.

    An ONNX file has its own post-processing.

    Args:
        max_detections: of an image; None: as post-processing says.

    Raises:
        PipelineError: a file is missing or invalid, or the split has other classes than the detector.
    """
    values, path = params.load(), workspace() / f"data/unified/{split}.json"
    if not path.is_file():
        raise PipelineError(f"{path}: not there yet; run `dvc repro convert`, or choose another --split")
    truth, model = annotations.read(path), SavedDetector.load(weights, prepare_device(device))
    model.check_classes(truth, path)
    postprocess, batch_size = postprocess_of(model, max_detections=max_detections), values.evaluate.batch_size
    detect_batch = partial(
        detect_in_views,
        model.detector,
        input_size=model.description.input_size,
        postprocess=postprocess,
        views=Views.of(values.evaluate),
        batch_size=batch_size,
    )
    images = workspace() / "data/raw" / values.dataset
    with tqdm(total=len(truth.images), unit="image", desc=f"evaluate {split}", disable=not sys.stderr.isatty()) as bar:
        found = list(detect_split(detect_batch, truth, images, batch_size=batch_size, progress=bar.update))
    return Inputs(
        truth,
        found,
        str(path),
        str(weights),
        input_size=model.description.input_size,
        max_detections=postprocess.max_detections,
    )
