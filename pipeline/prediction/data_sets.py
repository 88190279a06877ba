"""Data sets with detections as annotations, which people correct in CVAT, Label Studio and other tools.

A new format takes a function that writes a folder, a line in WRITERS here and one in FINAL_WRITERS of `outputs`.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pipeline.data import detections as results
from pipeline.data.annotations import AnnotationSet
from pipeline.data.detections import Detection
from pipeline.files import atomic_replace, read_json, write_json
from pipeline.formats.writers import coco, voc, yolo
from pipeline.formats.writers.image_files import IMAGE_MODES, SourceImages
from pipeline.inference.annotations import boxes_inside, to_annotations
from pipeline.prediction.images import Prediction

SPLIT = "train"  # the tools that read the data sets expect a split with this name

Categories = Sequence[tuple[int, str]]  # ids and names, indexed by label


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


def _annotations(done: Sequence[Prediction], categories: Categories) -> AnnotationSet:
    """The detections as annotations of images with absolute paths, which the formats' writers copy and rename."""
    return to_annotations(done, [prediction.path.absolute().as_posix() for prediction in done], categories)


def _results(dataset: AnnotationSet, done: Sequence[Prediction]) -> Iterator[Detection]:
    scores = (score for prediction in done for _, _, score in boxes_inside(prediction))
    for annotation, score in zip(dataset.annotations, scores, strict=True):
        yield Detection(annotation.image_id, annotation.category_id, annotation.bbox, score)


def _source(images: str) -> SourceImages:
    return SourceImages(Path.cwd(), IMAGE_MODES[images])
