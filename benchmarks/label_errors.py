"""Planted label errors: how many `fcos cross-check` ranks first. `python -m benchmarks.label_errors FOLDER`.

The training scenes of `digits` with 5 % of the labels changed in each of four ways. FOLDER becomes a clone of the last
commit, in which the cross-check trains its folds; run again with the same folder, it continues. A dated card is
written.

With `--val DRAWS`, nothing is trained: the errors are planted, as many times, in the val labels of a project that has
been evaluated, FOLDER. Its detector has learned from correct labels, so more is found. To compare ways of ranking.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.harness import context, save_card, today

Kind = Literal["missing", "spurious", "wrong_class", "poor_box"]
KINDS: tuple[Kind, ...] = ("missing", "spurious", "wrong_class", "poor_box")
REQUIRED: Mapping[Kind, float] = {"missing": 0.6, "spurious": 0.5, "wrong_class": 0.7, "poor_box": 0.5}
SHARE = 0.05  # of the labels, for each kind
POOR_IOU = (0.3, 0.7)  # of a badly drawn box with the object
MAX_SPURIOUS_IOU = 0.1  # with any object
FOLDS = 3
SETTINGS = ("train.epochs=13", "train.validate_every=13", "machine.device=cpu")

Box = tuple[float, float, float, float]  # x, y, width, height in pixels


@dataclass(frozen=True)
class Label:
    image: int  # id
    category: int  # id
    box: Box


@dataclass(frozen=True)
class Planted:
    """One error: the label that is wrong, or the one that is missing."""

    kind: Kind
    label: Label


def plant(
    labels: Sequence[Label], sizes: Mapping[int, tuple[int, int]], categories: Sequence[int], rng: np.random.Generator
) -> tuple[list[Label], list[Planted]]:
    """Labels with errors, and the errors; no label has two of them.

    Args:
        sizes: width and height of each image by its id.
        categories: the ids of all classes.
    """
    count = round(SHARE * len(labels))
    parts = np.split(rng.permutation(len(labels))[: 3 * count], 3)
    kinds: tuple[Kind, ...] = ("missing", "wrong_class", "poor_box")
    chosen = {int(index): kind for kind, part in zip(kinds, parts, strict=True) for index in part}
    changed: list[Label] = []
    planted: list[Planted] = []
    for index, label in enumerate(labels):
        kind = chosen.get(index)
        if kind == "wrong_class":
            label = replace(label, category=int(rng.choice([item for item in categories if item != label.category])))
        elif kind == "poor_box":
            label = replace(label, box=_draw_badly(label.box, sizes[label.image], rng))
        if kind:
            planted.append(Planted(kind, label))
        if kind != "missing":
            changed.append(label)
    spurious = [_add_spurious(labels, sizes, categories, rng) for _ in range(count)]
    return changed + spurious, planted + [Planted("spurious", label) for label in spurious]


def _draw_badly(box: Box, size: tuple[int, int], rng: np.random.Generator) -> Box:
    """The box with its sides moved by up to half its width and height, until the IoU with it is in POOR_IOU."""
    x, y, width, height = box
    while True:
        left, right = x + width * rng.uniform(-0.5, 0.5), x + width * (1 + rng.uniform(-0.5, 0.5))
        top, bottom = y + height * rng.uniform(-0.5, 0.5), y + height * (1 + rng.uniform(-0.5, 0.5))
        left, right = (float(np.clip(value, 0, size[0]).round()) for value in (left, right))
        top, bottom = (float(np.clip(value, 0, size[1]).round()) for value in (top, bottom))
        moved = (left, top, right - left, bottom - top)
        if min(moved[2:]) >= 2 and POOR_IOU[0] <= iou(moved, box) <= POOR_IOU[1]:
            return moved


def _add_spurious(
    labels: Sequence[Label], sizes: Mapping[int, tuple[int, int]], categories: Sequence[int], rng: np.random.Generator
) -> Label:
    """A label of a random class, as large as a random object, in a random image, where no object is."""
    while True:
        image = int(rng.choice(list(sizes)))
        width, height = labels[int(rng.integers(len(labels)))].box[2:]
        if width > sizes[image][0] or height > sizes[image][1]:
            continue
        x, y = (
            float(rng.integers(0, int(side - length) + 1))
            for side, length in zip(sizes[image], (width, height), strict=True)
        )
        box = (x, y, width, height)
        if all(iou(box, label.box) <= MAX_SPURIOUS_IOU for label in labels if label.image == image):
            return Label(image, categories[int(rng.integers(len(categories)))], box)


def iou(a: Box, b: Box) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def precision(kind: Kind, planted: Iterable[Planted], found: Iterable[Label]) -> float:
    """The share of planted errors of a kind among as many first candidates of that kind.

    Args:
        found: the label of each candidate, or the proposed one if it is missing; best first.
    """
    errors = {item.label for item in planted if item.kind == kind}
    count, correct = len(errors), 0
    for candidate in list(found)[:count]:
        matching = {label for label in errors if _is_found(kind, label, candidate)}
        correct += bool(matching)
        errors -= matching
    return correct / count


def _is_found(kind: Kind, error: Label, candidate: Label) -> bool:
    if kind != "missing":
        return error == candidate
    return error.image == candidate.image and iou(error.box, candidate.box) >= 0.5


def make_project(folder: Path) -> None:
    """A clone of this project's last commit, with the changed labels as its data set and what was planted beside it."""
    from pipeline import params
    from pipeline.datasets import digits

    root = Path(__file__).parent.parent
    subprocess.run(["git", "clone", "--quiet", root, folder], check=True)
    for key, value in (("user.name", "benchmark"), ("user.email", "benchmark@example.org")):
        subprocess.run(["git", "-C", folder, "config", key, value], check=True)
    file = folder / "params.yaml"
    file.write_text(file.read_text().replace("dataset: digits", "dataset: custom", 1))
    made = folder / "made"
    digits.make(params.load(file), made)
    coco = json.loads((made / "annotations/train.json").read_text())
    labels = [Label(item["image_id"], item["category_id"], tuple(item["bbox"])) for item in coco["annotations"]]
    sizes = {item["id"]: (item["width"], item["height"]) for item in coco["images"]}
    categories = [item["id"] for item in coco["categories"]]
    changed, planted = plant(labels, sizes, categories, np.random.default_rng(0))
    coco["annotations"] = [_to_coco(number, label) for number, label in enumerate(changed, start=1)]
    data = folder / "data/custom"
    (data / "annotations").mkdir()
    (data / "annotations/train.json").write_text(json.dumps(coco))
    shutil.move(made / "images/train", data / "images/train")
    shutil.rmtree(made)
    (folder / "planted.json").write_text(json.dumps([asdict(item) for item in planted]))


def _to_coco(number: int, label: Label) -> dict[str, Any]:
    area = label.box[2] * label.box[3]
    return {
        "id": number, "image_id": label.image, "category_id": label.category, "bbox": label.box, "area": area,
        "iscrowd": 0,
    }  # fmt: skip


def read_planted(folder: Path) -> list[Planted]:
    records = json.loads((folder / "planted.json").read_text())
    return [
        Planted(item["kind"], Label(item["label"]["image"], item["label"]["category"], tuple(item["label"]["box"])))
        for item in records
    ]


def read_candidates(folder: Path) -> dict[Kind, list[Label]]:
    """The labels of the candidates of each kind, best first."""
    labels: dict[tuple[str, int], Label] = {}
    images: dict[tuple[str, int], int] = {}
    coco = json.loads((folder / "data/custom/annotations/train.json").read_text())
    original = {Path(item["file_name"]).name: item["id"] for item in coco["images"]}
    for split in ("train", "val"):
        unified = json.loads((folder / f"data/unified/{split}.json").read_text())
        images |= {(split, item["id"]): original[Path(item["file_name"]).name] for item in unified["images"]}
        for item in unified["annotations"]:
            box = tuple(item["bbox"])
            labels[split, item["id"]] = Label(images[split, item["image_id"]], item["category_id"], box)
    found: dict[Kind, list[Label]] = {kind: [] for kind in KINDS}
    for item in json.loads((folder / "reports/label_errors.json").read_text()):
        label = labels.get((item["split"], item["annotation_id"]))
        found[item["kind"]].append(label or Label(images[item["split"], item["image_id"]], 0, tuple(item["bbox"])))
    return found


def run(folder: Path) -> float:
    """Runs conversion and the cross-check; returns the CPU time that they took, in minutes."""
    programs = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    options = [word for setting in SETTINGS for word in ("-S", setting)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for command in (["dvc", "repro", "convert"], ["fcos", "cross-check", "--folds", str(FOLDS), *options]):
        subprocess.run([programs / command[0], *command[1:]], cwd=folder, env=environment, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 60


def measure_val(project: Path, draws: int) -> dict[Kind, list[float]]:
    """The precision of each draw, for errors planted in the val labels of a project."""
    from pipeline.analysis import label_errors
    from pipeline.data import annotations, detections
    from pipeline.data.annotations import Annotation

    truth = annotations.read(project / "data/unified/val.json")
    found = detections.read(project / "predictions/val.json", truth)
    labels = [Label(item.image_id, item.category_id, item.bbox) for item in truth.annotations]
    sizes = {image.id: (image.width, image.height) for image in truth.images}
    categories = [category.id for category in truth.categories]
    precisions: dict[Kind, list[float]] = {kind: [] for kind in KINDS}
    for seed in range(draws):
        changed, planted = plant(labels, sizes, categories, np.random.default_rng(seed))
        by_id = dict(enumerate(changed, start=1))
        items = (
            Annotation(number, label.image, label.category, label.box, label.box[2] * label.box[3])
            for number, label in by_id.items()
        )
        candidates = label_errors.find({"val": replace(truth, annotations=tuple(items))}, {"val": found})
        for kind in KINDS:
            of_kind = [
                by_id[item.annotation_id] if item.annotation_id else Label(item.image_id, 0, item.bbox or (0, 0, 0, 0))
                for item in candidates
                if item.kind == kind
            ]
            precisions[kind].append(precision(kind, planted, of_kind))
    return precisions


def val_card(precisions: Mapping[Kind, Sequence[float]]) -> str:
    """The card of `measure_val`: the mean over the draws and its standard error."""
    rows = []
    for kind, values in precisions.items():
        error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
        rows.append(f"| {kind.replace('_', ' ')} | {np.mean(values):.3f} ± {error:.3f} | {REQUIRED[kind]} |")
    table, draws = "\n".join(rows), len(precisions["missing"])
    return f"""# Label errors planted in val, {today()}

{context()}

    python -m benchmarks.label_errors FOLDER --val {draws}

| label | precision among as many first candidates | required of the cross-check |
|---|---|---|
{table}

The mean of {draws} draws of the errors, ± its standard error. The detector was trained on correct labels.
"""


def card(planted: Sequence[Planted], found: Mapping[Kind, Sequence[Label]], minutes: float) -> str:
    rows = []
    for kind in KINDS:
        count = sum(item.kind == kind for item in planted)
        value = precision(kind, planted, found[kind])
        rows.append(f"| {kind.replace('_', ' ')} | {count} | {value:.3f} | {REQUIRED[kind]} |")
    table = "\n".join(rows)
    return f"""# Planted label errors, {today()}

{context()}

    python -m benchmarks.label_errors FOLDER

`digits`: 1,000 scenes. {FOLDS} folds, each trained with `{" ".join(SETTINGS)}`; other parameters as in params.yaml.
CPU time of everything: {minutes:.1f} minutes.

| label | planted | precision among as many first candidates | required |
|---|---|---|---|
{table}

No label has two errors. Wrong class: any other class, each as likely. Poor box: each side is moved, until the IoU with
the object is between {POOR_IOU[0]} and {POOR_IOU[1]}. Spurious: a random class, as large as a random object, where no
object is. A missing label counts as found if the IoU of the proposed box is at least 0.5. The detectors were trained on
labels with errors of the same kinds.
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.label_errors", description="Planted label errors.")
    parser.add_argument("folder", type=Path, help="of the clone; created, or continued. With --val, of a project")
    parser.add_argument(
        "--val", type=int, metavar="DRAWS", help="train nothing; plant errors in the project's val split"
    )
    arguments = parser.parse_args()
    folder, results = arguments.folder.resolve(), Path(__file__).parent / "results"
    if arguments.val:
        text = val_card(measure_val(folder, arguments.val))
        print(text)
        print(save_card(text, "label-errors-val", results))
        return
    if not (folder / "planted.json").is_file():
        make_project(folder)
    minutes = run(folder)
    text = card(read_planted(folder), read_candidates(folder), minutes)
    print(text)
    print(save_card(text, "label-errors", results))


if __name__ == "__main__":
    main()
