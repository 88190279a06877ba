"""`fcos predict`: from its options to files and records."""

import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from fcos.inference import default_batch_size
from pipeline.data.image_files import PixelLimit
from pipeline.errors import PipelineError, count_noun
from pipeline.inference.device import choose_device
from pipeline.inference.postprocess import postprocess_of
from pipeline.inference.recorded_views import choose_views
from pipeline.inference.saved_detector import SavedDetector
from pipeline.inference.score_thresholds import score_thresholds
from pipeline.prediction.detector import ConfiguredDetector, only_classes
from pipeline.prediction.images import Prediction, predict_images
from pipeline.prediction.inputs import Inputs, find_inputs
from pipeline.prediction.options import Echo, Options
from pipeline.prediction.outputs import Outputs, parse_kinds
from pipeline.prediction.records import format_record, to_record
from pipeline.workspace import workspace


def run(arguments: Sequence[str], options: Options, echo: Echo) -> bool:
    """Detects objects in the files that arguments name, writes what options say, and prints a line for each file.

    Files that can't be read are reported on standard error, and the others are processed.

    Returns:
        Whether everything could be read.

    Raises:
        PipelineError: the detector, an option or the folder to write to is not usable.
    """
    kinds = parse_kinds(options.save)
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # as in arguments: a name may have any bytes
    inputs = find_inputs(arguments, options.folder, sys.stdin)
    for problem in inputs.problems:
        echo(f"fcos: {problem}", err=True)
    if not inputs.images and not inputs.videos:
        return False
    detector = _load(options, echo)
    # Everything that can be wrong is checked before the first image.
    run_videos = _prepare_videos(detector, inputs.videos, options, kinds, echo) if inputs.videos else None
    outputs = _outputs(options, kinds, detector.model, inputs)
    is_complete = _run_images(detector, inputs.images, outputs, options, echo) and not inputs.problems
    return (run_videos is None or run_videos()) and is_complete


def _run_images(
    detector: ConfiguredDetector, images: Sequence[Path], outputs: Outputs | None, options: Options, echo: Echo
) -> bool:
    """Detects objects in images, writes the outputs, and prints a line for each image."""
    failed = done = 0
    for item in _predict(detector, images, options.limit, outputs):
        if isinstance(item, PipelineError):
            failed += 1
            echo(f"fcos: {item}", err=True)
        else:
            done += 1
            record = to_record(item, detector.model.description.categories)
            echo(json.dumps(record, ensure_ascii=False) if options.as_json else format_record(record))
    if outputs and done:
        outputs.finish()
        has_pictures = "pictures" in outputs.kinds
        what = count_noun(done, "picture") if has_pictures else f"detections in {count_noun(done, 'image')}"
        echo(f"{what} in {outputs.out}", err=True)
    return not failed


def _prepare_videos(
    detector: ConfiguredDetector, videos: Sequence[Path], options: Options, kinds: Sequence[str], echo: Echo
) -> Callable[[], bool]:
    from pipeline.prediction import run_videos  # PyAV takes a fifth of a second

    return run_videos.prepare(detector, videos, options, kinds, echo)


def _load(options: Options, echo: Echo) -> ConfiguredDetector:
    """The detector with everything that the options say about it."""
    weights = options.weights or workspace() / "models/detector.safetensors"
    device = choose_device(options.device)
    model = SavedDetector.load(weights, device)
    postprocess = postprocess_of(
        model, max_detections=options.max_detections, nms_iou_threshold=options.nms_iou_threshold
    )
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
        options.batch or default_batch_size(model.description.input_size, device),
    )


def _outputs(options: Options, kinds: Sequence[str], model: SavedDetector, inputs: Inputs) -> Outputs | None:
    if options.folder is None:
        return None
    outputs = Outputs(options.folder, kinds, model.description.categories, options.images)
    outputs.prepare(inputs.images)
    return outputs


def _predict(
    detector: ConfiguredDetector, images: Sequence[Path], limit: PixelLimit, outputs: Outputs | None
) -> Iterator[Prediction | PipelineError]:
    """Detects objects in images, writes what belongs to each, and shows on a terminal how far it is."""
    found = predict_images(detector, images, limit)
    with tqdm(total=len(images), unit="image", disable=None, delay=1.0, dynamic_ncols=True) as bar:
        for item in found:
            if not isinstance(item, PipelineError):
                pixels, prediction = item
                if outputs:
                    outputs.add(pixels, prediction)
            bar.update()
            with bar.external_write_mode():  # lines are printed above the bar
                yield item if isinstance(item, PipelineError) else prediction
