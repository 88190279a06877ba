"""Data sets of FiftyOne's zoo, brought into COCO's layout: SPLIT/labels.json and SPLIT/images/….

FiftyOne runs in a process of its own (`python -m pipeline.integrations.fiftyone_zoo`), within our database's life, as
in `pipeline.integrations.fiftyone`. Images are copied as they are; boxes go from shares of the image to pixels.
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
from pipeline.integrations import mongo
from pipeline.params import ZooParams
from pipeline.workspace import state_dir

PREFIX = "fiftyone:"
ONLY_SPLIT = "all"  # the split of a data set without any
_FIELDS = ("ground_truth", "detections")  # where the zoo's data sets have their objects, the likeliest first
# Regions of many objects: COCO's own word, and Open Images'.
_CROWD = ("iscrowd", "IsGroupOf")


def fetch(name: str, wanted: ZooParams, into: Path) -> Sequence[Path]:
    """Downloads a data set of the zoo and writes it into the folder `into`.

    Returns:
        FiftyOne's own copy, which nobody needs any more; nothing where the person keeps a zoo of theirs, in
        FIFTYONE_DATASET_ZOO_DIR.

    Raises:
        PipelineError: the zoo doesn't have it, it can't be had, or it has no boxes.
    """
    if not name or "/" in name or name.startswith("."):
        raise PipelineError(f"dataset: {PREFIX}{name}: give a name that `fiftyone zoo datasets list` has")
    theirs = os.environ.get("FIFTYONE_DATASET_ZOO_DIR")
    home = Path(theirs) if theirs else state_dir() / "downloads/fiftyone"
    asked = {"name": name, "into": str(into.absolute()), **asdict(wanted)}
    with mongo.server() as uri:
        _run(asked, {**mongo.fiftyone_environment(uri), "FIFTYONE_DATASET_ZOO_DIR": str(home.absolute())})
    return () if theirs else (home / name,)


def _run(asked: dict[str, Any], environment: dict[str, str]) -> None:
    child = subprocess.run(
        [sys.executable, "-m", "pipeline.integrations.fiftyone_zoo"],
        input=json.dumps(asked),
        env=environment,
        cwd=Path(__file__).resolve().parents[2],  # the same code as ours, also in a temporary workspace
        stdout=subprocess.PIPE,  # on standard error FiftyOne shows how far it is
        text=True,
        check=False,
    )
    if child.returncode:
        told = child.stdout.strip().splitlines() or [f"its process ended with status {child.returncode}"]
        raise PipelineError(f"{PREFIX}{asked['name']}: {told[-1]}")


def main() -> None:
    """The child: what is asked for as JSON on standard input; on an error its one line on standard output."""
    asked = json.load(sys.stdin)
    try:
        with redirect_stdout(sys.stderr):  # where FiftyOne may chat
            _fetch(asked["name"], Path(asked["into"]), asked["splits"], asked["classes"], asked["max_samples"])
    except Exception as error:  # noqa: BLE001
        # Each data set of the zoo has a loader of its own, and they raise anything.
        kind = "" if isinstance(error, PipelineError) else f"{type(error).__name__}: "
        print(kind + " ".join(str(error).split()))  # noqa: T201
        sys.exit(1)


def _fetch(name: str, into: Path, splits: list[str] | None, classes: list[str] | None, samples: int | None) -> None:
    import fiftyone as fo
    from fiftyone import zoo

    if name not in zoo.list_zoo_datasets():
        raise PipelineError("FiftyOne's zoo has no such data set; `fiftyone zoo datasets list` shows its names")
    wanted = {"splits": splits, "classes": classes, "max_samples": samples}
    if name.startswith("open-images"):
        # Else FiftyOne fetches masks, points and relations too, and counts images that have nothing but those.
        wanted["label_types"] = ["detections"]
    dataset = zoo.load_zoo_dataset(
        name,
        dataset_name=f"download-{name}-{os.getpid()}",
        progress=sys.stderr.isatty(),
        **{key: value for key, value in wanted.items() if value is not None},
    )
    try:
        write_coco(dataset, into, splits or zoo.get_zoo_dataset(name).supported_splits, classes, samples)
    finally:
        fo.delete_dataset(dataset.name)


def write_coco(
    dataset: Any, into: Path, splits: Sequence[str] | None, classes: Sequence[str] | None, samples: int | None
) -> None:
    """Writes a FiftyOne dataset in COCO's layout, a folder for each split that has labels.

    Args:
        splits: tags of its samples; None: it has none.
        classes: only images with an object of these, all their objects; None: all. The class list stays whole.
        samples: at most so many images of each split, the first by name; None: all.

    Raises:
        PipelineError: it is no data set of images with boxes, or no image is left.
    """
    if dataset.media_type != "image":
        raise PipelineError(f"a data set of media type {dataset.media_type}; only images are detected on")
    field = _field(dataset)
    names = _classes(dataset, field)
    written = 0
    for split in splits or (ONLY_SPLIT,):
        view = dataset.match_tags(split) if splits else dataset
        found = _labeled(view, field, classes)
        if found:
            written += len(found[:samples])
            _write(found[:samples], into / split, names)
        else:
            print(f"split {split} has no labeled image that is asked for; left out", file=sys.stderr)  # noqa: T201
    if not written:
        raise PipelineError("no image with labels is left; see download.zoo.splits and download.zoo.classes")


def _field(dataset: Any) -> str:
    """The field that objects are in.

    Raises:
        PipelineError: there is none, or no telling which.
    """
    import fiftyone as fo

    fields = list(dataset.get_field_schema(embedded_doc_type=fo.Detections))
    if chosen := next((name for name in _FIELDS if name in fields), None):
        return chosen
    if len(fields) == 1:
        return str(fields[0])
    others = ", ".join(dataset.get_field_schema(embedded_doc_type=fo.Label)) or "none"
    if not fields:
        raise PipelineError(f"it has no boxes to learn from (fields with labels: {others}); choose another data set")
    raise PipelineError(f"boxes in several fields, {', '.join(fields)}; none is called {' or '.join(_FIELDS)}")


def _classes(dataset: Any, field: str) -> list[str]:
    """The data set's own list, and after it whatever its objects are called besides."""
    own = list(dataset.classes.get(field) or dataset.default_classes or [])
    used = dataset.distinct(f"{field}.detections.label")
    return [*own, *sorted(set(used) - set(own))]


def _labeled(view: Any, field: str, classes: Sequence[str] | None) -> list[tuple[str, list[Any]]]:
    """Path and objects of each image, by path; none at all where not one image of the split was labeled."""
    rows = [(str(sample.filepath), sample[field]) for sample in view.select_fields(field).iter_samples()]
    if all(label is None for _, label in rows):
        return []  # a test set without its truth is no set of empty images
    found = sorted(((path, label.detections if label else []) for path, label in rows), key=lambda row: row[0])
    return [row for row in found if classes is None or {item.label for item in row[1]} & set(classes)]


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
    annotations = [{"id": number, **found} for number, found in enumerate(objects, 1)]
    categories = [{"id": number, "name": name} for name, number in numbers.items()]
    write_json(folder / "labels.json", {"categories": categories, "images": images, "annotations": annotations})


def _object(label: Any, image: int, category: int, size: tuple[int, int]) -> dict[str, Any]:
    x, y, width, height = label.bounding_box
    box = [x * size[0], y * size[1], width * size[0], height * size[1]]
    found = {"image_id": image, "category_id": category, "bbox": box, "area": box[2] * box[3]}
    found["iscrowd"] = int(_is(label, _CROWD))
    return found | ({"difficult": 1} if _is(label, ("difficult",)) else {})


def _is(label: Any, attributes: Iterable[str]) -> bool:
    """Whether one of the attributes says yes; importers write it as a number, a truth value or text."""
    return any(label.has_field(name) and str(label[name]).lower() in ("1", "1.0", "true") for name in attributes)


if __name__ == "__main__":
    main()
