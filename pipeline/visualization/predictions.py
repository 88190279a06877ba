"""Pictures and detections.json that `fcos predict` writes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import PIL.Image

from fcos.postprocess import Postprocess
from pipeline.data.image_files import DEFAULT_LIMIT, PixelLimit
from pipeline.errors import PipelineError
from pipeline.files import unique_jpg_names, write_errors, write_json
from pipeline.inference.predict import Prediction, predict, to_record
from pipeline.inference.saved_detector import SavedDetector
from pipeline.inference.views import Views
from pipeline.visualization.boxes import class_color, draw_boxes

INDEX = "detections.json"


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
    thresholds: Sequence[float],
    out: Path | None,
    postprocess: Postprocess,
    views: Views,
    limit: PixelLimit = DEFAULT_LIMIT,
    *,
    on_error: Callable[[PipelineError], object],
) -> Iterator[dict[str, Any]]:
    """Detects objects in every image. With `out`, writes a picture for each, and detections.json once all are written.

    Each file is written whole or not at all. An image that can't be read is left out.

    Args:
        thresholds: [K], lowest score of a detection of each class.
        on_error: called with the error of each image that can't be read.

    Yields:
        A record for each image, as in detections.json, when its picture has been written.

    Raises:
        PipelineError: a picture would overwrite an input, or `out` can't be written. Pictures written before stay.
    """
    names = unique_jpg_names(images)
    if out:
        _check_overwrites(images, [out / name for name in names])
        with write_errors(out):
            out.mkdir(parents=True, exist_ok=True)
    records: list[dict[str, Any]] = []
    for path, name in zip(images, names, strict=True):
        try:
            prediction = predict(model, path, thresholds, postprocess, views, limit)
        except PipelineError as error:
            on_error(error)
            continue
        if out:
            with write_errors(out):
                if not records:
                    (out / INDEX).unlink(missing_ok=True)  # of an earlier run, whose pictures are replaced now
                _save(draw_prediction(prediction, model.class_names), out / name)
        records.append(to_record(prediction, model))
        yield records[-1]
    if out and records:
        with write_errors(out):
            write_json(out / INDEX, records)


def _save(picture: PIL.Image.Image, path: Path) -> None:
    """Writes a JPEG file, whole or not at all. It is not flushed to disk, which would take longer than detection."""
    content = BytesIO()
    picture.save(content, "JPEG", quality=92)
    partial = path.with_name(f".{path.stem}.partial.jpg")
    try:
        with content.getbuffer() as data:  # closed, since Python 3.13 reports one that outlives `content`
            partial.write_bytes(data)
        partial.replace(path)
    except OSError:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def _check_overwrites(images: Sequence[Path], pictures: Sequence[Path]) -> None:
    inputs = {image.resolve() for image in images}
    for picture in pictures:
        if picture.resolve() in inputs:
            raise PipelineError(f"{picture}: is an input; its picture would overwrite it: choose another --out")
