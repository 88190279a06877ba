"""Ground truth in any form: COCO JSON with any ids, or the folder or archive of a data set in any format."""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from pipeline import formats
from pipeline.conversion.build_annotations import build_annotation_set
from pipeline.conversion.classes import select_classes
from pipeline.conversion.export import load_params
from pipeline.conversion.issues import IssueLog
from pipeline.conversion.match_images import match_splits
from pipeline.data.annotations import AnnotationSet
from pipeline.data.detections import read_bytes
from pipeline.datasets.archives import is_archive
from pipeline.datasets.staging import link_files, stage_dataset
from pipeline.errors import PipelineError
from pipeline.evaluation import ground_truth
from pipeline.files import parse_json
from pipeline.formats.records import RawSplit
from pipeline.params import ConvertParams


@dataclass(frozen=True)
class Truth:
    """Ground truth, and how its file names images and classes."""

    annotations: AnnotationSet
    format: str  # for people
    image_ids: Mapping[str, int]  # of the ids that are no numbers
    category_ids: Mapping[str, int]


def read(
    path: Path, *, format: str = "auto", split: str | None = None, images: Path | None = None, overrides: Sequence[str]
) -> Truth:
    """Reads ground truth.

    Args:
        path: a COCO JSON, or the folder or the archive of a data set.
        format: of a folder or an archive, a key of `pipeline.formats.FORMATS`; "auto": recognized.
        split: of a data set with several splits.
        images: a folder with the images, if they are not in the data set's.
        overrides: parameters such as `convert.issues=repair`, for data sets with issues.

    Raises:
        PipelineError: the ground truth can't be read, or has issues; or the split has to be chosen.
    """
    if not path.exists():
        raise PipelineError(f"{path}: no such file or folder")
    if path.is_file() and not is_archive(path):
        return _read_json(path)
    values = load_params(["convert.image_check=header", *overrides], format=format)
    with ExitStack() as stack:
        staging = Path(stack.enter_context(TemporaryDirectory(prefix="fcos-evaluate-")))
        raw = stage_dataset(path, staging / "unpacked", values.download.format)
        if images:
            for name, folder in {path.resolve().name: raw, "folder of --images": images}.items():
                link_files(folder.resolve(), staging / "joined" / name)
            raw = staging / "joined"
        try:
            return _read_folder(raw, values.convert, values.download.format, split, hint=not (images or overrides))
        except PipelineError as error:
            raise PipelineError(str(error).replace(str(raw), str(path))) from None


def _read_json(path: Path) -> Truth:
    content = read_bytes(path)
    try:
        return Truth(ground_truth.parse(content, path), "COCO JSON", {}, {})
    except PipelineError:
        data = parse_json(content, path)
        numbers = {name: _numbering(data, name) for name in ("images", "categories")}
        if not any(numbers.values()):
            raise
    for name, key in (("images", "image_id"), ("categories", "category_id")):
        if numbers[name]:
            data[name] = [record | {"id": numbers[name].get(str(record["id"]))} for record in data[name]]
            data["annotations"] = [
                record | {key: numbers[name].get(str(record.get(key)), record.get(key))}
                for record in data["annotations"]
            ]
    annotations = ground_truth.parse(json.dumps(data), path)
    return Truth(annotations, "COCO JSON, ids are strings", numbers["images"], numbers["categories"])


def _numbering(data: Any, name: str) -> dict[str, int]:
    """A number for each id of images or categories if any of them is a string that is no number; else empty."""
    try:
        ids = [record["id"] for record in data[name]]
    except (KeyError, TypeError):
        return {}
    if not any(isinstance(item, str) and not item.strip().lstrip("-").isdecimal() for item in ids):
        return {}
    return {str(item): number for number, item in enumerate(dict.fromkeys(ids), start=1)}


def _read_folder(raw: Path, options: ConvertParams, format: str, split: str | None, *, hint: bool) -> Truth:
    """A split of a data set. With `hint`, the error of a missing image suggests --images."""
    dataset = select_classes(formats.read(raw, format), options.classes)
    name = _choose_split(raw, list(dataset.splits), split)
    log = IssueLog(options)
    part = dataset.splits[name]
    missing = [record for record in part.images if record.issue and record.issue.code == "missing_image"]
    # Images are needed only for their size. VOC's files state it, and are called like their images.
    stated = [record for record in missing if dataset.format == "voc" and record.declared_size]
    if hint and len(stated) < len(missing) and missing[0].issue:
        raise PipelineError(f"{raw}: {missing[0].source}: {missing[0].issue.message}; --images names another folder")
    named = tuple(msgspec.structs.replace(record, file=record.source, issue=None) for record in stated)
    sources = {record.source for record in stated}
    others = tuple(record for record in part.images if record.source not in sources)
    matched = match_splits(raw, {name: [replace(part, images=others)]}, options.image_check, log)[name]
    matched += match_splits(raw, {name: [RawSplit(named)]}, "trust", log)[name]
    annotations = build_annotation_set(name, matched, dataset.categories, log)
    if not annotations.images:
        raise PipelineError(f"{raw}: split {name} has no images")
    return Truth(annotations, f"{dataset.format}, split {name}", {}, {})


def _choose_split(raw: Path, names: list[str], split: str | None) -> str:
    if split in names:
        return str(split)
    if split is None and len(names) == 1:
        return names[0]
    problem = f"no split {split}" if split else "several splits"
    raise PipelineError(f"{raw}: {problem}; choose one with --split: {', '.join(names)}")
