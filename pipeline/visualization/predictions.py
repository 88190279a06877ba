"""Pictures and detections.json that `fcos predict` writes."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import PIL.Image

from fcos.postprocess import Postprocess
from pipeline.data.image_files import DEFAULT_LIMIT, PixelLimit
from pipeline.errors import PipelineError
from pipeline.files import unique_jpg_names, write_json
from pipeline.inference.predict import Prediction, predict, to_record
from pipeline.inference.saved_detector import SavedDetector
from pipeline.visualization.boxes import class_color, draw_boxes


def draw_prediction(prediction: Prediction, names: Sequence[str]) -> PIL.Image.Image:
    """The image with the box, class and score of each detection."""
    labels = prediction.detections.labels.tolist()
    return draw_boxes(
        prediction.image,
        prediction.detections.boxes.tolist(),
        [names[label] for label in labels],
        [class_color(label) for label in labels],
        prediction.detections.scores.tolist(),
    )


def write(
    model: SavedDetector,
    images: Sequence[Path],
    score_threshold: float,
    out: Path | None,
    postprocess: Postprocess,
    limit: PixelLimit = DEFAULT_LIMIT,
) -> list[dict[str, Any]]:
    """Detects objects in every image. With `out`, writes a picture per image and detections.json, all or nothing.

    Returns:
        A record per image, as in detections.json.

    Raises:
        PipelineError: an image can't be decoded, or a picture would overwrite an input.
    """
    names = unique_jpg_names(images)
    if out:
        _check_overwrites(images, [out / name for name in names])
    records = []
    with TemporaryDirectory() as staging:
        for prediction, name in zip(predict(model, images, score_threshold, postprocess, limit), names, strict=True):
            records.append(to_record(prediction, model))
            if out:
                draw_prediction(prediction, model.class_names).save(Path(staging) / name, quality=92)
        if out:
            out.mkdir(parents=True, exist_ok=True)
            for name in names:
                shutil.move(Path(staging) / name, out / name)
            write_json(out / "detections.json", records)
    return records


def _check_overwrites(images: Sequence[Path], pictures: Sequence[Path]) -> None:
    inputs = {image.resolve() for image in images}
    for picture in pictures:
        if picture.resolve() in inputs:
            raise PipelineError(f"{picture}: is an input; its picture would overwrite it: choose another --out")
