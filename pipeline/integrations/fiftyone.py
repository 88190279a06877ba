"""A FiftyOne dataset of detections and errors, and FiftyOne's App.

FiftyOne is imported in a separate process (`python -m pipeline.integrations.fiftyone`): the import takes seconds and
connects to the database, the process cleans up there when it exits, and FiftyOne writes into the home folder. The
process therefore runs only while the database does, with a home in `.fcos`.
"""

import filecmp
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from filelock import FileLock
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from pipeline.data import annotations
from pipeline.data import detections as results
from pipeline.data.annotations import Annotation, AnnotationSet, Image
from pipeline.errors import PipelineError
from pipeline.evaluation import error_kinds as errors
from pipeline.evaluation.error_kinds import ImageErrors, Verdict
from pipeline.files import atomic_replace, digest
from pipeline.inference.score_thresholds import thresholds_of_predictions
from pipeline.integrations import access, mongo, servers
from pipeline.integrations.fiftyone_editing import make_editable
from pipeline.params import Params
from pipeline.workspace import root, state_dir, workspace

# Saved views by their key in metrics/inspect.json: name in the App, description.
VIEWS = {
    "false_positives": ("False positives", "detections without an object, highest score first"),
    "missed_objects": ("Missed objects", "objects without a detection, most per image first"),
    "wrong_class": ("Wrong class", "detections of an object of another class, highest score first"),
    "poor_boxes": ("Poor boxes", "detections that overlap their object too little, highest score first"),
    "duplicates": ("Duplicates", "further detections of a detected object, highest score first"),
    "most_errors": ("Most errors", "images with errors, most first"),
}

_MAX_NAME = 80  # characters of a dataset's name; FiftyOne's limit is 100
_IN_DVC_CACHE = re.compile(r"/files/md5/[0-9a-f]{2}/[0-9a-f]{30}$")
_ERROR = 3  # exit status of the child process after a PipelineError


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """What a dataset is built from. Paths are absolute."""

    name: str  # of the dataset
    annotations: str
    predictions: str
    images: str  # folder that outlives the workspace, since FiftyOne stores its path
    score_thresholds: list[
        float
    ]  # lowest score of a detection of each category, in the order of the split's categories
    iou_threshold: float


def dataset_spec(params: Params) -> DatasetSpec:
    """The dataset of this workspace, named after the data set and DVC's experiment.

    Raises:
        PipelineError: a file is missing.
    """
    split, test = f"{params.inspect.split}.json", params.inspect.split == "test"
    experiment = os.environ.get("DVC_EXP_NAME")
    files = workspace() / "data/unified" / split, workspace() / "predictions" / split
    for file in files:
        if not file.is_file():
            other = " (data sets without objects in a test split have none: -S inspect.split=val)" if test else ""
            raise PipelineError(f"{file}: not there yet; run `dvc repro`{other}")
    truth = annotations.read(files[0])
    names = [category.name for category in truth.categories]
    name = _dataset_name("-".join(["fcos", params.dataset, *([experiment] if experiment else [])]))
    return DatasetSpec(
        name=name,
        annotations=str(files[0]),
        predictions=str(files[1]),
        images=str(_permanent_images(params.dataset, truth, name)),
        score_thresholds=thresholds_of_predictions(workspace(), names, params.inspect.score_threshold),
        iou_threshold=params.inspect.iou_threshold,
    )


def _dataset_name(name: str) -> str:
    """The name of a dataset: ASCII letters, digits and hyphens.

    FiftyOne limits the length, and refuses a name that differs from that of another dataset only in other characters,
    such as `o'brien` from `obrien`. A hash keeps such names apart.
    """
    if re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) and len(name) <= _MAX_NAME:
        return name
    plain = re.sub("[^a-z0-9]+", "-", name.lower())[:_MAX_NAME].strip("-")
    return f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _permanent_images(dataset: str, split: AnnotationSet, name: str) -> Path:
    """A folder with the split's images that outlives a temporary workspace.

    It is data/raw of the main repository if the images are the same there, otherwise copies in `.fcos/images/`.
    """
    current, permanent = workspace() / "data/raw" / dataset, root() / "data/raw" / dataset
    files = [image.file_name for image in split.images]
    if current.resolve() == permanent.resolve() or all(_equal(current / file, permanent / file) for file in files):
        return permanent
    copies = state_dir() / "images" / name
    with atomic_replace(copies) as folder:
        for file in files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(current / file, folder / file)
    return copies


def _equal(a: Path, b: Path) -> bool:
    return b.is_file() and filecmp.cmp(a, b, shallow=False)


def refresh(spec: DatasetSpec) -> dict[str, int]:
    """Builds the dataset if it is missing or out of date.

    Returns:
        The number of images in each saved view, by the keys of `VIEWS`.

    Raises:
        PipelineError: there is no database, or an input is invalid.
    """
    sizes: dict[str, int] = run_child("pipeline.integrations.fiftyone", spec.name, asdict(spec))
    return sizes


def run_child(module: str, name: str, spec: dict[str, Any]) -> Any:
    """Runs a module that imports FiftyOne; it reads the specification of a dataset and prints its result, both as JSON.

    Raises:
        PipelineError: as for `refresh`.
    """
    with (
        mongo.server() as uri,
        FileLock(state_dir() / "fiftyone.lock"),
        servers.supervised(
            [sys.executable, "-m", module],
            mongo.fiftyone_environment(uri),
            cwd=Path(__file__).resolve().parents[2],  # this code, also in a temporary workspace
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as child,
    ):
        output, messages = child.communicate(json.dumps(spec))
    if child.returncode:
        lines = messages.strip().splitlines() or ["no output"]
        raise PipelineError(lines[-1] if child.returncode == _ERROR else f"FiftyOne, dataset {name}: {lines[-1]}")
    return json.loads(output)


@contextmanager
def app(spec: DatasetSpec, port: int) -> Iterator[servers.Server]:
    """Runs FiftyOne's App on 127.0.0.1 with an up-to-date dataset; yields it once it responds.

    Raises:
        PipelineError: the port is in use, or `refresh` fails.
    """
    with serve(spec.name, port, lambda: refresh(spec)) as server:
        yield server


@contextmanager
def serve(name: str, port: int, build: Callable[[], object]) -> Iterator[servers.Server]:
    """Builds a dataset, then runs FiftyOne's App on 127.0.0.1; yields it once it responds with the dataset's page.

    Raises:
        PipelineError: the port is in use, or `build` fails.
    """
    servers.require_free_port(port)  # before the seconds that the dataset takes
    with mongo.server() as uri:
        build()
        with servers.run_server(
            "FiftyOne",
            "pipeline.integrations.fiftyone:server_app",
            port,
            page=f"/datasets/{quote(name)}",
            environment=mongo.fiftyone_environment(uri) | {"FIFTYONE_SERVER": "1"},
        ) as server:
            yield server


def server_app() -> ASGIApp:
    """FiftyOne's web application, for the user who started it; it serves no file but images of this project's datasets.

    Its route `/media` serves any file otherwise. FiftyOne's own server process adds nothing that is needed here.
    """
    mongo.shorten_fiftyone_import()
    from fiftyone.server.app import app
    from starlette.routing import Route

    (media,) = (route for route in app.routes if isinstance(route, Route) and route.path == "/media")
    media.app = _DatasetImages(media.app)
    return access.owner_only(app)


class _DatasetImages:
    """Passes requests for images of this project's datasets to FiftyOne's route `/media`, and answers 403 to others."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = Request(scope).query_params.get("filepath")
        allowed = path is None or await run_in_threadpool(lambda: is_dataset_image(path, _image_folders()))
        app = self.app if allowed else PlainTextResponse("403: not an image of a dataset\n", status_code=403)
        await app(scope, receive, send)


def _image_folders() -> list[Path]:
    """The folders of the datasets that `refresh` has built."""
    from fiftyone.core.odm import get_db_conn

    return [Path(folder) for folder in get_db_conn()["datasets"].distinct("info.images")]


def is_dataset_image(path: str, folders: Iterable[Path]) -> bool:
    """Whether the path is in one of the folders, and doesn't lead out of it through `..` or symbolic links.

    A link into DVC's cache is accepted: `cache.type symlink` makes all files of an output such links.
    """
    if "\0" in path:
        return False
    file, real = Path(os.path.normpath(path)), os.path.realpath(path)
    cached = _IN_DVC_CACHE.search(real) is not None
    return any(
        file.is_relative_to(folder) and (cached or Path(real).is_relative_to(folder.resolve())) for folder in folders
    )


def main() -> None:
    """The child process: reads a DatasetSpec as JSON from stdin, and writes the views' sizes as JSON to stdout."""
    spec = DatasetSpec(**json.load(sys.stdin))
    mongo.shorten_fiftyone_import()
    try:
        with redirect_stdout(sys.stderr):  # FiftyOne may print
            sizes = _refresh(spec)
    except PipelineError as error:
        print(error, file=sys.stderr)  # noqa: T201
        sys.exit(_ERROR)
    print(json.dumps(sizes))  # noqa: T201


def _refresh(spec: DatasetSpec) -> dict[str, int]:
    import fiftyone as fo

    stamp = _stamp(spec)
    if not fo.dataset_exists(spec.name) or fo.load_dataset(spec.name).info.get("stamp") != stamp:
        _build(spec, stamp)
    dataset = fo.load_dataset(spec.name)
    return {key: len(dataset.load_saved_view(name)) for key, (name, _) in VIEWS.items()}


def _stamp(spec: DatasetSpec) -> str:
    """Hash of everything that determines the dataset: inputs, thresholds and code."""
    files = [Path(spec.annotations), Path(spec.predictions), Path(__file__), Path(errors.__file__)]
    values = [spec.images, spec.score_thresholds, spec.iou_threshold, *(digest(file) for file in files)]
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def _build(spec: DatasetSpec, stamp: str) -> None:
    import fiftyone as fo

    truth = annotations.read(Path(spec.annotations))
    detections = results.read(Path(spec.predictions), truth)
    thresholds = {category.id: score for category, score in zip(truth.categories, spec.score_thresholds, strict=True)}
    judged = errors.analyze(truth, detections, score_threshold=thresholds, iou_threshold=spec.iou_threshold)
    dataset = fo.Dataset(spec.name, persistent=True, overwrite=True)
    _declare(dataset, [category.name for category in truth.categories])
    dataset.add_samples(_samples(truth, judged, Path(spec.images)))
    dataset.evaluate_detections(
        "predictions", gt_field="ground_truth", eval_key="eval", iou=spec.iou_threshold, iscrowd="ignored"
    )
    _save_views(dataset)
    # Last, so that a dataset whose build was interrupted is built again.
    dataset.info = {"stamp": stamp, "annotations_digest": digest(Path(spec.annotations)), **asdict(spec)}
    dataset.save()


def _declare(dataset: Any, classes: list[str]) -> None:
    """Declares the fields, so that views can use them even if the data set has no object."""
    import fiftyone as fo

    dataset.add_sample_field("errors", fo.IntField, description="wrong detections and missed objects")
    dataset.add_sample_field("image_id", fo.IntField)
    for name, kind in (("ground_truth", "found | missed | ignored"), ("predictions", " | ".join(errors.KINDS))):
        dataset.add_sample_field(name, fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
        dataset.add_sample_field(f"{name}.detections.error", fo.StringField, description=kind)
    dataset.add_sample_field("ground_truth.detections.ignored", fo.BooleanField, description="difficult or a crowd")
    make_editable(dataset, classes)
    dataset.default_classes = classes
    colors = {"ground_truth": "#3cb44b", "predictions": "#f58231"}
    dataset.app_config.color_scheme = fo.ColorScheme(
        color_by="field", fields=[{"path": path, "fieldColor": color} for path, color in colors.items()]
    )
    dataset.save()


def _samples(truth: AnnotationSet, judged: dict[int, ImageErrors], images: Path) -> list[Any]:
    import fiftyone as fo

    names = {category.id: category.name for category in truth.categories}
    objects = truth.by_image()
    return [
        fo.Sample(
            filepath=str(images / image.file_name),
            metadata=fo.ImageMetadata(width=image.width, height=image.height),
            image_id=image.id,
            errors=judged[image.id].count,
            ground_truth=fo.Detections(detections=_truth(image, objects[image.id], judged[image.id], names)),
            predictions=fo.Detections(detections=_predictions(image, judged[image.id].verdicts, names)),
        )
        for image in truth.images
    ]


def _truth(image: Image, objects: list[Annotation], judged: ImageErrors, names: dict[int, str]) -> list[Any]:
    import fiftyone as fo

    missed = {item.id for item in judged.missed}
    found = []
    for item in objects:
        ignored = bool(item.iscrowd or item.difficult)
        error = "ignored" if ignored else "missed" if item.id in missed else "found"
        box = _relative(item.bbox, image)
        found.append(
            fo.Detection(
                label=names[item.category_id],
                bounding_box=box,
                error=error,
                ignored=ignored,
                annotation_id=item.id,
            )
        )
    return found


def _predictions(image: Image, verdicts: Sequence[Verdict], names: dict[int, str]) -> list[Any]:
    import fiftyone as fo

    return [
        fo.Detection(
            label=names[verdict.detection.category_id],
            bounding_box=_relative(verdict.detection.bbox, image),
            confidence=verdict.detection.score,
            error=verdict.kind,
            overlap=verdict.iou,
        )
        for verdict in verdicts
    ]


def _relative(bbox: tuple[float, float, float, float], image: Image) -> list[float]:
    x, y, width, height = bbox
    return [x / image.width, y / image.height, width / image.width, height / image.height]


def _save_views(dataset: Any) -> None:
    from fiftyone import ViewField as F

    def predictions(kind: str) -> Any:
        view = dataset.filter_labels("predictions", F("error") == kind)
        return view.sort_by(F("predictions.detections.confidence").max(), reverse=True)

    missed = dataset.filter_labels("ground_truth", F("error") == "missed")
    views = {
        "false_positives": predictions("background"),
        "missed_objects": missed.sort_by(F("ground_truth.detections").length(), reverse=True),
        "wrong_class": predictions("wrong_class"),
        "poor_boxes": predictions("poor_box"),
        "duplicates": predictions("duplicate"),
        "most_errors": dataset.match(F("errors") > 0).sort_by("errors", reverse=True),
    }
    for key, (name, description) in VIEWS.items():
        dataset.save_view(name, views[key], description=description)


if __name__ == "__main__":
    main()
