"""Readers of annotation formats, and their recognition. A new format takes one module and one line in FORMATS."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from pipeline.errors import PipelineError, count_noun
from pipeline.formats import (
    bdd100k,
    coco,
    createml,
    crowdhuman,
    csv_table,
    cvat,
    dota,
    huggingface,
    keras_yolo,
    kitti,
    labelme,
    labelme_xml,
    labelstudio,
    mot,
    openimages,
    pennfudan,
    retinanet,
    sagemaker,
    supervisely,
    tfrecord,
    via,
    visdrone,
    voc,
    vott,
    widerface,
    yolo,
)
from pipeline.formats.dataset_files import list_files
from pipeline.formats.describe import describe_files
from pipeline.formats.records import RawDataset


@dataclass(frozen=True)
class Format:
    """An annotation format."""

    find_evidence: Callable[[Path, list[PurePosixPath]], PurePosixPath | None]  # returns a file of this format, if any
    read: Callable[[Path], RawDataset]
    # Yields the images that exist only inside annotation files: the path of a file for each, and its content.
    embedded_images: Callable[[Path, list[PurePosixPath]], Iterator[tuple[PurePosixPath, bytes]]] | None = None
    # Whether a file of this format counts only if there is no other format: tools make such files from another's.
    is_derived: Callable[[PurePosixPath], bool] = lambda _: False


def _first_of(
    find: Callable[[Path, list[PurePosixPath]], Collection[PurePosixPath]],
) -> Callable[[Path, list[PurePosixPath]], PurePosixPath | None]:
    return lambda folder, files: next(iter(find(folder, files)), None)


FORMATS: dict[str, Format] = {
    "coco": Format(coco.find_evidence, coco.read),
    "voc": Format(voc.find_evidence, voc.read),
    "yolo": Format(yolo.find_evidence, yolo.read, is_derived=yolo.is_label),
    "kitti": Format(kitti.find_evidence, kitti.read),
    "cvat": Format(cvat.find_evidence, cvat.read),
    "labelme_xml": Format(labelme_xml.find_evidence, labelme_xml.read),
    "labelme": Format(labelme.find_evidence, labelme.read, labelme.embedded_images),
    "tfrecord": Format(tfrecord.find_evidence, tfrecord.read, tfrecord.embedded_images),
    "retinanet": Format(retinanet.find_evidence, retinanet.read),
    "openimages": Format(openimages.find_evidence, openimages.read),
    "pennfudan": Format(pennfudan.find_evidence, pennfudan.read),
    "via": Format(_first_of(via.find_annotations), via.read),
    "createml": Format(_first_of(createml.find_annotations), createml.read),
    "labelstudio": Format(_first_of(labelstudio.find_annotations), labelstudio.read),
    "huggingface": Format(_first_of(huggingface.find_annotations), huggingface.read),
    "bdd100k": Format(_first_of(bdd100k.find_annotations), bdd100k.read),
    "visdrone": Format(_first_of(visdrone.find_annotations), visdrone.read),
    "dota": Format(_first_of(dota.find_annotations), dota.read),
    "widerface": Format(_first_of(widerface.find_annotations), widerface.read),
    "mot": Format(_first_of(mot.find_annotations), mot.read),
    "crowdhuman": Format(_first_of(crowdhuman.find_annotations), crowdhuman.read),
    "keras_yolo": Format(_first_of(keras_yolo.find_annotations), keras_yolo.read),
    "sagemaker": Format(_first_of(sagemaker.find_annotations), sagemaker.read),
    "supervisely": Format(_first_of(supervisely.find_annotations), supervisely.read),
    "vott": Format(_first_of(vott.find_annotations), vott.read),
    "csv": Format(_first_of(csv_table.find_annotations), csv_table.read, is_derived=lambda _: True),
}


def recognize(folder: Path) -> str:
    """The name of a data set's format.

    Raises:
        PipelineError: The folder contains no known format, or several; the message lists what was found.
    """
    return _recognize(folder)[0]


def _recognize(folder: Path) -> tuple[str, RawDataset | None, tuple[str, ...]]:
    """The format's name, the data set if it had to be read to choose among several formats, and a remark on that."""
    files = list_files(folder)
    evidence = {name: file for name, known in FORMATS.items() if (file := known.find_evidence(folder, files))}
    if not evidence:
        raise PipelineError(
            f"{folder}: no annotations recognized in {describe_files(folder, files)}; known formats: "
            f"{', '.join(FORMATS)} (docs/datasets.md says by which files each is recognized)"
        )
    return _choose_format(folder, evidence) if len(evidence) > 1 else (next(iter(evidence)), None, ())


def _choose_format(folder: Path, evidence: dict[str, PurePosixPath]) -> tuple[str, RawDataset | None, tuple[str, ...]]:
    """The one of several formats that annotates all images of the others, and more.

    Files that tools derive from another format's may annotate the same images.

    Raises:
        PipelineError: There is none.
    """
    datasets = {name: dataset for name in evidence if (dataset := _try_read(folder, name)) is not None}
    images = {name: _annotated_images(dataset) for name, dataset in datasets.items()}
    derived = {name for name, file in evidence.items() if FORMATS[name].is_derived(file)}
    descriptions = {
        name: f"{name} ({file}, {count_noun(len(images[name]), 'image')})" if name in images else f"{name} ({file})"
        for name, file in evidence.items()
    }
    for name, own in images.items():
        others = [other for other in evidence if other != name]
        copies = derived - {name} if name not in derived else set()
        if all(
            other in images and (images[other] < own or (other in copies and images[other] == own)) for other in others
        ):
            left_out = " and ".join(descriptions[other] for other in others if other not in copies)
            remark = f"read as {descriptions[name]}; its images include all of {left_out}, left out"
            return name, datasets[name], (remark,) if left_out else ()
    raise PipelineError(
        f"{folder}: annotations in several formats: {' and '.join(descriptions.values())}; "
        "choose one with -S download.format=NAME or --format NAME"
    )


def _try_read(folder: Path, name: str) -> RawDataset | None:
    try:
        return FORMATS[name].read(folder)
    except PipelineError:
        return None


def _annotated_images(dataset: RawDataset) -> set[str]:
    """The images with a record; those without objects don't count, since YOLO has no record of them."""
    return {image.file for split in dataset.splits.values() for image in split.images if image.file and image.objects}


def read(folder: Path, format: str = "auto") -> RawDataset:
    """Reads a data set's records; `format` is a key of FORMATS, or "auto" to recognize it.

    Raises:
        PipelineError: The format is unknown or not recognized, or a file that describes a whole split is invalid.
    """
    name, dataset, remarks = _recognize(folder) if format == "auto" else (format, None, ())
    if name not in FORMATS:
        raise PipelineError(f"unknown format {name!r}; choose one of {', '.join(FORMATS)}")
    dataset = dataset or FORMATS[name].read(folder)
    # `A+B` means both splits in parameters, so no name may contain a plus sign.
    splits = {split_name.replace("+", "-"): split for split_name, split in dataset.splits.items()}
    if len(splits) < len(dataset.splits):
        raise PipelineError(f"{folder}: two splits would be called the same without a +: {', '.join(dataset.splits)}")
    return replace(dataset, splits=splits, format=name, remarks=remarks + dataset.remarks)


def has_embedded_images(folder: Path, format: str = "auto") -> bool:
    """Whether images exist only inside annotation files.

    Raises:
        PipelineError: A file with images is damaged.
    """
    return next(_embedded_images(folder, format), None) is not None


def extract_images(folder: Path, format: str = "auto") -> int:
    """Writes the images that exist only inside annotation files as files of their own; returns their number.

    Nothing is written if the format can't be recognized, which `read` reports.

    Raises:
        PipelineError: A file with images is damaged, or an image can't be written.
    """
    count = 0
    for path, content in _embedded_images(folder, format):
        try:
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_bytes(content)
        except OSError as error:
            raise PipelineError(f"{folder / path}: not extracted: {error.strerror}") from None
        count += 1
    return count


def _embedded_images(folder: Path, format: str) -> Iterator[tuple[PurePosixPath, bytes]]:
    files = list_files(folder)
    # Most data sets have no file that could contain images, and need not be recognized.
    containers = (known for known in FORMATS.values() if known.embedded_images)
    if not any(known.find_evidence(folder, files) for known in containers):
        return iter(())
    try:
        name = recognize(folder) if format == "auto" else format
    except PipelineError:
        return iter(())
    known = FORMATS.get(name)
    return known.embedded_images(folder, files) if known and known.embedded_images else iter(())
