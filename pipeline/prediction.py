"""`fcos predict`: pictures with boxes, and detections as JSON, for images of any origin."""

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import PIL.Image

from fcos.postprocess import Detections, Postprocess
from pipeline.errors import PipelineError
from pipeline.files import write_json
from pipeline.images import read_image
from pipeline.inference import detect
from pipeline.model import Model
from pipeline.pictures import class_colour, draw

IMAGES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"})


@dataclass(frozen=True)
class Prediction:
    """One image's detections."""

    path: Path
    image: PIL.Image.Image
    detections: Detections


def images_of(paths: Sequence[Path], out: Path | None = None) -> list[Path]:
    """The image files that are named, or lie anywhere in a folder that is, in order; none from the folder `out`,
    where an earlier run left its pictures.

    Raises:
        PipelineError: a path that doesn't exist, or a folder without an image.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            files = (file for file in path.rglob("*") if file.suffix.lower() in IMAGES and file.is_file())
            inside = sorted(file for file in files if out is None or out.resolve() not in file.resolve().parents)
            if not inside:
                raise PipelineError(f"{path}: no image in this folder; looked for {', '.join(sorted(IMAGES))}")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise PipelineError(f"{path}: no such file or folder")
    return found


def predict(model: Model, paths: Sequence[Path], score_threshold: float) -> Iterator[Prediction]:
    """Detections in each image, above a final score, as the images are read."""
    for path in paths:
        pixels = read_image(path)
        (found,) = detect(model.detector, [pixels], model.description.input_size, Postprocess())
        sure = found.scores >= score_threshold
        kept = Detections(found.boxes[sure], found.scores[sure], found.labels[sure])
        yield Prediction(path, PIL.Image.fromarray(pixels.permute(1, 2, 0).numpy()), kept)


def picture(prediction: Prediction, names: Sequence[str]) -> PIL.Image.Image:
    """The image with its boxes, each with its class and score."""
    labels = prediction.detections.labels.tolist()
    return draw(
        prediction.image,
        prediction.detections.boxes.tolist(),
        [names[label] for label in labels],
        [class_colour(label) for label in labels],
        prediction.detections.scores.tolist(),
    )


def record(prediction: Prediction, model: Model) -> dict[str, Any]:
    """An image's detections for JSON: boxes as [x, y, width, height] in its pixels."""
    found = prediction.detections
    return {
        "file": prediction.path.as_posix(),
        "width": prediction.image.width,
        "height": prediction.image.height,
        "detections": [
            {
                "category_id": model.description.categories[label][0],
                "category": model.class_names[label],
                "score": round(score, 4),
                "bbox": [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)],
            }
            for (x1, y1, x2, y2), score, label in zip(
                found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True
            )
        ],
    }


def line(record: dict[str, Any]) -> str:
    """A record as a person reads it: the file and how many of what were found in it."""
    counts = Counter(found["category"] for found in record["detections"])
    found = ", ".join(f"{number} × {name}" for name, number in counts.most_common())
    return f"{record['file']}: {found or 'nothing'}"


def out_names(paths: Sequence[Path]) -> list[str]:
    """A picture's file name for each image: its own, with a number where that is taken."""
    given: dict[str, None] = {}
    for path in paths:
        numbered = (f"{path.stem}-{number}.jpg" for number in count(2))
        given[next(name for name in chain([f"{path.stem}.jpg"], numbered) if name not in given)] = None
    return list(given)


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
