"""Time and memory of conversion at COCO's size; reading VOC's XML, compared with FiftyOne's importer.

The data is generated: as many annotations as COCO has, with polygons of as many points, but empty image files.
"""

import io
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import PIL.Image
from ruamel.yaml import YAML

from benchmarks.harness import Limit, Measurement, Side
from pipeline import params
from pipeline.conversion import survey
from pipeline.conversion.image_info import ImageInfo, read_image_infos

_REPOSITORY = Path(__file__).resolve().parents[1]
_COCO_IMAGES, _BOXES_PER_IMAGE = 118_000, 7.29  # train2017 has 860,000 boxes
_POLYGON_POINTS = 25
_CLASSES = 80
_PHOTOGRAPH = _REPOSITORY / "docs/images/detections.jpg"
_CORES = os.sched_getaffinity(0)

Folder = tempfile.TemporaryDirectory[str]


@dataclass(frozen=True)
class Cost:
    """Time and memory of a conversion in a separate process."""

    seconds: float
    peak: float  # peak memory of the process, in GiB


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="datasets-") as folder:
        yield Path(folder)


@cache
def coco_cost(images: int) -> Cost:
    """The cost of checking and converting COCO instance files, with image sizes taken from the annotations."""
    with _temporary_folder() as folder:
        write_coco(folder / "raw", images)
        process = subprocess.run(
            [sys.executable, "-c", _CONVERT, str(folder)], cwd=_REPOSITORY, capture_output=True, text=True, check=True
        )
    seconds, peak = process.stdout.split()[-2:]
    return Cost(float(seconds), float(peak) / 2**20)


# In a separate process with the imports of the convert stage, which don't include torch.
_CONVERT = """
import re, sys, time
from dataclasses import replace
from pathlib import Path
from pipeline import params
from pipeline.conversion import convert
folder, options = Path(sys.argv[1]), replace(params.load(Path("params.yaml")).convert, image_check="trust")
start = time.perf_counter()
convert(folder / "raw", folder / "unified", options)
seconds = time.perf_counter() - start
# getrusage would include the peak of the parent process, which wrote the files.
print(seconds, re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


def write_coco(folder: Path, images: int, boxes_per_image: float = _BOXES_PER_IMAGE, classes: int = _CLASSES) -> None:
    """Writes train and val (a twentieth of the images) in COCO's layout, with empty image files."""
    rng = random.Random(0)
    val_images = max(1, images // 20)
    for split, first, count in (("train2017", 0, images - val_images), ("val2017", images - val_images, val_images)):
        (folder / split).mkdir(parents=True)
        (folder / "annotations").mkdir(exist_ok=True)
        ids, boxes = range(first, first + count), int(count * boxes_per_image)
        for image_id in ids:
            (folder / split / f"{image_id:012d}.jpg").touch()
        content = {
            "info": {"description": "generated"},
            "images": [_image(image_id) for image_id in ids],
            "annotations": [_annotation(rng, index, first + index * count // boxes, classes) for index in range(boxes)],
            "categories": [{"id": label, "name": f"class {label}"} for label in range(1, classes + 1)],
        }
        (folder / f"annotations/instances_{split}.json").write_text(json.dumps(content))


def _image(image_id: int) -> dict[str, Any]:
    name = f"{image_id:012d}.jpg"
    return {"license": 3, "file_name": name, "coco_url": f"images/{name}", "height": 480, "width": 640, "id": image_id}


def _annotation(rng: random.Random, index: int, image_id: int, classes: int) -> dict[str, Any]:
    x, y = rng.uniform(0, 540), rng.uniform(0, 380)
    width, height = rng.uniform(8, 100), rng.uniform(8, 100)
    polygon = [round(rng.uniform(x, x + width), 2) for _ in range(2 * _POLYGON_POINTS)]
    return {
        "segmentation": [polygon],
        "area": round(width * height / 2, 4),
        "iscrowd": 0,
        "image_id": image_id,
        "bbox": [round(side, 2) for side in (x, y, width, height)],
        "category_id": rng.randint(1, classes),
        "id": index + 1,
    }


def _seconds() -> float:
    return coco_cost(_COCO_IMAGES).seconds


def _peak() -> float:
    return coco_cost(_COCO_IMAGES).peak


def page_seconds(images: int = _COCO_IMAGES) -> float:
    """Seconds of the command `fcos validate --html`, with image sizes taken from the annotations."""
    with _temporary_folder() as folder:
        write_coco(folder / "raw", images)
        shutil.copyfile(_REPOSITORY / "dvc.yaml", folder / "dvc.yaml")
        write_params(folder, ("  image_check: decode", "  image_check: trust"))
        start = time.perf_counter()
        command = [str(Path(sys.executable).parent / "fcos"), "validate", "raw", "--html", "page.html"]
        subprocess.run(command, cwd=folder, capture_output=True, env=_environment(), check=True)
        return time.perf_counter() - start


def _slowdown(images: int) -> float:
    """The time per image among 118,000 images, divided by the time per image among `images`."""
    return _seconds() / _COCO_IMAGES / (coco_cost(images).seconds / images)


def voc_against_fiftyone(images: int = 10_000) -> tuple[Side, Side]:
    """XML files to objects in memory: ours checked and unified; theirs as labels of the importer, without a database.

    Raises:
        AssertionError: the numbers of objects differ.
    """
    folder = tempfile.TemporaryDirectory(prefix="datasets-")
    ours, theirs = voc_sides(folder, images)
    assert ours() == theirs()
    return ours, theirs


def voc_sides(folder: Folder, images: int) -> tuple[Side, Side]:
    """Our reader and FiftyOne's importer on generated XML files; each call returns the number of objects."""
    write_voc(Path(folder.name), images)
    return partial(_count_unified, folder), partial(_count_imported, folder)


def _count_unified(folder: Folder) -> int:
    options = replace(params.load(_REPOSITORY / "params.yaml").convert, image_check="trust")
    splits = survey(Path(folder.name), options, "voc").splits.values()
    return sum(len(split.annotations) for split in splits)


def _count_imported(folder: Folder) -> int:
    from fiftyone.utils.voc import VOCDetectionDatasetImporter

    raw = Path(folder.name)
    importer = VOCDetectionDatasetImporter(data_path=str(raw / "JPEGImages"), labels_path=str(raw / "Annotations"))
    with importer:
        return sum(len(label.detections) for _, _, label in importer)


def write_voc(folder: Path, images: int) -> None:
    """Writes XML files as in VOC's devkit, with two objects in each image; all images are the same gray."""
    rng = random.Random(0)
    for name in ("JPEGImages", "Annotations"):
        (folder / name).mkdir(parents=True)
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (500, 375), "gray").save(buffer, "JPEG")
    for number in range(images):
        stem = f"{number:06d}"
        (folder / f"JPEGImages/{stem}.jpg").write_bytes(buffer.getvalue())
        objects = "".join(_voc_object(rng) for _ in range(2))
        size = "<size><width>500</width><height>375</height><depth>3</depth></size>"
        text = f"<annotation><folder>VOC</folder><filename>{stem}.jpg</filename>{size}{objects}</annotation>"
        (folder / f"Annotations/{stem}.xml").write_text(text)


def _voc_object(rng: random.Random) -> str:
    x, y = rng.randint(1, 300), rng.randint(1, 200)
    box = f"<xmin>{x}</xmin><ymin>{y}</ymin><xmax>{x + 150}</xmax><ymax>{y + 150}</ymax>"
    flags = "<pose>Left</pose><truncated>0</truncated><difficult>0</difficult>"
    return f"<object><name>{rng.choice(['cat', 'dog', 'bird'])}</name>{flags}<bndbox>{box}</bndbox></object>"


def all_cores_against_one() -> tuple[Side, Side]:
    """Decoding a thousand photographs completely, which is conversion's default, on all cores and on one."""
    folder = tempfile.TemporaryDirectory(prefix="datasets-")
    files = [f"{number}.jpg" for number in range(1000)]
    for index, name in enumerate(files):
        shutil.copyfile(_PHOTOGRAPH, Path(folder.name) / name)
        with (Path(folder.name) / name).open("ab") as file:
            file.write(index.to_bytes(4))  # after the image's end, so that no two files are equal
    return partial(_decode, folder, files, set(_CORES)), partial(_decode, folder, files, {min(_CORES)})


def _decode(folder: Folder, files: list[str], cores: set[int]) -> int:
    os.sched_setaffinity(0, cores)
    try:
        return sum(isinstance(info, ImageInfo) for info in read_image_infos(Path(folder.name), files, "decode"))
    finally:
        os.sched_setaffinity(0, _CORES)


def repro_seconds_without_changes(images: int = 20_000) -> float:
    """Seconds of `dvc repro` of all five stages without changes; the outputs of the last three are empty."""
    with _temporary_folder() as folder:
        _clone(folder, images)
        _dvc(folder, "repro", "convert")
        stages = ("train", "evaluate", "inspect")
        for stage in stages:
            for out in _outputs(folder, stage):
                out.parent.mkdir(parents=True, exist_ok=True)
                out.write_text("{}") if out.suffix else out.mkdir()
        _dvc(folder, "commit", "-f", *stages)
        start = time.perf_counter()
        output = _dvc(folder, "repro")
        seconds = time.perf_counter() - start
    assert "Running stage" not in output
    assert output.count("didn't change, skipping") == 5
    return seconds


def _outputs(folder: Path, stage: str) -> Iterator[Path]:
    stage_config = YAML(typ="safe").load(folder / "dvc.yaml")["stages"][stage]
    for kind in ("outs", "metrics", "plots"):
        for entry in stage_config.get(kind, []):
            yield folder / (entry if isinstance(entry, str) else next(iter(entry)))


def _clone(folder: Path, images: int) -> None:
    subprocess.run(["git", "clone", "-q", _REPOSITORY, folder], check=True)
    (folder / "dvc.lock").unlink(missing_ok=True)
    write_params(folder, ("    train: 1000", f"    train: {images - 200}"), ("    size: 256", "    size: 64"))


def write_params(folder: Path, *replacements: tuple[str, str]) -> None:
    """Writes this project's params.yaml into a folder, with some beginnings of lines replaced."""
    text = (_REPOSITORY / "params.yaml").read_text()
    for old, new in replacements:
        assert text.count(f"\n{old} ") == 1, old
        text = text.replace(f"\n{old} ", f"\n{new} ")
    (folder / "params.yaml").write_text(text)


def _dvc(folder: Path, *command: str) -> str:
    process = subprocess.run(
        [sys.executable, "-m", "dvc", *command], cwd=folder, capture_output=True, text=True, env=_environment()
    )
    assert process.returncode == 0, process.stderr
    return process.stdout + process.stderr


def _environment() -> dict[str, str]:
    return os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


MEASUREMENTS = [
    Measurement("VOC XML, 10,000 images, compared with FiftyOne's importer", 5.0, voc_against_fiftyone),
    Measurement("decoding images: all cores compared with one", 1.5, all_cores_against_one),
]
LIMITS = [
    Limit("converting COCO-sized annotations: 118,000 images, 860,000 boxes", 60, "s", _seconds),
    Limit("the same: peak memory", 3, "GiB", _peak),
    Limit("`fcos validate --html` of the same", 60, "s", page_seconds),
    Limit("the same: time per image, relative to that of 10,000 images", 1.5, "times", partial(_slowdown, 10_000)),
    Limit("the same: time per image, relative to that of 1,000 images", 1.5, "times", partial(_slowdown, 1_000)),
    Limit("`dvc repro` without changes, 20,000 images", 5, "s", repro_seconds_without_changes),
]
