"""Data sets of COCO's size: how long conversion takes and in how much memory; VOC's XML against FiftyOne's importer.

Everything is generated: annotations as large as COCO's, with polygons of as many points; image files are small.
"""

import io
import json
import os
import random
import re
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
from pipeline.params import ConvertParams

_REPOSITORY = Path(__file__).resolve().parents[1]
_COCO_IMAGES, _BOXES = 118_000, 7.29  # of train2017: 860,000 boxes
_POINTS = 25  # of a polygon
_CLASSES = 80
_PHOTOGRAPH = _REPOSITORY / "docs/images/detections.jpg"
_CORES = os.sched_getaffinity(0)

Folder = tempfile.TemporaryDirectory[str]


@dataclass(frozen=True)
class Cost:
    """Of one conversion, in a process of its own."""

    seconds: float
    peak: float  # GiB, of the whole process


def _options(**changes: Any) -> ConvertParams:
    return replace(params.load(_REPOSITORY / "params.yaml").convert, **changes)


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="datasets-") as folder:
        yield Path(folder)


@cache
def coco_cost(images: int) -> Cost:
    """What it costs to check and convert COCO instance files, sizes as annotated."""
    with _folder() as folder:
        write_coco(folder / "raw", images)
        done = subprocess.run(
            [sys.executable, "-c", _CONVERT, str(folder)], cwd=_REPOSITORY, capture_output=True, text=True, check=True
        )
    seconds, peak = done.stdout.split()[-2:]
    return Cost(float(seconds), float(peak) / 2**20)


# In a process that has imported what the stage imports: no torch.
_CONVERT = """
import re, sys, time
from dataclasses import replace
from pathlib import Path
from pipeline import params
from pipeline.conversion import convert
folder, options = Path(sys.argv[1]), replace(params.load(Path("params.yaml")).convert, images="trust")
start = time.perf_counter()
convert(folder / "raw", folder / "unified", options)
taken = time.perf_counter() - start
# Not getrusage: its maximum outlives exec, and would be that of the process which wrote the files.
print(taken, re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


def write_coco(folder: Path, images: int) -> None:
    """Train and val (a twentieth) in COCO's own layout; the image files are empty."""
    drawn = random.Random(0)
    held = max(1, images // 20)
    for split, first, count in (("train2017", 0, images - held), ("val2017", images - held, held)):
        (folder / split).mkdir(parents=True)
        (folder / "annotations").mkdir(exist_ok=True)
        numbers, boxes = range(first, first + count), int(count * _BOXES)
        for number in numbers:
            (folder / split / f"{number:012d}.jpg").touch()
        objects = [_object(drawn, index, first + index * count // boxes) for index in range(boxes)]
        content = {
            "info": {"description": "generated"},
            "images": [_image(number) for number in numbers],
            "annotations": objects,
            "categories": [{"id": label, "name": f"class {label}"} for label in range(1, _CLASSES + 1)],
        }
        (folder / f"annotations/instances_{split}.json").write_text(json.dumps(content))


def _image(number: int) -> dict[str, Any]:
    name = f"{number:012d}.jpg"
    return {"license": 3, "file_name": name, "coco_url": f"images/{name}", "height": 480, "width": 640, "id": number}


def _object(drawn: random.Random, index: int, image: int) -> dict[str, Any]:
    x, y = drawn.uniform(0, 540), drawn.uniform(0, 380)
    width, height = drawn.uniform(8, 100), drawn.uniform(8, 100)
    polygon = [round(drawn.uniform(x, x + width), 2) for _ in range(2 * _POINTS)]
    return {
        "segmentation": [polygon],
        "area": round(width * height / 2, 4),
        "iscrowd": 0,
        "image_id": image,
        "bbox": [round(side, 2) for side in (x, y, width, height)],
        "category_id": drawn.randint(1, _CLASSES),
        "id": index + 1,
    }


def _seconds() -> float:
    return coco_cost(_COCO_IMAGES).seconds


def _peak() -> float:
    return coco_cost(_COCO_IMAGES).peak


def page_seconds(images: int = _COCO_IMAGES) -> float:
    """Of `fcos validate --html`, the whole command, sizes as annotated."""
    with _folder() as folder:
        write_coco(folder / "raw", images)
        for name in ("dvc.yaml", "params.yaml"):
            shutil.copyfile(_REPOSITORY / name, folder / name)
        file = folder / "params.yaml"
        file.write_text(file.read_text().replace("  images: decode", "  images: trust"))
        start = time.perf_counter()
        command = [str(Path(sys.executable).parent / "fcos"), "validate", "raw", "--html", "page.html"]
        subprocess.run(command, cwd=folder, capture_output=True, env=_environment(), check=True)
        return time.perf_counter() - start


def _growth(images: int) -> float:
    """How much longer an image takes among 118,000 than among `images`."""
    return _seconds() / _COCO_IMAGES / (coco_cost(images).seconds / images)


def voc_against_fiftyone(images: int = 10_000) -> tuple[Side, Side]:
    """XML files to objects in memory: ours checked, in the unified format; theirs the importer's labels, no database.

    Raises:
        AssertionError: they don't find as many objects.
    """
    folder = tempfile.TemporaryDirectory(prefix="datasets-")
    raw, options = Path(folder.name), _options(images="trust")
    write_voc(raw, images)
    ours, theirs = partial(_unified, folder, options), partial(_imported, folder)
    assert ours() == theirs()
    return ours, theirs


def _unified(folder: Folder, options: ConvertParams) -> int:
    found = survey(Path(folder.name), options, "voc").splits.values()
    return sum(len(split.annotations) for split in found)


def _imported(folder: Folder) -> int:
    from fiftyone.utils.voc import VOCDetectionDatasetImporter

    raw = Path(folder.name)
    importer = VOCDetectionDatasetImporter(data_path=str(raw / "JPEGImages"), labels_path=str(raw / "Annotations"))
    with importer:
        return sum(len(label.detections) for _, _, label in importer)


def write_voc(folder: Path, images: int) -> None:
    """Two objects an image, as the devkit writes them; the images are one gray picture."""
    drawn = random.Random(0)
    for name in ("JPEGImages", "Annotations"):
        (folder / name).mkdir(parents=True)
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (500, 375), "gray").save(buffer, "JPEG")
    for number in range(images):
        stem = f"{number:06d}"
        (folder / f"JPEGImages/{stem}.jpg").write_bytes(buffer.getvalue())
        objects = "".join(_voc_object(drawn) for _ in range(2))
        size = "<size><width>500</width><height>375</height><depth>3</depth></size>"
        text = f"<annotation><folder>VOC</folder><filename>{stem}.jpg</filename>{size}{objects}</annotation>"
        (folder / f"Annotations/{stem}.xml").write_text(text)


def _voc_object(drawn: random.Random) -> str:
    x, y = drawn.randint(1, 300), drawn.randint(1, 200)
    box = f"<xmin>{x}</xmin><ymin>{y}</ymin><xmax>{x + 150}</xmax><ymax>{y + 150}</ymax>"
    flags = "<pose>Left</pose><truncated>0</truncated><difficult>0</difficult>"
    return f"<object><name>{drawn.choice(['cat', 'dog', 'bird'])}</name>{flags}<bndbox>{box}</bndbox></object>"


def every_core_against_one() -> tuple[Side, Side]:
    """Decoding a thousand photographs to their last pixel, as conversion does unless told otherwise."""
    folder = tempfile.TemporaryDirectory(prefix="datasets-")
    files = [f"{number}.jpg" for number in range(1000)]
    for index, name in enumerate(files):
        shutil.copyfile(_PHOTOGRAPH, Path(folder.name) / name)
        with (Path(folder.name) / name).open("ab") as file:
            file.write(index.to_bytes(4))  # after the image's end
    return partial(_looked, folder, files, set(_CORES)), partial(_looked, folder, files, {min(_CORES)})


def _looked(folder: Folder, files: list[str], cores: set[int]) -> int:
    os.sched_setaffinity(0, cores)
    try:
        return sum(isinstance(info, ImageInfo) for info in read_image_infos(Path(folder.name), files, "decode"))
    finally:
        os.sched_setaffinity(0, _CORES)


def nothing_to_do(images: int = 20_000) -> float:
    """Seconds of `dvc repro`, all five stages, where nothing has changed; the last three are committed, not run."""
    with _folder() as folder:
        _clone(folder, images)
        _dvc(folder, "repro", "convert")
        later = ("train", "evaluate", "inspect")
        for stage in later:
            for out in _outputs(folder, stage):
                out.parent.mkdir(parents=True, exist_ok=True)
                out.write_text("{}") if out.suffix else out.mkdir()
        _dvc(folder, "commit", "-f", *later)
        start = time.perf_counter()
        said = _dvc(folder, "repro")
        taken = time.perf_counter() - start
    assert "Running stage" not in said
    assert said.count("didn't change, skipping") == 5
    return taken


def _outputs(folder: Path, stage: str) -> Iterator[Path]:
    declared = YAML(typ="safe").load(folder / "dvc.yaml")["stages"][stage]
    for kind in ("outs", "metrics", "plots"):
        for entry in declared.get(kind, []):
            yield folder / (entry if isinstance(entry, str) else next(iter(entry)))


def _clone(folder: Path, images: int) -> None:
    subprocess.run(["git", "clone", "-q", _REPOSITORY, folder], check=True)
    (folder / "dvc.lock").unlink(missing_ok=True)
    file = folder / "params.yaml"
    text = re.sub(r"(?m)^(    train:) 1000", rf"\1 {images - 200}", file.read_text())
    text = re.sub(r"(?m)^(    size:) 256", r"\1 64", text)
    file.write_text(text)


def _dvc(folder: Path, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *command], cwd=folder, capture_output=True, text=True, env=_environment()
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def _environment() -> dict[str, str]:
    return os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


MEASUREMENTS = [
    Measurement("VOC XML, 10,000 images, against FiftyOne's importer", 5.0, voc_against_fiftyone),
    Measurement("looking at images: every core against one", 1.5, every_core_against_one),
]
LIMITS = [
    Limit("converting COCO-sized annotations: 118,000 images, 860,000 boxes", 60, "s", _seconds),
    Limit("the same: memory at most", 3, "GiB", _peak),
    Limit("`fcos validate --html` of the same", 60, "s", page_seconds),
    Limit("the same conversion: an image's time over that among 10,000", 1.5, "times", partial(_growth, 10_000)),
    Limit("the same conversion: an image's time over that among 1,000", 1.5, "times", partial(_growth, 1_000)),
    Limit("`dvc repro` with nothing to do, 20,000 images", 5, "s", nothing_to_do),
]
