"""`fcos explain`: pictures of what an image teaches a detector and of what a detector says of it, and the numbers."""

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import PIL.Image
import torch

from fcos.config import InputSize
from fcos.postprocess import Detections, Postprocess
from fcos.structures import Outputs
from pipeline.analysis.assignment import (
    NEEDS_PREDICTIONS,
    Explanation,
    by_level,
    explain,
    level_name,
    places,
    unpredicted,
)
from pipeline.analysis.lookup import DataSet, Found
from pipeline.data.annotations import Annotation
from pipeline.data.boxes import box_tensor
from pipeline.data.images import read_image, to_pil
from pipeline.errors import PipelineError, count_noun
from pipeline.files import unique_jpg_names, write_json
from pipeline.inference.detect import forward
from pipeline.inference.device import choose_device
from pipeline.inference.model import Model
from pipeline.loading.dataset import trainable_annotations
from pipeline.loading.transforms import Sample, resize
from pipeline.params import Params
from pipeline.visualization import heat_maps as sheets


@dataclass(frozen=True)
class Said:
    """What a trained detector says of an image."""

    sample: Sample  # as the detector sees it, with its objects
    outputs: Outputs
    detections: Detections  # the sure ones, in the sample's pixels


@dataclass(frozen=True)
class Explained:
    """One image, and all that is known of it."""

    found: Found
    objects: tuple[Annotation, ...]  # those that are learned
    taught: tuple[Sample, Explanation] | None  # None: the image has no ground truth
    said: Said | None  # None: there is no trained detector


def detector(weights: Path | None, usual: Path) -> tuple[Model | None, str | None]:
    """The detector of `weights`, or else of the usual place; there it may be missing, and then a line says why.

    Raises:
        PipelineError: `weights` was given and can't be used.
    """
    try:
        return Model.load(weights or usual, choose_device("auto")), None
    except PipelineError as error:
        if weights:
            raise
        return None, f"{error} (`dvc repro train` makes it, or give --weights)"


def check(params: Params, data: DataSet, model: Model | None) -> None:
    """Makes sure that the configured assigner has what it needs.

    Raises:
        PipelineError: it needs a trained detector of the same classes, and there is none.
    """
    if params.model.assigner not in NEEDS_PREDICTIONS:
        return
    if model is None:
        raise PipelineError(
            f"params.yaml: model.assigner {params.model.assigner} assigns by what a trained detector predicts, "
            "and there is none: `dvc repro train` makes one, or give --weights"
        )
    model.check_classes(data.first, data.folder)


def explain_image(
    params: Params, data: DataSet, model: Model | None, found: Found, postprocess: Postprocess
) -> Explained:
    """Everything about one image.

    Raises:
        PipelineError: it can't be decoded, or neither ground truth nor a detector tells of it.
    """
    if found.split is None and model is None:
        raise PipelineError(
            f"{found.path}: not in data/unified, and without a trained detector there is nothing to show"
        )
    objects = tuple(trainable_annotations(found.annotations, include_difficult=params.train.include_difficult))
    whole = _sample(found, objects, data.first.label_of())
    said = _listen(model, whole, postprocess) if model else None
    taught = _teach(params, objects, whole, said) if found.split else None
    return Explained(found, objects, taught, said)


def _sample(found: Found, objects: Sequence[Annotation], label_of: dict[int, int]) -> Sample:
    labels = torch.tensor([label_of[one.category_id] for one in objects], dtype=torch.int64)
    return Sample(read_image(found.path), box_tensor(objects), labels, found.name)


def _fitted(sample: Sample, input_size: InputSize) -> Sample:
    return resize(sample, input_size.scale(sample.image.shape[-2], sample.image.shape[-1]))


def _listen(model: Model, whole: Sample, postprocess: Postprocess) -> Said:
    sample = _fitted(whole, model.description.input_size)
    outputs, (detections,) = forward(model.detector, [sample.image], model.description.input_size, postprocess)
    confident = detections[detections.scores >= sheets.SURE]
    return Said(sample, outputs, Detections(*(values.cpu() for values in vars(confident).values())))


def _teach(
    params: Params, objects: Sequence[Annotation], whole: Sample, said: Said | None
) -> tuple[Sample, Explanation]:
    if params.model.assigner in NEEDS_PREDICTIONS and said:
        sample, outputs = said.sample, said.outputs
    else:
        sample = _fitted(whole, params.train.input_size)
        where = places(params.model, sample.image.shape[-2], sample.image.shape[-1])
        outputs = unpredicted(params.model, where, images=1)
    return sample, explain(params.model, outputs, objects, sample.boxes, sample.labels)


def write(
    params: Params, data: DataSet, model: Model | None, images: Sequence[Path], out: Path, postprocess: Postprocess
) -> list[dict[str, Any]]:
    """Explains every image: writes its pictures and explained.json into `out`, all or nothing.

    Returns:
        a record an image, as in explained.json.

    Raises:
        PipelineError: an image is nowhere, can't be decoded or can't be explained, or is where a picture would go.
    """
    check(params, data, model)
    found = [data.find(path) for path in images]
    inputs = {one.path.resolve() for one in found}
    stems = [Path(name).stem for name in unique_jpg_names([one.path for one in found])]
    records = []
    with TemporaryDirectory() as staging:
        for one, stem in zip(found, stems, strict=True):
            explained = explain_image(params, data, model, one, postprocess)
            names = _pictures(explained, data, model, Path(staging) / stem)
            records.append(record(explained, names, data, model))
        written = sorted(Path(staging).iterdir())
        for file in written:
            if (out / file.name).resolve() in inputs:
                raise PipelineError(
                    f"{out / file.name}: is an input; a picture would overwrite it: choose another --out"
                )
        out.mkdir(parents=True, exist_ok=True)
        for file in written:
            shutil.move(file, out / file.name)
    write_json(out / "explained.json", records)
    return records


def _pictures(explained: Explained, data: DataSet, model: Model | None, stem: Path) -> list[str]:
    class_of = _class_names(data)
    objects = [class_of[one.category_id] for one in explained.objects]
    pictures = {}
    if explained.taught:
        sample, taught = explained.taught
        pictures["centers"] = sheets.centers(
            _image(sample),
            taught,
            objects,
            left_out=len(explained.found.annotations) - len(objects),
            title=_title(sample, "what is learned where"),
        )
    if explained.said and model:
        said = explained.said
        pictures["heat"] = sheets.heat_maps(
            _image(said.sample),
            said.outputs,
            said.detections,
            list(zip(_boxes(said.sample), objects, strict=True)),
            names=model.class_names,
            quality=model.description.model.quality,
            title=_title(said.sample, "what the detector says where"),
        )
    files = {stem.with_name(f"{stem.name}-{kind}.jpg"): picture for kind, picture in pictures.items()}
    for file, picture in files.items():
        picture.save(file, quality=90)
    return [file.name for file in files]


def _title(sample: Sample, what: str) -> str:
    height, width = sample.image.shape[-2:]
    return f"{Path(sample.name).name}, {width}×{height} as the network sees it: {what}"


def _image(sample: Sample) -> PIL.Image.Image:
    return to_pil(sample.image)


def _boxes(sample: Sample) -> list[tuple[float, float, float, float]]:
    return [(x1, y1, x2, y2) for x1, y1, x2, y2 in sample.boxes.tolist()]


def _class_names(data: DataSet) -> dict[int, str]:
    return {category.id: category.name for category in data.first.categories}


def record(explained: Explained, pictures: Sequence[str], data: DataSet, model: Model | None) -> dict[str, Any]:
    """All numbers of an image for JSON; boxes as [x, y, width, height] in the file's pixels."""
    found = explained.found
    told: dict[str, Any] = {"file": found.name, "split": found.split, "pictures": list(pictures)}
    if explained.taught:
        sample, taught = explained.taught
        told |= {
            "network_size": list(sample.image.shape[-2:]),
            "levels": _levels(taught),
            "objects": _objects(taught, _class_names(data)),
            "left_out": len(found.annotations) - len(explained.objects),
        }
    if explained.said and model:
        told["detector"] = _heat(explained.said, model)
    return told


def _levels(taught: Explanation) -> list[dict[str, Any]]:
    numbers = []
    for place, grid in enumerate(taught.places.grids):
        counts = [one.positives[place] for one in taught.objects]
        numbers.append(
            {
                "name": level_name(grid.stride),
                "stride": grid.stride,
                "range": [grid.above, None if math.isinf(grid.up_to) else grid.up_to] if taught.by_range else None,
                "locations": grid.count,
                "positives": sum(counts),
                "objects": sum(count > 0 for count in counts),
            }
        )
    return numbers


def _objects(taught: Explanation, class_of: dict[int, str]) -> list[dict[str, Any]]:
    names = [level_name(grid.stride) for grid in taught.places.grids]
    return [
        {
            "id": one.annotation.id,
            "category": class_of[one.annotation.category_id],
            "bbox": list(one.annotation.bbox),
            "positives": dict(zip(names, one.positives, strict=True)),
            "highest_centerness": round(one.centerness, 4),
            "without_location": one.reason,
        }
        for one in taught.objects
    ]


def _heat(said: Said, model: Model) -> dict[str, Any]:
    locations, quality = said.outputs.locations, said.outputs.quality
    best = by_level(said.outputs.logits[0].float().sigmoid().amax(dim=-1).cpu(), locations)
    levels: list[dict[str, Any]] = [
        {"name": level_name(grid.stride), "highest_class": round(float(values.max()), 4)}
        for grid, values in zip(locations.grids, best, strict=True)
    ]
    if quality is not None:
        for level, values in zip(levels, by_level(quality[0].float().sigmoid().cpu(), locations), strict=True):
            level[f"highest_{model.description.model.quality}"] = round(float(values.max()), 4)
    return {
        "network_size": list(said.sample.image.shape[-2:]),
        "detections": len(said.detections.scores),
        "levels": levels,
    }


def line(record: dict[str, Any]) -> str:
    """A record as a person reads it: objects, positive locations of each level, and objects that have none."""
    if "objects" not in record:
        return f"{record['file']}: no ground truth, {count_noun(record['detector']['detections'], 'detection')}"
    levels = ", ".join(f"{level['name']} {level['positives']}" for level in record["levels"])
    total = sum(level["positives"] for level in record["levels"])
    lost = [one for one in record["objects"] if one["without_location"]]
    named = "; ".join(f"{one['category']} ({one['without_location']})" for one in lost)
    return (
        f"{record['file']} ({record['split']}): {count_noun(len(record['objects']), 'object')}, "
        f"{total} positive locations ({levels}), {len(lost)} without any{': ' if lost else ''}{named}"
    )
