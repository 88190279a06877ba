"""What an evaluation compares: ground truth and detections, of files in any form or of this project's experiments."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from fcos import description
from fcos.config import InputSize
from pipeline.data import detections as results
from pipeline.data.annotations import AnnotationSet
from pipeline.data.detections import Detection, read_bytes
from pipeline.errors import PipelineError, count_noun, describe_record_error
from pipeline.evaluation import ground_truth, report, result_files, truth_files
from pipeline.evaluation.operating_point import OperatingPoints
from pipeline.evaluation.report import Report
from pipeline.params import load_postprocess

_POINTS = TypeAdapter(OperatingPoints)


@dataclass(frozen=True)
class Inputs:
    """Ground truth and detections, and what is known of the detector."""

    truth: AnnotationSet
    detections: Sequence[Detection]
    truth_source: str  # file and format, for people
    detections_source: str
    chosen: OperatingPoints | None = None  # on other images
    input_size: InputSize | None = None
    max_detections: int | None = None

    def evaluate(self) -> Report:
        return report.evaluate(
            self.truth,
            self.detections,
            chosen=self.chosen,
            input_size=self.input_size,
            max_detections=self.max_detections,
        )

    def protocol(self, *metrics: str) -> dict[str, str]:
        """What was compared, and by the rules of which metrics, for people."""
        objects = [item for item in self.truth.annotations if not (item.iscrowd or item.difficult)]
        counts = (
            count_noun(len(self.truth.images), "image"),
            count_noun(len(objects), "object"),
            f"{len(self.truth.annotations) - len(objects)} ignored (crowds, difficult)",
            count_noun(len(self.truth.categories), "class", "classes"),
        )
        return {
            "ground_truth": f"{self.truth_source}: {', '.join(counts)}",
            "detections": f"{self.detections_source}: {len(self.detections)}",
            **{metric: describe(metric) for metric in metrics},
        }


def describe(metric: str) -> str:
    """The protocol of `coco` or `voc` in a line."""
    if metric == "coco":
        return (
            f"COCO by pycocotools {version('pycocotools')}: IoU 0.50 to 0.95, precision at 101 recalls, at most 100 "
            "detections of a class in an image"
        )
    return (
        "VOC's development kit: IoU 0.50, all detections; precision at 11 recalls (VOC2007), or the area under the "
        "curve (VOC2010 and later)"
    )


def of_files(
    truth_path: Path,
    detections_path: Path,
    *,
    format: str = "auto",
    split: str | None = None,
    images: Path | None = None,
    overrides: Sequence[str] = (),
    input_size: tuple[int, int] | None = None,
    max_detections: int | None = None,
) -> Inputs:
    """Files and folders in any form; see `truth_files.read` and `result_files.read`.

    Raises:
        PipelineError: they can't be read, or don't belong together.
    """
    truth = truth_files.read(truth_path, format=format, split=split, images=images, overrides=overrides)
    found = result_files.read(detections_path, truth)
    return Inputs(
        truth.annotations,
        found.detections,
        f"{truth_path} ({truth.format})",
        f"{detections_path} ({found.format})",
        input_size=_to_input_size(input_size) if input_size else None,
        max_detections=max_detections,
    )


def _to_input_size(size: tuple[int, int]) -> InputSize:
    try:
        return InputSize(size)
    except ValueError as error:
        raise PipelineError(f"--input-size: {error}") from None


def of_experiment(find: Callable[[str], Path], split: str = "val", name: str | None = None) -> Inputs:
    """The ground truth and detections of an experiment of this project, as its evaluate stage compared them.

    Args:
        find: the place of a file, by its path in the project: `workspace().joinpath` for the workspace.
        name: of the experiment, for people; by default, they read the places of its files.

    Raises:
        PipelineError: a file is missing or invalid.
    """
    truth_file, detections_file = f"data/unified/{split}.json", f"predictions/{split}.json"
    truth_path, detections_path = find(truth_file), find(detections_file)
    for path in (truth_path, detections_path):
        if not path.is_file():
            reason = "" if split == "val" else f", unless the data set has no {split} split"
            raise PipelineError(f"{path}: not there yet; run `dvc repro`{reason}, or give --gt and --dets")
    truth = ground_truth.read(truth_path)
    postprocess = load_postprocess(find("params.yaml"))
    return Inputs(
        truth,
        results.read(detections_path, truth),
        f"{name}: {truth_file}" if name else str(truth_path),
        f"{name}: {detections_file}" if name else str(detections_path),
        chosen=read_points(find("predictions/operating_point.json")) if split != "val" else None,
        input_size=_read_input_size(find("models/detector.json")),
        max_detections=postprocess.max_detections if postprocess else None,
    )


def read_points(path: Path) -> OperatingPoints:
    """Reads predictions/operating_point.json.

    Raises:
        PipelineError: the file is invalid.
    """
    try:
        return _POINTS.validate_json(read_bytes(path), strict=True)
    except ValidationError as error:
        raise PipelineError(f"{path}: {describe_record_error(error)}; run `dvc repro -f evaluate`") from None


def _read_input_size(path: Path) -> InputSize:
    try:
        return description.from_json(read_bytes(path))[0].input_size
    except ValueError as error:
        raise PipelineError(f"{path}: {error}") from None
