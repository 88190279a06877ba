"""CPU time of the evaluate stage against that of the detector's convolutions alone, with a project's own weights.

    python -m benchmarks.evaluate_stage                       # after `dvc repro`
    python -m benchmarks.evaluate_stage PROJECT --images 2500 --size 288 384

The validation images of the project are resized and repeated, with their objects. The stage runs in its own process
with one thread. The convolutions' part of the time of detection is the one that torch.profiler finds in a sample of the
images; the time itself is measured without it.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.harness import context, save_card, today
from benchmarks.loader import single_thread
from benchmarks.start_from import link_code, write_params
from fcos.inference import detect
from pipeline.data import annotations
from pipeline.data import detections as results
from pipeline.data.annotations import Annotation, AnnotationSet, Image
from pipeline.data.images import open_image
from pipeline.inference.detect import detect_split
from pipeline.inference.device import prepare_device
from pipeline.inference.postprocess import make_postprocess
from pipeline.inference.saved_detector import SavedDetector
from pipeline.params import load
from pipeline.yaml_files import read_yaml

_GOAL = 1.25
_SAMPLE = 96  # images


@dataclass(frozen=True)
class Result:
    images: int
    size: tuple[int, int]
    backbone: str
    detections: float  # mean of an image
    stage: float  # seconds of CPU time
    detection: float  # with reading of images
    convolutions: float

    @property
    def ratio(self) -> float:
        return self.stage / self.convolutions


def make_project(folder: Path, source: Path, images: int, size: tuple[int, int]) -> None:
    """A project with another one's weights, whose validation split has this many images of one height and width."""
    values = read_yaml(source / "params.yaml")
    write_params(folder, values, {"machine.device": "cpu", "evaluate.test": False})
    link_code(folder)
    shutil.copytree(source / "models", folder / "models")
    raw = Path("data/raw") / values["dataset"]
    split = annotations.read(source / "data/unified/val.json")
    written = repeat(split, source / raw, folder / raw, images, size)
    for name in ("train", "val"):
        annotations.write(written, folder / f"data/unified/{name}.json")


def repeat(split: AnnotationSet, raw: Path, target: Path, count: int, size: tuple[int, int]) -> AnnotationSet:
    """Writes the images of a split in another size, again and again, each with its objects."""
    (height, width), objects = size, split.by_image()
    target.mkdir(parents=True)
    images: list[Image] = []
    items: list[Annotation] = []
    for number, image in enumerate(islice(cycle(split.images), count), start=1):
        first = target / f"{image.id}.jpg"
        if not first.exists():
            open_image(raw / image.file_name).resize((width, height)).save(first, quality=90)
        images.append(Image(number, f"{number}-{image.id}.jpg", width, height))
        os.link(first, target / images[-1].file_name)
        scale = (width / image.width, height / image.height) * 2
        for item in objects[image.id]:
            box = tuple(value * factor for value, factor in zip(item.bbox, scale, strict=True))
            items.append(Annotation(len(items) + 1, number, item.category_id, box, box[2] * box[3]))  # type: ignore[arg-type]
    return AnnotationSet(split.categories, tuple(images), tuple(items))


def stage_seconds(folder: Path) -> float:
    """CPU time of the evaluate stage, its imports and its plots included.

    Raises:
        SystemExit: the stage failed.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DVC_ROOT": str(folder)}
    command = [sys.executable, "-m", "pipeline.stages.evaluate"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"the evaluate stage failed with {done.returncode}: {done.stderr[-500:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def detection_seconds(folder: Path) -> tuple[float, float]:
    """CPU seconds of detection in an image and of its convolutions, with one thread, in the stage's batches."""
    params, split = load(folder / "params.yaml"), annotations.read(folder / "data/unified/val.json")
    model = SavedDetector.load(folder / "models/detector.safetensors", prepare_device("cpu"))  # as in the stage
    detect_batch = partial(
        detect, model.network, input_size=model.description.input_size, postprocess=make_postprocess(params.postprocess)
    )
    sample = split.images[:_SAMPLE]

    def run() -> float:
        start, part = time.process_time(), AnnotationSet(split.categories, sample, ())
        raw = folder / "data/raw" / params.dataset
        list(detect_split(detect_batch, part, raw, batch_size=params.evaluate.batch_size))
        return (time.process_time() - start) / len(sample)

    with single_thread():
        run()
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            run()
        seconds = run()
    share = convolution_share({event.key: event.self_cpu_time_total for event in profiler.key_averages()})
    return seconds, share * seconds


def convolution_share(times: Mapping[str, float]) -> float:
    """The convolutions' share of the times of torch's operations, by name."""
    return sum(time for name, time in times.items() if "conv" in name) / sum(times.values())


def measure(source: Path, images: int, size: tuple[int, int]) -> Result:
    with tempfile.TemporaryDirectory(prefix="evaluate-") as name:
        folder = Path(name) / "project"
        make_project(folder, source, images, size)
        seconds = stage_seconds(folder)
        detection, convolutions = detection_seconds(folder)
        truth = annotations.read(folder / "data/unified/val.json")
        detections = len(results.read(folder / "predictions/val.json", truth)) / images
        backbone = SavedDetector.load(
            folder / "models/detector.safetensors", torch.device("cpu")
        ).description.model.backbone
    return Result(images, size, backbone, detections, seconds, detection * images, convolutions * images)


def card(result: Result) -> str:
    verdict = "met" if result.ratio <= _GOAL else "**missed**"
    height, width = result.size
    return f"""# The evaluate stage against its convolutions, {today()}

{context()}

    python -m benchmarks.evaluate_stage PROJECT --images {result.images} --size {height} {width}

{result.images:,} images of {height}×{width} pixels, {result.backbone}, on average {result.detections:.0f} detections in
an image. CPU seconds, one thread. The whole stage: imports, decoding, detection, embeddings, metrics, intervals, plots,
MLflow.

| | CPU s | ÷ convolutions |
|---|---|---|
| the whole stage | {result.stage:.1f} | **{result.ratio:.2f}** (goal ≤ {_GOAL}: {verdict}) |
| detection, with reading of images | {result.detection:.1f} | {result.detection / result.convolutions:.2f} |
| convolutions | {result.convolutions:.1f} | 1 |
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("project", type=Path, nargs="?", default=Path())
    parser.add_argument("--images", type=int, default=2500)
    parser.add_argument("--size", type=int, nargs=2, default=(288, 384), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder for the card")
    options = parser.parse_args()
    if not (options.project / "models/detector.safetensors").is_file():
        parser.error(f"{options.project / 'models'}: no trained detector; run `dvc repro train` in the project first")
    height, width = options.size
    print(save_card(card(measure(options.project, options.images, (height, width))), "evaluate-stage", options.out))


if __name__ == "__main__":
    main()
