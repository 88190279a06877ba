"""Detections drawn on the images of `fcos predict`."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import PIL.Image

from pipeline.errors import PipelineError
from pipeline.files import out_names, write_json
from pipeline.inference.model import Model
from pipeline.inference.predict import Prediction, predict, record
from pipeline.visualization.boxes import class_color, draw_boxes


def picture(prediction: Prediction, names: Sequence[str]) -> PIL.Image.Image:
    """The image with its boxes, each with its class and score."""
    labels = prediction.detections.labels.tolist()
    return draw_boxes(
        prediction.image,
        prediction.detections.boxes.tolist(),
        [names[label] for label in labels],
        [class_color(label) for label in labels],
        prediction.detections.scores.tolist(),
    )


def write(model: Model, images: Sequence[Path], score_threshold: float, out: Path | None) -> list[dict[str, Any]]:
    """Detects in every image; with `out`, writes a picture each and detections.json there, all or nothing.

    Returns:
        a record an image, as in detections.json.

    Raises:
        PipelineError: an image can't be decoded, or a picture would take an input's place.
    """
    names = out_names(images)
    inputs = {image.resolve() for image in images}
    for name in names:
        if out and (out / name).resolve() in inputs:
            raise PipelineError(f"{out / name}: is an input; its picture would overwrite it: choose another --out")
    records = []
    with TemporaryDirectory() as staging:
        for one, name in zip(predict(model, images, score_threshold), names, strict=True):
            records.append(record(one, model))
            if out:
                picture(one, model.class_names).save(Path(staging) / name, quality=92)
        if out:
            out.mkdir(parents=True, exist_ok=True)
            for name in names:
                shutil.move(Path(staging) / name, out / name)
            write_json(out / "detections.json", records)
    return records
