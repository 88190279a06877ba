"""`fcos explain`: pictures and numbers of the assignment of an image and of a trained detector's outputs for it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from fcos.config import InputSize
from fcos.inference import above_thresholds, forward
from fcos.postprocess import Detections, Postprocess
from fcos.structures import Outputs
from pipeline.analysis.assignment import (
    NEEDS_PREDICTIONS,
    ImageAssignment,
    assign_image,
    input_locations,
    level_name,
    split_levels,
    zero_outputs,
)
from pipeline.analysis.image_lookup import DataSet, ImageFile
from pipeline.data.annotations import Annotation
from pipeline.data.boxes import box_tensor
from pipeline.data.image_files import PixelLimit
from pipeline.data.images import read_image, to_pil
from pipeline.errors import PipelineError, count_noun
from pipeline.files import move_files, unique_jpg_names, write_errors, write_json
from pipeline.inference.device import choose_device
from pipeline.inference.saved_detector import SavedDetector
from pipeline.loading.dataset import trainable_annotations
from pipeline.loading.transforms import Sample, resize
from pipeline.params import Params
from pipeline.visualization import heat_maps, location_maps

INDEX = "explained.json"


@dataclass(frozen=True)
class Prediction:
    """The outputs of a trained detector for an image."""

    sample: Sample  # the network input, with its objects
    outputs: Outputs
    detections: Detections  # above the score thresholds, boxes in pixels of the network input
    thresholds: Sequence[float]  # lowest score of a detection of each class


@dataclass(frozen=True)
class ImageExplanation:
    """The assignment of an image and the outputs of a detector for it."""

    file: ImageFile
    objects: tuple[Annotation, ...]  # the objects that are trained on
    training: tuple[Sample, ImageAssignment] | None  # network input and assignment; None without ground truth
    prediction: Prediction | None  # None without a trained detector


def load_detector(weights: Path | None, default: Path) -> tuple[SavedDetector | None, str | None]:
    """Loads the detector from `weights`, or from `default`, which may be missing: then the reason is returned.

    Raises:
        PipelineError: `weights` was given and can't be loaded.
    """
    try:
        return SavedDetector.load(weights or default, choose_device("auto")), None
    except PipelineError as error:
        if weights:
            raise
        return None, f"{error} (`dvc repro train` creates it; or give --weights)"


def check_assigner(params: Params, data: DataSet, model: SavedDetector | None) -> None:
    """Makes sure that the configured assigner gets the predictions it needs.

    Raises:
        PipelineError: it needs a trained detector of the same classes, and there is none.
    """
    if params.model.assigner not in NEEDS_PREDICTIONS:
        return
    if model is None:
        raise PipelineError(
            f"params.yaml: model.assigner {params.model.assigner} needs the predictions of a trained detector, and "
            "there is none: run `dvc repro train`, or give --weights"
        )
    model.check_classes(data.first, data.folder)


def explain_image(
    params: Params,
    data: DataSet,
    model: SavedDetector | None,
    file: ImageFile,
    postprocess: Postprocess,
    thresholds: Sequence[float],
) -> ImageExplanation:
    """Computes the assignment of an image, and the outputs of the detector for it.

    Args:
        thresholds: lowest score of a detection of each class, by label; empty without a detector.

    Raises:
        PipelineError: the image can't be decoded, or has neither ground truth nor a detector.
    """
    if file.split is None and model is None:
        raise PipelineError(
            f"{file.path}: not in data/unified, and there is no trained detector, so nothing to explain"
        )
    objects = tuple(trainable_annotations(file.annotations, include_difficult=params.train.include_difficult))
    label_of = data.first.label_of()
    labels = torch.tensor([label_of[annotation.category_id] for annotation in objects], dtype=torch.int64)
    limit = PixelLimit(params.convert.max_megapixels, "convert.max_megapixels: ")
    stored = Sample(read_image(file.path, limit=limit), box_tensor(objects), labels, file.name)
    prediction = _predict(model, stored, postprocess, thresholds) if model else None
    training = _assign(params, objects, stored, prediction) if file.split else None
    return ImageExplanation(file, objects, training, prediction)


def _network_input(sample: Sample, input_size: InputSize) -> Sample:
    return resize(sample, input_size.scale(sample.image.shape[-2], sample.image.shape[-1]))


def _predict(model: SavedDetector, stored: Sample, postprocess: Postprocess, thresholds: Sequence[float]) -> Prediction:
    sample = _network_input(stored, model.description.input_size)
    outputs, (detections,) = forward(model.network, [sample.image], model.description.input_size, postprocess)
    shown = above_thresholds(detections, thresholds)
    detections = Detections(shown.boxes.cpu(), shown.scores.cpu(), shown.labels.cpu())
    return Prediction(sample, outputs, detections, thresholds)


def _assign(
    params: Params, objects: Sequence[Annotation], stored: Sample, prediction: Prediction | None
) -> tuple[Sample, ImageAssignment]:
    if params.model.assigner in NEEDS_PREDICTIONS and prediction:
        sample, outputs = prediction.sample, prediction.outputs
    else:
        sample = _network_input(stored, params.train.input_size)
        locations = input_locations(params.model, sample.image.shape[-2], sample.image.shape[-1])
        outputs = zero_outputs(params.model, locations, images=1)
    return sample, assign_image(params.model, outputs, objects, sample.boxes, sample.labels)


def write(
    params: Params,
    data: DataSet,
    model: SavedDetector | None,
    images: Sequence[Path],
    out: Path,
    postprocess: Postprocess,
    thresholds: Sequence[float],
) -> list[dict[str, Any]]:
    """Explains every image: writes its pictures into `out`, each whole or not at all, and explained.json last.

    Returns:
        One record per image, as in explained.json.

    Raises:
        PipelineError: an image can't be found, decoded or explained, a picture would overwrite it, or `out` can't be
            written.
    """
    check_assigner(params, data, model)
    files = [data.find(path) for path in images]
    stems = [Path(name).stem for name in unique_jpg_names([file.path for file in files])]
    records = []
    with TemporaryDirectory() as staging:
        for file, stem in zip(files, stems, strict=True):
            explanation = explain_image(params, data, model, file, postprocess, thresholds)
            pictures = _write_pictures(explanation, data, model, Path(staging) / stem)
            records.append(to_record(explanation, pictures, data, model))
        _move(Path(staging), out, inputs={file.path.resolve() for file in files})
    with write_errors(out):
        write_json(out / INDEX, records)
    return records


def _move(staging: Path, out: Path, inputs: set[Path]) -> None:
    for file in staging.iterdir():
        if (out / file.name).resolve() in inputs:
            raise PipelineError(
                f"{out / file.name}: is an input, and a picture would overwrite it; choose another --out"
            )
    with write_errors(out):
        (out / INDEX).unlink(missing_ok=True)  # of an earlier run, whose pictures are replaced now
    move_files(staging, out)


def _write_pictures(explanation: ImageExplanation, data: DataSet, model: SavedDetector | None, stem: Path) -> list[str]:
    class_names = _class_names(data)
    names = [class_names[annotation.category_id] for annotation in explanation.objects]
    pictures = {}
    if explanation.training:
        sample, assignment = explanation.training
        pictures["centers"] = location_maps.location_map(
            to_pil(sample.image),
            assignment,
            names,
            left_out=len(explanation.file.annotations) - len(names),
            title=_title(sample, "assigned locations"),
        )
    if explanation.prediction and model:
        sample = explanation.prediction.sample
        pictures["heat"] = heat_maps.heat_map(
            to_pil(sample.image),
            explanation.prediction.outputs,
            explanation.prediction.detections,
            explanation.prediction.thresholds,
            [((x1, y1, x2, y2), name) for (x1, y1, x2, y2), name in zip(sample.boxes.tolist(), names, strict=True)],
            names=model.class_names,
            quality=model.description.model.quality,
            title=_title(sample, "outputs of the detector"),
        )
    files = {stem.with_name(f"{stem.name}-{kind}.jpg"): picture for kind, picture in pictures.items()}
    for file, picture in files.items():
        picture.save(file, quality=90)
    return [file.name for file in files]


def _title(sample: Sample, content: str) -> str:
    height, width = sample.image.shape[-2:]
    return f"{Path(sample.name).name}, network input of {width}×{height} px: {content}"


def _class_names(data: DataSet) -> dict[int, str]:
    return {category.id: category.name for category in data.first.categories}


def to_record(
    explanation: ImageExplanation, pictures: Sequence[str], data: DataSet, model: SavedDetector | None
) -> dict[str, Any]:
    """All numbers of an image for JSON; boxes are [x, y, width, height] in pixels of the stored image."""
    file = explanation.file
    record: dict[str, Any] = {"file": file.name, "split": file.split, "pictures": list(pictures)}
    if explanation.training:
        sample, assignment = explanation.training
        record |= {
            "network_size": list(sample.image.shape[-2:]),
            "levels": _level_records(assignment),
            "objects": _object_records(assignment, _class_names(data)),
            "left_out": len(file.annotations) - len(explanation.objects),
        }
    if explanation.prediction and model:
        record["detector"] = _prediction_record(explanation.prediction, model)
    return record


def _level_records(assignment: ImageAssignment) -> list[dict[str, Any]]:
    records = []
    for level, grid in enumerate(assignment.locations.grids):
        counts = [item.positives[level] for item in assignment.objects]
        size_range = [grid.above, None if math.isinf(grid.up_to) else grid.up_to]
        records.append(
            {
                "name": level_name(grid.stride),
                "stride": grid.stride,
                "range": size_range if assignment.by_size else None,
                "locations": grid.count,
                "positives": sum(counts),
                "objects": sum(count > 0 for count in counts),
            }
        )
    return records


def _object_records(assignment: ImageAssignment, class_names: dict[int, str]) -> list[dict[str, Any]]:
    levels = [level_name(grid.stride) for grid in assignment.locations.grids]
    return [
        {
            "id": item.annotation.id,
            "category": class_names[item.annotation.category_id],
            "bbox": list(item.annotation.bbox),
            "positives": dict(zip(levels, item.positives, strict=True)),
            "highest_centerness": round(item.centerness, 4),
            "without_location": item.unassigned_reason,
        }
        for item in assignment.objects
    ]


def _prediction_record(prediction: Prediction, model: SavedDetector) -> dict[str, Any]:
    locations, quality = prediction.outputs.locations, prediction.outputs.quality
    probabilities = split_levels(prediction.outputs.logits[0].float().sigmoid().amax(dim=-1).cpu(), locations)
    levels: list[dict[str, Any]] = [
        {"name": level_name(grid.stride), "highest_class": round(float(values.max()), 4)}
        for grid, values in zip(locations.grids, probabilities, strict=True)
    ]
    if quality is not None:
        for level, values in zip(levels, split_levels(quality[0].float().sigmoid().cpu(), locations), strict=True):
            level[f"highest_{model.description.model.quality}"] = round(float(values.max()), 4)
    return {
        "network_size": list(prediction.sample.image.shape[-2:]),
        "detections": len(prediction.detections.scores),
        "levels": levels,
    }


def summary_line(record: dict[str, Any]) -> str:
    """A record as a line of text: objects, positive locations of each level, and objects without a location."""
    if "objects" not in record:
        return f"{record['file']}: no ground truth, {count_noun(record['detector']['detections'], 'detection')}"
    levels = ", ".join(f"{level['name']} {level['positives']}" for level in record["levels"])
    total = sum(level["positives"] for level in record["levels"])
    unassigned = [item for item in record["objects"] if item["without_location"]]
    reasons = "; ".join(f"{item['category']} ({item['without_location']})" for item in unassigned)
    return (
        f"{record['file']} ({record['split']}): {count_noun(len(record['objects']), 'object')}, "
        f"{total} positive locations ({levels}), {len(unassigned)} without a location{': ' if reasons else ''}{reasons}"
    )
