"""What `fcos predict` writes: pictures, crops, tables and annotation files.

A kind that has a file for each image is in IMAGE_WRITERS, one that is written when all images are done in
FINAL_WRITERS. To add one, write a function and a line. Every file is whole or absent.
"""

import csv
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO, StringIO
from pathlib import Path

import PIL.Image
import torch

from pipeline.data.images import to_pil
from pipeline.errors import PipelineError
from pipeline.files import (
    require_new_folder,
    unique_jpg_names,
    write_errors,
    write_json,
    write_text,
)
from pipeline.inference.annotations import boxes_inside
from pipeline.prediction.images import Prediction
from pipeline.prediction.records import Categories, to_record
from pipeline.visualization.boxes import class_color, draw_boxes

INDEX, TABLE = "detections.json", "detections.csv"
DEFAULT = ("pictures", "json")


@dataclass(frozen=True)
class Outputs:
    """The folder `out` and what is written there."""

    out: Path
    kinds: Sequence[str]
    categories: Categories
    images: str = "copy"  # what to do with the image files of data sets: copy, link or none
    _names: dict[Path, str] = field(default_factory=dict)
    _done: list[Prediction] = field(default_factory=list)

    def prepare(self, images: Sequence[Path]) -> None:
        """Creates the folder, and checks that nothing is lost, before minutes of work.

        Raises:
            PipelineError: a picture would overwrite an input, a folder to write has content or can't be written, a
                format can't hold the name of a class, or images can't be linked.
        """
        self._names.update(zip(images, unique_jpg_names(images), strict=True))
        if "pictures" in self.kinds:
            check_overwrites(images, [self.out / name for name in self._names.values()])
        with write_errors(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
        for kind in self.kinds:
            if kind not in _REPLACED:
                require_new_folder(self.out / kind)
        if data_sets := [kind for kind in self.kinds if kind in _DATA_SETS]:
            from pipeline.prediction.data_sets import check

            check(data_sets, self.categories, images if self.images == "link" else (), self.out)

    def add(self, pixels: torch.Tensor, prediction: Prediction) -> None:
        """Writes the files of an image.

        Args:
            pixels: uint8 [3, H, W].

        Raises:
            PipelineError: a file can't be written.
        """
        with write_errors(self.out):
            if not self._done:
                for table in (INDEX, TABLE):  # of an earlier run, whose pictures are replaced now
                    (self.out / table).unlink(missing_ok=True)
            for kind in self.kinds:
                if write := IMAGE_WRITERS.get(kind):
                    write(self.out, self._names[prediction.path], pixels, prediction, self.categories)
        self._done.append(prediction)

    def finish(self) -> None:
        """Writes the files of all images, the tables first. What can't be written does not prevent the rest.

        Raises:
            PipelineError: a file can't be written.
        """
        problems = []
        for kind in [kind for kind in FINAL_WRITERS if kind in self.kinds and self._done]:
            try:
                with write_errors(self.out):
                    FINAL_WRITERS[kind](self.out, self._done, self.categories, self.images)
            except PipelineError as error:
                problems.append(str(error))
        if problems:
            raise PipelineError("; ".join(dict.fromkeys(problems)))


def parse_kinds(text: str | None) -> tuple[str, ...]:
    """The kinds of output in a list separated by commas; None: the default.

    Raises:
        PipelineError: a kind is unknown.
    """
    if text is None:
        return DEFAULT
    kinds = tuple(dict.fromkeys(kind.strip() for kind in text.split(",")))
    for kind in kinds:
        if kind not in KINDS:
            raise PipelineError(f"--save: {kind!r} can't be written; choose from {', '.join(KINDS)}")
    return kinds


def _write_picture(out: Path, name: str, pixels: torch.Tensor, prediction: Prediction, categories: Categories) -> None:
    """The image with the box, class and score of each detection."""
    _save(draw_prediction(to_pil(pixels), prediction, categories), out / name)


def draw_prediction(image: PIL.Image.Image, prediction: Prediction, categories: Categories) -> PIL.Image.Image:
    """The image with the box, class and score of each detection."""
    labels = prediction.detections.labels.tolist()
    return draw_boxes(
        image,
        prediction.detections.boxes.tolist(),
        [categories[label][1] for label in labels],
        [class_color(label) for label in labels],
        prediction.detections.scores.tolist(),
    )


def _write_crops(out: Path, name: str, pixels: torch.Tensor, prediction: Prediction, categories: Categories) -> None:
    """Each detection as a picture, `crops/CLASS/IMAGE-NUMBER.jpg`; the best one has the number 1."""
    for number, (label, box, _) in enumerate(boxes_inside(prediction), 1):
        x, y, width, height = box
        left, top, right, bottom = int(x), int(y), -int(-(x + width) // 1), -int(-(y + height) // 1)
        folder = out / "crops" / _folder_name(categories[label][1])
        folder.mkdir(parents=True, exist_ok=True)
        _save(to_pil(pixels[:, top:bottom, left:right]), folder / f"{Path(name).stem}-{number}.jpg")


def _folder_name(class_name: str) -> str:
    """A class's name as that of a folder."""
    return class_name.replace("/", "_").replace("\0", "_").lstrip(".") or "_"


def _write_json(out: Path, done: Sequence[Prediction], categories: Categories, _images: str) -> None:
    write_json(out / INDEX, [to_record(prediction, categories) for prediction in done])


def _write_csv(out: Path, done: Sequence[Prediction], categories: Categories, _images: str) -> None:
    """A row for each detection; corners in pixels of the image. An image without detections has a row without a box."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax", "score"])
    for prediction in done:
        image = [prediction.path.as_posix(), prediction.width, prediction.height]
        found = prediction.detections
        for box, label, score in zip(found.boxes.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True):
            writer.writerow([*image, categories[label][1], *(round(value, 2) for value in box), round(score, 4)])
        if not len(found):
            writer.writerow([*image, *[""] * 6])
    write_text(out / TABLE, text.getvalue())


def _write_data_set(kind: str) -> "FinalWriter":
    """Writer of a data set, whose modules are imported when it is written: with all formats, they take 0.2 seconds."""

    def write(out: Path, done: Sequence[Prediction], categories: Categories, images: str) -> None:
        from pipeline.prediction import data_sets

        data_sets.WRITERS[kind](out / kind, done, categories, images)

    return write


ImageWriter = Callable[[Path, str, torch.Tensor, Prediction, Categories], None]
FinalWriter = Callable[[Path, Sequence[Prediction], Categories, str], None]
IMAGE_WRITERS: dict[str, ImageWriter] = {"pictures": _write_picture, "crops": _write_crops}
_DATA_SETS = ("coco", "yolo", "voc")  # the keys of data_sets.WRITERS
FINAL_WRITERS: dict[str, FinalWriter] = {  # in the order of writing
    "json": _write_json,
    "csv": _write_csv,
    **{kind: _write_data_set(kind) for kind in _DATA_SETS},
}
KINDS = (*IMAGE_WRITERS, *FINAL_WRITERS)
# Files of these kinds replace those of an earlier run. Any other kind has a folder of its name, which must not exist
# yet: an earlier run's files, which people may have corrected, would be mixed with the new ones, or lost.
_REPLACED = ("pictures", "json", "csv")


def _save(picture: PIL.Image.Image, path: Path) -> None:
    """Writes a JPEG file, whole or not at all. It is not flushed to disk, which would take longer than detection."""
    content = BytesIO()
    picture.save(content, "JPEG", quality=92)
    partial = path.with_name(f".{path.stem}.partial.jpg")
    try:
        with content.getbuffer() as data:  # closed, since Python 3.13 reports one that outlives `content`
            partial.write_bytes(data)
        partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def check_overwrites(images: Sequence[Path], pictures: Sequence[Path]) -> None:
    """Checks that no input is lost.

    Raises:
        PipelineError: a picture, or a video with boxes, would overwrite an input.
    """
    inputs = {image.resolve() for image in images}
    for picture in pictures:
        if picture.resolve() in inputs:
            raise PipelineError(f"{picture}: is an input; its picture would overwrite it: choose another --out")
