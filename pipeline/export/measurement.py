"""The accuracy and the speed of a quantized detector, beside those in float32."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from fcos.postprocess import Postprocess
from pipeline.data import annotations
from pipeline.data.annotations import AnnotationSet
from pipeline.errors import count_noun
from pipeline.export import quantization
from pipeline.export.provenance import images_folder, project_of
from pipeline.inference.saved_detector import SavedDetector


def validation_split(weights: Path, model: SavedDetector) -> tuple[AnnotationSet, Path] | None:
    """The validation split of a detector's project, and the folder of its images; None if there is none,
    or none with images.

    Raises:
        PipelineError: it has other classes than the detector, or is invalid.
    """
    project = project_of(weights)
    if project is None:
        return None
    path = project / "data/unified/val.json"
    truth = annotations.read(path)
    if not truth.images:
        return None
    model.check_classes(truth, path)
    return truth, images_folder(project)


def measure(
    files: Sequence[Path],
    split: tuple[AnnotationSet, Path] | None,
    images: Sequence[Tensor],
    calibrated_on: str,
    postprocess: Postprocess,
) -> dict[str, Any]:
    """Compares two files of a detector in the validation split of its project.

    Args:
        files: in float32 and int8.
        split: of `validation_split`.
        images: for the measurement of time.
        calibrated_on: a description of the images of calibration.

    Returns:
        The content of the JSON file beside the quantized detector. AP is null without a validation split.
    """
    times = quantization.seconds_per_image(files, images, postprocess)
    report: dict[str, Any] = {
        "calibration": calibrated_on,
        "split": "val" if split else None,
        "images": len(split[0].images) if split else 0,
    }
    for name, file, seconds in zip(("float32", "int8"), files, times, strict=True):
        scores: dict[str, Any] = {"AP": None, "AP50": None}
        if split:
            scores = quantization.average_precision(file, *split, postprocess)
        report[name] = scores | {"milliseconds_per_image": round(1000 * seconds, 2), "bytes": file.stat().st_size}
    report["speedup"] = round(times[0] / times[1], 3)
    return report | quantization.describe_machine()


def describe(report: dict[str, Any]) -> str:
    """The measurements as a line for people."""
    pairs = [(report["float32"][key], report["int8"][key]) for key in ("AP", "milliseconds_per_image", "bytes")]
    (ap, ap8), (time, time8), (size, size8) = pairs
    accuracy = "AP not measured: no validation split" if ap is None else f"AP {ap8:.4f} instead of {ap:.4f}"
    return (
        f"{accuracy}; {time8:g} ms instead of {time:g} ms for an image, on "
        f"{count_noun(report['threads'], 'thread')}; "
        f"{size8 / 1e6:.1f} MB instead of {size / 1e6:.1f} MB"
    )
