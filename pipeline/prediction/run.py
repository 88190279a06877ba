"""`fcos predict`: from its options to files and records."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from pipeline.data.image_files import PixelLimit
from pipeline.errors import PipelineError, count_noun
from pipeline.inference.device import choose_device
from pipeline.inference.postprocess import project_postprocess
from pipeline.inference.recorded_views import choose_views
from pipeline.inference.saved_detector import SavedDetector
from pipeline.inference.score_thresholds import score_thresholds
from pipeline.prediction.detector import ConfiguredDetector, only_classes
from pipeline.prediction.images import Prediction, predict_images
from pipeline.prediction.inputs import Inputs, find_inputs
from pipeline.prediction.outputs import Outputs, parse_kinds
from pipeline.prediction.records import format_record, to_record
from pipeline.workspace import workspace

_BATCH_SIZES = {"cpu": 1, "cuda": 8}  # default by device


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of the command."""

    weights: Path | None
    out: Path | None
    save: str | None
    images: str
    as_json: bool
    classes: str | None
    score: float | None
    max_detections: int | None
    nms_iou_threshold: float | None
    batch: int | None
    sizes: tuple[tuple[int, int], ...]
    flip: bool | None
    tiles: tuple[int, float] | None
    merge: Literal["nms", "wbf"] | None
    plain: bool
    max_megapixels: float
    device: str

    @property
    def folder(self) -> Path | None:
        """The folder to write to."""
        return self.out or (None if self.as_json and self.save is None else Path("predicted"))


Echo = Callable[..., None]  # prints a line, as click.echo does


def run(arguments: Sequence[str], options: Options, echo: Echo) -> bool:
    """Detects objects in the files that arguments name, writes what options say, and prints a line for each file.

    Files that can't be read are reported on standard error, and the others are processed.

    Returns:
        Whether everything could be read.

    Raises:
        PipelineError: the detector, an option or the folder to write to is not usable.
    """
    kinds = parse_kinds(options.save)
    inputs = find_inputs(arguments, options.folder, sys.stdin)
    problems = [*inputs.problems, *(f"{path}: is a video" for path in inputs.videos)]
    for problem in problems:
        echo(f"fcos: {problem}", err=True)
    if not inputs.images:
        return False
    detector = _load(options, echo)
    outputs = _outputs(options, kinds, detector.model, inputs)
    failed, done = len(problems), 0
    for item in _predict(detector, inputs, PixelLimit(options.max_megapixels, "--max-megapixels "), outputs):
        if isinstance(item, PipelineError):
            failed += 1
            echo(f"fcos: {item}", err=True)
        else:
            done += 1
            record = to_record(item, detector.model.description.categories)
            echo(json.dumps(record, ensure_ascii=False) if options.as_json else format_record(record))
    if outputs and done:
        outputs.finish()
        echo(f"{count_noun(done, 'picture')} in {outputs.out}", err=True)
    return not failed


def _load(options: Options, echo: Echo) -> ConfiguredDetector:
    """The detector with everything that the options say about it."""
    postprocess = project_postprocess(
        max_detections=options.max_detections, nms_iou_threshold=options.nms_iou_threshold
    )
    weights = options.weights or workspace() / "models/detector.safetensors"
    device = choose_device(options.device)
    model = SavedDetector.load(weights, device)
    thresholds = score_thresholds(weights, model.class_names, options.score)
    chosen: dict[str, Any] = {name: getattr(options, name) for name in ("flip", "tiles", "merge")}
    views, note = choose_views(weights, plain=options.plain, score=options.score, sizes=options.sizes or None, **chosen)
    if note:
        echo(f"fcos: {note}", err=True)
    return ConfiguredDetector(
        model,
        only_classes(thresholds, model.class_names, options.classes),
        postprocess,
        views,
        options.batch or _BATCH_SIZES[device.type],
    )


def _outputs(options: Options, kinds: Sequence[str], model: SavedDetector, inputs: Inputs) -> Outputs | None:
    if options.folder is None:
        return None
    outputs = Outputs(options.folder, kinds, model.description.categories, options.images)
    outputs.prepare(inputs.images)
    return outputs


def _predict(
    detector: ConfiguredDetector, inputs: Inputs, limit: PixelLimit, outputs: Outputs | None
) -> Iterator[Prediction | PipelineError]:
    """Detects objects in images, writes what belongs to each, and shows on a terminal how far it is."""
    found = predict_images(detector, inputs.images, limit)
    with tqdm(total=len(inputs.images), unit="image", disable=None, delay=1.0, dynamic_ncols=True) as bar:
        for item in found:
            if not isinstance(item, PipelineError):
                pixels, prediction = item
                if outputs:
                    outputs.add(pixels, prediction)
            bar.update()
            with bar.external_write_mode():  # lines are printed above the bar
                yield item if isinstance(item, PipelineError) else prediction
