"""Annotation formats: how each is recognized and read. A new one is one module and one line in FORMATS."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pipeline.errors import PipelineError
from pipeline.formats import (
    coco,
    cvat,
    kitti,
    labelme,
    openimages,
    pennfudan,
    retinanet,
    tfrecord,
    voc,
    yolo,
)
from pipeline.formats.image_index import list_files
from pipeline.formats.records import RawDataset


@dataclass(frozen=True)
class Format:
    """A way to lay out annotations."""

    looks_like: str  # what people find in such a folder, for messages
    find_evidence: Callable[
        [Path, list[PurePosixPath]], PurePosixPath | None
    ]  # a file that shows the format, if there is
    read: Callable[[Path], RawDataset]


FORMATS: dict[str, Format] = {
    "coco": Format("a .json file with COCO's images, annotations and categories", coco.find_evidence, coco.read),
    "voc": Format(".xml files with an <annotation> of Pascal VOC each", voc.find_evidence, voc.read),
    "yolo": Format("a data.yaml, obj.data or classes.txt with YOLO's .txt labels", yolo.find_evidence, yolo.read),
    "kitti": Format(".txt files with KITTI's fifteen columns", kitti.find_evidence, kitti.read),
    "cvat": Format("an .xml file with CVAT's <annotations> and their <version>", cvat.find_evidence, cvat.read),
    "labelme": Format(".json files with LabelMe's shapes and imagePath", labelme.find_evidence, labelme.read),
    "tfrecord": Format(".tfrecord or .record files with image/object/bbox", tfrecord.find_evidence, tfrecord.read),
    "retinanet": Format("a .csv of keras-retinanet, path,x1,y1,x2,y2,class", retinanet.find_evidence, retinanet.read),
    "openimages": Format("a .csv whose head has ImageID,LabelName,XMin,…", openimages.find_evidence, openimages.read),
    "pennfudan": Format(".txt files of PASCAL Annotation Version 1.00", pennfudan.find_evidence, pennfudan.read),
}


def recognize(folder: Path) -> str:
    """The name of the format that a data set's folder is laid out in.

    Raises:
        PipelineError: no format is found there, or more than one; the line says what was looked for.
    """
    files = list_files(folder)
    found = {name: file for name, known in FORMATS.items() if (file := known.find_evidence(folder, files)) is not None}
    if not found:
        looked_for = "; ".join(f"{name}: {known.looks_like}" for name, known in FORMATS.items())
        raise PipelineError(
            f"{folder}: no annotations recognized among its {len(files)} files; looked for {looked_for}"
        )
    if len(found) > 1:
        seen = " and ".join(f"{name} ({file})" for name, file in found.items())
        raise PipelineError(
            f"{folder}: annotations in more than one format: {seen}; "
            "say which to read, by its name: -S download.format=NAME, or --format NAME"
        )
    return next(iter(found))


def read(folder: Path, format: str = "auto") -> RawDataset:
    """Reads a data set's records; `format` is a name in FORMATS, or "auto" to recognize it.

    Raises:
        PipelineError: the format is unknown or not recognized, or a file that describes a whole split is broken.
    """
    name = recognize(folder) if format == "auto" else format
    if name not in FORMATS:
        raise PipelineError(f"format {name!r} is not known; known ones: {', '.join(FORMATS)}")
    return FORMATS[name].read(folder)
