"""Memory of a training and its workers with as many images and boxes as COCO has, against few.

    python -m benchmarks.training_memory

The train stage runs for one epoch with four workers on generated images of a few pixels, once with 1,000 images and
once with 118,000. Its processes are looked at twice a second. Writes a dated card.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]
from PIL import Image as Pillow

from benchmarks.harness import context, save_card, today
from benchmarks.loader import pss
from benchmarks.start_from import make_project
from pipeline.data import annotations
from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image

_IMAGES, _BOXES_PER_IMAGE, _WORKERS = (1_000, 118_000), 7.29, 4  # train2017 has 860,000 boxes
_SIDE = 32  # pixels of an image
_LINKS = 30_000  # of a file; file systems allow 65,000
_LIMIT = 2.0  # GiB
_BATCH = 250
_CHANGES = {
    "download.digits.train": 8,
    "download.digits.val": 8,
    "download.digits.size": 64,
    "train.size": [_SIDE, _SIDE],
    "train.batch_size": _BATCH,
    "train.epochs": 1,
    "train.precision": "float32",
    "machine.workers": _WORKERS,
}


@dataclass(frozen=True)
class Sample:
    """The memory of the training process, and of it and its workers together, in MiB."""

    trainer: float
    total: float
    processes: int


@dataclass(frozen=True)
class Run:
    images: int
    boxes: int
    samples: Sequence[Sample]
    seconds: float

    @property
    def peak(self) -> float:
        """Of all processes together, also while annotations are read."""
        return max(sample.total for sample in self.samples)

    @property
    def training(self) -> Sample:
        """The largest sample while all workers run."""
        return max((s for s in self.samples if s.processes > _WORKERS), key=lambda sample: sample.total)


def write_images(folder: Path, images: int) -> int:
    """Replaces the training images of a project by generated ones; returns the number of boxes."""
    raw, generator = folder / "data/raw/digits", random.Random(0)
    (raw / "many").mkdir()
    categories = annotations.read(folder / "data/unified/train.json").categories
    records = tuple(Image(index, f"many/{index:012d}.png", _SIDE, _SIDE) for index in range(images))
    for index, record in enumerate(records):
        if index % _LINKS == 0:
            first = raw / record.file_name
            Pillow.frombytes("RGB", (_SIDE, _SIDE), generator.randbytes(3 * _SIDE**2)).save(first)
        else:
            os.link(first, raw / record.file_name)
    boxes = tuple(_boxes(categories, images, generator))
    annotations.write(AnnotationSet(categories, records, boxes), folder / "data/unified/train.json")
    return len(boxes)


def _boxes(categories: Sequence[Category], images: int, generator: random.Random) -> Iterator[Annotation]:
    count = int(images * _BOXES_PER_IMAGE)
    for index in range(count):
        width, height = generator.uniform(6, 20), generator.uniform(6, 20)
        box = (generator.uniform(0, _SIDE - width), generator.uniform(0, _SIDE - height), width, height)
        category = generator.choice(categories).id
        yield Annotation(index + 1, index * images // count, category, box, width * height)


def measure(images: int) -> Run:
    """Trains for an epoch.

    Raises:
        RuntimeError: the stage failed.
    """
    with tempfile.TemporaryDirectory(prefix="training-memory-") as name:
        folder, start = Path(name) / "project", time.monotonic()
        make_project(folder, _CHANGES)
        boxes = write_images(folder, images)
        with (folder / "log").open("w+") as log:
            command = [sys.executable, "-m", "pipeline.stages.train"]
            stage = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
            samples = list(_samples(stage))
            log.seek(0)
            if stage.returncode:
                raise RuntimeError(log.read()[-2000:])
        return Run(images, boxes, samples, time.monotonic() - start)


def _samples(stage: "subprocess.Popen[bytes]") -> Iterator[Sample]:
    while stage.poll() is None:
        try:
            children = psutil.Process(stage.pid).children(recursive=True)
            trainer, *workers = (pss(str(pid)) / 2**10 for pid in (stage.pid, *(child.pid for child in children)))
            yield Sample(trainer, trainer + sum(workers), 1 + len(workers))
        except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
            pass  # one has just ended
        time.sleep(0.5)


def card(few: Run, many: Run) -> str:
    """The card, in Markdown."""
    more = (max(few.peak, few.training.total), max(many.peak, many.training.total))
    difference = (more[1] - more[0]) / 2**10
    rows = "\n".join(
        f"| {run.images:,} | {run.boxes:,} | {run.training.trainer:,.0f} | "
        f"{run.training.total - run.training.trainer:,.0f} | {run.training.total:,.0f} | {run.peak:,.0f} | "
        f"{run.seconds:,.0f} s |"
        for run in (few, many)
    )
    return f"""# Memory of training at COCO's size, {today()}

{context()}

    python -m benchmarks.training_memory

The train stage, one epoch in batches of {_BATCH}, {_WORKERS} workers, generated images of {_SIDE}×{_SIDE} pixels (hard
links). Proportional set size in MiB without pages of files, looked at twice a second: a page that N processes share
counts as an Nth in each. The first columns are of the largest sum while all workers run; the peak is the largest of
the whole stage, reading and hashing the data included.

| images | boxes | training process | workers | together | peak | time with preparation |
|---|---|---|---|---|---|---|
{rows}

{difference:+.2f} GiB with more images; goal at most {_LIMIT:g}: {"met" if difference <= _LIMIT else "**missed**"}.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, nargs=2, default=_IMAGES)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder for the card")
    options = parser.parse_args()
    runs = []
    for images in options.images:
        runs.append(measure(images))
        print(images, runs[-1].training, f"{runs[-1].peak:.0f} MiB", f"{runs[-1].seconds:.0f} s", flush=True)
    text = card(*runs)
    print(f"{text}\n{save_card(text, 'training-memory-cpu', options.out)}")


if __name__ == "__main__":
    main()
