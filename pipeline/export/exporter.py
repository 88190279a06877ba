"""The work of `fcos export`: checks, the file, and the lines that are printed about it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from fcos.onnx_files import SUFFIX
from fcos.onnx_metadata import Metadata
from fcos.postprocess import Postprocess
from pipeline.errors import count_noun
from pipeline.export import detector_files, images, measurement, parity
from pipeline.inference.recorded_views import recorded_views
from pipeline.inference.saved_detector import SavedDetector
from pipeline.inference.views import Views

_MANY = 100  # images whose comparison takes long enough to say how to shorten it
_SUFFIXES = {"onnx": SUFFIX, "torch": ".pt2"}


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command's options besides those of post-processing."""

    out: Path | None
    format: str  # onnx or torch
    raw: bool
    int8: bool  # with the format onnx only
    calibrate: Path | None  # folder with images for int8; None: the training split
    check: bool
    check_images: int | None  # largest number of images for the check; None: all of the validation split


def export(weights: Path, options: Options, postprocess: Postprocess) -> Iterator[str]:
    """Writes a detector's file, and yields lines about it.

    Raises:
        PipelineError: an option or a file is invalid, or the file's detections differ from the detector's.
    """
    suffix = _SUFFIXES[options.format]
    out = options.out or Path("exported", f"{weights.stem}{'.int8' if options.int8 else ''}{suffix}")
    detector_files.check_location(out, suffix)
    raw = options.raw or options.format == "torch"
    if not raw:
        detector_files.check_postprocess(postprocess)
    model = SavedDetector.load(weights, torch.device("cpu"))
    about = detector_files.metadata(model, weights, postprocess, raw=raw)
    yield from _note_views(weights)
    if options.int8:
        yield _write_int8(weights, model, about, out, options.calibrate)
    else:
        yield from _write_float32(weights, model, about, out, options)
    part = "the network of a detector" if raw else "a detector"
    yield f"{out}: {part} of {count_noun(len(model.class_names), 'class', 'classes')}"


def _note_views(weights: Path) -> Iterator[str]:
    views = recorded_views(weights, otherwise="remove it")
    if views and not views.is_like(Views()):
        yield (
            f"evaluation detected objects in several views of each image ({views.describe()}), which the exported file "
            "doesn't make: `fcos predict` does, other programs have to"
        )


def _write_float32(weights: Path, model: SavedDetector, about: Metadata, out: Path, options: Options) -> Iterator[str]:
    lines = []
    compared = images.for_comparison(weights, model, options.check_images) if options.check else None
    if compared and compared.number > _MANY and options.check_images is None:
        yield f"comparing in {count_noun(compared.number, 'image')}; --check-images {_MANY} takes less time"

    def check_file(path: Path) -> None:
        if compared:
            with tqdm(compared.pixels, "compare", compared.number, unit="image", disable=None, delay=1.0) as pixels:
                found = parity.check_file(path, model, pixels, about.postprocess, compared.split)
            lines.append(f"compared with {weights}: {found.describe()}")

    write = detector_files.write_torch if options.format == "torch" else detector_files.write_onnx
    write(model, about, out, check_file)
    yield from lines


def _write_int8(weights: Path, model: SavedDetector, about: Metadata, out: Path, calibrate: Path | None) -> str:
    split = measurement.validation_split(weights, model)
    calibration, calibrated_on = images.for_calibration(weights, calibrate)

    def measure(*files: Path) -> dict[str, object]:
        timed = images.for_timing(weights, model.description.input_size)
        return measurement.measure(files, split, timed, calibrated_on, about.postprocess)

    return measurement.describe(detector_files.write_int8(model, about, out, calibration, measure))
