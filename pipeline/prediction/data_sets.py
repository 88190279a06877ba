"""Data sets with detections as annotations, which people correct in CVAT, Label Studio and other tools.

A new format takes a function that writes a folder, a line in WRITERS here and its name in _DATA_SETS of `outputs`.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import PIL.Image
import torch

from fcos.postprocess import Detections
from pipeline.data import detections as results
from pipeline.data.annotations import AnnotationSet
from pipeline.data.detections import Detection
from pipeline.errors import PipelineError
from pipeline.files import atomic_replace, read_json, write_errors, write_json
from pipeline.formats.writers import coco, voc, yolo
from pipeline.formats.writers.image_files import IMAGE_MODES, SourceImages
from pipeline.inference.annotations import boxes_inside, to_annotations
from pipeline.prediction.images import Prediction
from pipeline.prediction.records import Categories

SPLIT = "train"  # the tools that read the data sets expect a split with this name


def write_coco(out: Path, done: Sequence[Prediction], categories: Categories, images: str) -> None:
    """A data set in COCO's format, whose annotations have scores, and the same detections as COCO results."""
    dataset = _annotations(done, categories)
    found = list(_results(dataset, done))
    with atomic_replace(out) as folder:
        coco.write({SPLIT: dataset}, folder, _source(images))
        file = folder / "annotations" / f"{SPLIT}.json"
        content = read_json(file)
        for annotation, detection in zip(content["annotations"], found, strict=True):
            annotation |= {"score": detection.score, "segmentation": []}  # CVAT requires `segmentation`
        write_json(file, content, indent=None)
        file.rename(file.with_name(f"instances_{SPLIT}.json"))  # the only names that CVAT knows
        results.write(found, folder / "results.json")


def write_yolo(out: Path, done: Sequence[Prediction], categories: Categories, images: str) -> None:
    """A data set in Ultralytics' format."""
    with atomic_replace(out) as folder:
        yolo.write({SPLIT: _annotations(done, categories)}, folder, _source(images))
        manifest = folder / "data.yaml"
        lines = manifest.read_text(encoding="utf-8").splitlines(keepends=True)
        # Ultralytics counts the names; CVAT takes the key for a split.
        manifest.write_text("".join(line for line in lines if not line.startswith("nc:")), encoding="utf-8")


def write_voc(out: Path, done: Sequence[Prediction], categories: Categories, images: str) -> None:
    """A data set in the format of VOC's devkit."""
    with atomic_replace(out) as folder:
        voc.write({SPLIT: _annotations(done, categories)}, folder, _source(images))
        # CVAT takes classes other than VOC's from this file only.
        lines = ["# label:color_rgb:parts:actions", *(f"{name.strip()}:::" for _, name in categories)]
        (folder / "labelmap.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


WRITERS: dict[str, Callable[[Path, Sequence[Prediction], Categories, str], None]] = {
    "coco": write_coco,
    "yolo": write_yolo,
    "voc": write_voc,
}


def check(kinds: Sequence[str], categories: Categories, linked: Sequence[Path], out: Path) -> None:
    """Tries what would fail at the end: writes a data set with an object of each class, and links an image.

    Args:
        linked: images to link, of which the first on each file system is tried.
        out: the folder for the data sets, which exists.

    Raises:
        PipelineError: a format can't hold the name of a class, or an image can't be linked.
    """
    with TemporaryDirectory(prefix="fcos-") as folder:
        image = Path(folder, "image.png")
        PIL.Image.new("RGB", (1, 1)).save(image)
        labels = torch.arange(len(categories))
        objects = Detections(torch.tensor([[0.0, 0, 1, 1]] * len(labels)), torch.ones(len(labels)), labels)
        for kind in kinds:
            try:
                WRITERS[kind](Path(folder, kind), [Prediction(image, 1, 1, objects)], categories, "none")
            except PipelineError as error:
                raise PipelineError(f"--save {kind}: {error}") from None
    for path in {path.stat().st_dev: path for path in reversed(linked)}.values():
        with write_errors(out), TemporaryDirectory(prefix=".fcos-", dir=out) as folder:
            try:
                Path(folder, "link").hardlink_to(path)
            except OSError as error:
                reason = (error.strerror or str(error)).lower()
                raise PipelineError(f"{path}: can't be linked into {out}: {reason}; try --images copy") from None


def _annotations(done: Sequence[Prediction], categories: Categories) -> AnnotationSet:
    """The detections as annotations of images with absolute paths, which the formats' writers copy and rename."""
    return to_annotations(done, [prediction.path.absolute().as_posix() for prediction in done], categories)


def _results(dataset: AnnotationSet, done: Sequence[Prediction]) -> Iterator[Detection]:
    scores = (score for prediction in done for _, _, score in boxes_inside(prediction))
    for annotation, score in zip(dataset.annotations, scores, strict=True):
        yield Detection(annotation.image_id, annotation.category_id, annotation.bbox, score)


def _source(images: str) -> SourceImages:
    return SourceImages(Path.cwd(), IMAGE_MODES[images])
