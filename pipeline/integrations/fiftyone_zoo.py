"""Downloads data sets of FiftyOne's zoo and writes them in COCO's format: SPLIT/labels.json and SPLIT/images/….

As in `pipeline.integrations.fiftyone`, FiftyOne runs in a separate process while the database runs
(`python -m pipeline.integrations.fiftyone_zoo`). Image files are copied unchanged.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.errors import PipelineError
from pipeline.files import write_json
from pipeline.integrations import mongo, servers
from pipeline.params import ZooParams
from pipeline.workspace import state_dir

PREFIX = "fiftyone:"
ONLY_SPLIT = "all"  # the split of a data set without splits
_OBJECT_FIELDS = ("ground_truth", "detections")  # the fields with the objects, in order of preference
# Attributes of regions with many objects, in COCO and in Open Images.
_CROWD_ATTRIBUTES = ("iscrowd", "IsGroupOf")


def fetch(name: str, options: ZooParams, into: Path) -> Sequence[Path]:
    """Downloads a data set of the zoo and writes it into the folder `into`.

    Returns:
        FiftyOne's download, which may be removed afterwards; nothing if the user keeps downloads in
        FIFTYONE_DATASET_ZOO_DIR.

    Raises:
        PipelineError: the zoo doesn't have the data set, it can't be downloaded, or it has no boxes.
    """
    if not name or "/" in name or name.startswith("."):
        raise PipelineError(f"dataset: {PREFIX}{name}: give a name that `fiftyone zoo datasets list` has")
    user_folder = os.environ.get("FIFTYONE_DATASET_ZOO_DIR")
    home = Path(user_folder) if user_folder else state_dir() / "downloads/fiftyone"
    request = {"name": name, "into": str(into.absolute()), **asdict(options)}
    with mongo.server() as uri:
        _run(request, {**mongo.fiftyone_environment(uri), "FIFTYONE_DATASET_ZOO_DIR": str(home.absolute())})
    return () if user_folder else (home / name,)


def _run(request: dict[str, Any], environment: dict[str, str]) -> None:
    with servers.supervised(
        [sys.executable, "-m", "pipeline.integrations.fiftyone_zoo"],
        environment,
        cwd=Path(__file__).resolve().parents[2],  # this code, also in a temporary workspace
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,  # FiftyOne shows its progress on stderr
        text=True,
    ) as child:
        output, _ = child.communicate(json.dumps(request))
    if child.returncode:
        lines = output.strip().splitlines() or [f"the process ended with status {child.returncode}"]
        raise PipelineError(f"{PREFIX}{request['name']}: {lines[-1]}")


def main() -> None:
    """The child: what is asked for as JSON on standard input; on an error its one line on standard output."""
    request = json.load(sys.stdin)
    mongo.shorten_fiftyone_import()
    try:
        with redirect_stdout(sys.stderr):  # FiftyOne may print
            _fetch(
                request["name"], Path(request["into"]), request["splits"], request["classes"], request["max_samples"]
            )
    except Exception as error:  # noqa: BLE001
        # The data sets of the zoo have different loaders, which raise all kinds of exceptions.
        kind = "" if isinstance(error, PipelineError) else f"{type(error).__name__}: "
        print(kind + " ".join(str(error).split()))  # noqa: T201
        sys.exit(1)


def _fetch(name: str, into: Path, splits: list[str] | None, classes: list[str] | None, max_samples: int | None) -> None:
    import fiftyone as fo
    from fiftyone import zoo

    if name not in zoo.list_zoo_datasets():
        raise PipelineError("FiftyOne's zoo has no such data set; `fiftyone zoo datasets list` shows its names")
    arguments = {"splits": splits, "classes": classes, "max_samples": max_samples}
    if name.startswith("open-images"):
        # Otherwise FiftyOne also downloads masks, points and relations, and images with nothing else.
        arguments["label_types"] = ["detections"]
    dataset = zoo.load_zoo_dataset(
        name,
        dataset_name=f"download-{name}-{os.getpid()}",
        progress=sys.stderr.isatty(),
        **{key: value for key, value in arguments.items() if value is not None},
    )
    try:
        write_coco(dataset, into, splits or zoo.get_zoo_dataset(name).supported_splits, classes, max_samples)
    finally:
        fo.delete_dataset(dataset.name)


def write_coco(
    dataset: Any, into: Path, splits: Sequence[str] | None, classes: Sequence[str] | None, max_samples: int | None
) -> None:
    """Writes a FiftyOne dataset in COCO's format, a folder per split that has labels.

    Args:
        splits: tags of its samples; None if it has no splits.
        classes: write only images with an object of these classes, with all their objects; None: all images. The list
            of categories stays complete.
        max_samples: maximum number of images per split, the first by name; None: all.

    Raises:
        PipelineError: the dataset has no images with boxes, or none of them is selected.
    """
    if dataset.media_type != "image":
        raise PipelineError(f"a data set of media type {dataset.media_type}; only images are supported")
    field = _field(dataset)
    names = _classes(dataset, field)
    written = 0
    for split in splits or (ONLY_SPLIT,):
        view = dataset.match_tags(split) if splits else dataset
        rows = _labeled_images(view, field, classes)[:max_samples]
        if rows:
            written += len(rows)
            _write(rows, into / split, names)
        else:
            print(f"split {split} is left out: it has no labeled image that is selected", file=sys.stderr)  # noqa: T201
    if not written:
        raise PipelineError("no image with labels is left; see download.zoo.splits and download.zoo.classes")


def _field(dataset: Any) -> str:
    """The name of the field with the objects.

    Raises:
        PipelineError: there is no such field, or several.
    """
    import fiftyone as fo

    fields = list(dataset.get_field_schema(embedded_doc_type=fo.Detections))
    if field := next((name for name in _OBJECT_FIELDS if name in fields), None):
        return field
    if len(fields) == 1:
        return str(fields[0])
    others = ", ".join(dataset.get_field_schema(embedded_doc_type=fo.Label)) or "none"
    if not fields:
        raise PipelineError(f"it has no boxes to learn from (fields with labels: {others}); choose another data set")
    raise PipelineError(f"boxes in several fields, {', '.join(fields)}; none is called {' or '.join(_OBJECT_FIELDS)}")


def _classes(dataset: Any, field: str) -> list[str]:
    """The data set's list of classes, followed by further labels of its objects."""
    listed = list(dataset.classes.get(field) or dataset.default_classes or [])
    used = dataset.distinct(f"{field}.detections.label")
    return [*listed, *sorted(set(used) - set(listed))]


def _labeled_images(view: Any, field: str, classes: Sequence[str] | None) -> list[tuple[str, list[Any]]]:
    """Path and objects of each image, sorted by path; empty if no image of the split is labeled."""
    rows = [(str(sample.filepath), sample[field]) for sample in view.select_fields(field).iter_samples()]
    if all(label is None for _, label in rows):
        return []  # a test set without ground truth is not a set of empty images
    images = sorted(((path, label.detections if label else []) for path, label in rows), key=lambda row: row[0])
    return [row for row in images if classes is None or {item.label for item in row[1]} & set(classes)]


def _write(rows: Sequence[tuple[str, list[Any]]], folder: Path, names: Sequence[str]) -> None:
    numbers = {name: number for number, name in enumerate(names, 1)}
    base = os.path.commonpath([Path(path).parent for path, _ in rows])
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for number, (path, labels) in enumerate(rows, 1):
        name = Path(path).relative_to(base).as_posix()
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / "images" / name)
        with Image.open(path) as opened:
            width, height = opened.size
        images.append({"id": number, "file_name": f"images/{name}", "width": width, "height": height})
        objects.extend(_object(label, number, numbers[label.label], (width, height)) for label in labels)
    annotations = [{"id": number, **record} for number, record in enumerate(objects, 1)]
    categories = [{"id": number, "name": name} for name, number in numbers.items()]
    write_json(folder / "labels.json", {"categories": categories, "images": images, "annotations": annotations})


def _object(label: Any, image: int, category: int, size: tuple[int, int]) -> dict[str, Any]:
    x, y, width, height = label.bounding_box
    box = [x * size[0], y * size[1], width * size[0], height * size[1]]
    record = {"image_id": image, "category_id": category, "bbox": box, "area": box[2] * box[3]}
    record["iscrowd"] = int(_is_set(label, _CROWD_ATTRIBUTES))
    return record | ({"difficult": 1} if _is_set(label, ("difficult",)) else {})


def _is_set(label: Any, attributes: Iterable[str]) -> bool:
    """Whether one of the attributes is true; importers store it as a number, a boolean or a string."""
    return any(label.has_field(name) and str(label[name]).lower() in ("1", "1.0", "true") for name in attributes)


if __name__ == "__main__":
    main()
