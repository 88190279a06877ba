"""A race: our recipe and torchvision's FCOS learn the same data for the same time, on a core each.

    python -m benchmarks.race run bccd --archive bccd.zip --seconds 600 --seeds 0 1 2
    python -m benchmarks.race run voc2007 --archive voc2007.tar --seconds 2700 --seeds 0
    python -m benchmarks.race table      # prints the results, and writes a card

The other side is what a good engineer would write in an afternoon: torchvision's `FCOS` around the same backbone with
the same ImageNet weights, channels, levels and towers; AdamW, one cycle, random flips, a moving average of the weights,
frozen batch norm, gradient clipping, bf16 where its step is faster so, and the best of three learning rates, chosen
with the first seed and a third of the time. Time is CPU time of a process with one thread, with loading and without
validation, so that other work on the machine harms neither side. Both are scored by pycocotools.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, Dataset
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSHead

from benchmarks.harness import context, save_card, today
from benchmarks.start_from import make_project
from benchmarks.training import Pyramid
from fcos.detector import Detector
from fcos.detector import build as build_detector
from fcos.postprocess import Detections, Postprocess
from fcos.training.ema import ModelEMA
from fcos.training.history import NullCallback, Row
from pipeline import recipes
from pipeline.analysis.check import read_splits
from pipeline.data.annotations import AnnotationSet, Image
from pipeline.data.boxes import box_tensor
from pipeline.data.detections import Detection
from pipeline.data.images import read_image
from pipeline.evaluation import coco
from pipeline.evaluation.matches import Matches
from pipeline.evaluation.resampling import intervals_of_means, resample
from pipeline.inference.detect import detect_split
from pipeline.inference.views import Views, detect_in_views
from pipeline.overrides import override
from pipeline.params import Params
from pipeline.training.build import make_batches, make_trainer

_SIDES = ("ours", "torchvision")
_LEARNING_RATES = (0.0005, 0.001, 0.002)  # of the other side; it keeps the best
_TRIAL = 3  # a learning rate is tried for this fraction of the time
_POINTS = 8  # validations of a training
_TIMED_STEPS = 8


@dataclass(frozen=True)
class Data:
    """A data set: its conversion, and the recipe that we enter the race with."""

    conversion: Mapping[str, Any]
    recipe: str


DATA = {
    "bccd": Data({"convert.train": "trainval", "convert.val": "test", "convert.issues": "repair"}, "lite0_small"),
    "voc2007": Data({"convert.train": "train", "convert.val": "val"}, "voc2007_lite0"),
}


@dataclass(frozen=True)
class Result:
    """A training of one side."""

    data: str
    side: str
    seed: int
    settings: str  # of our side the changed parameters, of the other one learning rate and precision
    epochs: int
    seconds: float  # CPU time of the training
    metrics: Mapping[str, float | None]  # COCO's, by pycocotools
    intervals: Mapping[str, Sequence[float | None]]  # 95 %, over images
    curve: Sequence[tuple[float, float, float]]  # CPU seconds, AP and AP50 of each validation


class Clock:
    """CPU time of this process, without the time that `paused` calls take."""

    def __init__(self) -> None:
        self._start, self._paused = time.process_time(), 0.0

    def seconds(self) -> float:
        return time.process_time() - self._start - self._paused

    def pause(self, call: Any) -> Any:
        before = time.process_time()
        result = call()
        self._paused += time.process_time() - before
        return result


@dataclass(frozen=True)
class Race:
    """The data of a race, and the time that each side has."""

    name: str
    raw: Path  # folder that the images' file names are relative to
    train: AnnotationSet
    val: AnnotationSet
    seconds: float


class Scores:
    """Validations of a training, and the detections of the last one."""

    def __init__(self, race: Race, clock: Clock) -> None:
        self.race, self.clock = race, clock
        self.curve: list[tuple[float, float, float]] = []
        self.detections: list[Detection] = []

    def validate(self, detect: Any) -> Row:
        return self.clock.pause(lambda: self._validate(detect))  # type: ignore[no-any-return]

    def _validate(self, detect: Any) -> Row:
        seconds = self.clock.seconds()
        self.detections = list(detect_split(detect, self.race.val, self.race.raw, batch_size=8))
        metrics = coco.fast_ap(self.race.val, self.detections)
        row = {name: metrics[name] or 0.0 for name in ("AP", "AP50")}
        self.curve.append((round(seconds, 1), row["AP"], row["AP50"]))
        print(f"{seconds:.0f} s: AP {row['AP']:.3f}, AP50 {row['AP50']:.3f}", file=sys.stderr, flush=True)
        return row

    def result(self, side: str, seed: int, settings: str, epochs: int) -> Result:
        seconds = self.clock.seconds()
        metrics = coco.evaluate(self.race.val, self.detections)
        matches = Matches.of(metrics.evaluation)
        intervals = {
            name: (found.low, found.high) for name, found in intervals_of_means(matches, resample(matches)).items()
        }
        return Result(self.race.name, side, seed, settings, epochs, seconds, metrics.values, intervals, self.curve)


def epochs_for(seconds: float, step: float, steps: int) -> int:
    """The number of whole epochs that fit into the time."""
    return max(1, int(seconds / (step * steps)))


# Our side


def run_ours(race: Race, seed: int, changes: Sequence[str]) -> Result:
    """Trains with the data set's recipe and these changes, for as many epochs as the time allows."""
    params = override(recipes.load(DATA[race.name].recipe), [*changes, f"seed={seed}", "machine.device=cpu"])
    steps = len(make_batches(params, race.train, race.raw))
    epochs = epochs_for(race.seconds, _seconds_of_our_step(race, params), steps)
    params = _with_epochs(params, epochs, validate_every=max(1, epochs // _POINTS))
    clock = Clock()
    scores = Scores(race, clock)

    def validate(detector: Detector) -> Row:
        detect = partial(
            detect_in_views,
            detector,
            input_size=params.train.input_size,
            postprocess=Postprocess(),
            views=Views(),
            batch_size=8,
        )
        return scores.validate(detect)

    _fit_ours(race, params, validate)
    return scores.result("ours", seed, " ".join([DATA[race.name].recipe, *changes]), epochs)


def _fit_ours(race: Race, params: Params, validate: Any, steps: int = 0) -> None:
    batches: Any = make_batches(params, race.train, race.raw)
    make_trainer(
        params,
        batches=_FirstBatches(batches, steps) if steps else batches,
        validate=validate,
        classes=[category.name for category in race.train.categories],
        callback=NullCallback(),
        checkpoint=None,
    ).fit()


@dataclass(frozen=True)
class _FirstBatches:
    """The first steps of an epoch."""

    batches: Any
    steps: int

    def __len__(self) -> int:
        return self.steps

    def __call__(self, epoch: int, first: int = 0) -> Iterator[Any]:
        for index, parts in enumerate(self.batches(epoch, first)):
            if index == self.steps:
                return
            yield parts


def _seconds_of_our_step(race: Race, params: Params) -> float:
    params = _with_epochs(params, 2, validate_every=1)
    clock, times = Clock(), []
    # The first epoch of a few steps allocates memory and is not counted.
    _fit_ours(race, params, lambda _: times.append(clock.seconds()) or {}, _TIMED_STEPS)  # type: ignore[func-returns-value]
    return (times[1] - times[0]) / _TIMED_STEPS


def _with_epochs(params: Params, epochs: int, validate_every: int) -> Params:
    return replace(params, train=replace(params.train, epochs=epochs, validate_every=validate_every))


# The other side


class Pictures(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """Images [3, H, W] in 0 … 1 and torchvision's targets; with `flip`, half of them mirrored."""

    def __init__(self, race: Race, *, flip: bool) -> None:
        self.raw, self.flip = race.raw, flip
        labels = {category.id: label for label, category in enumerate(race.train.categories)}
        kept = [item for item in race.train.annotations if not (item.iscrowd or item.difficult)]
        self.objects: dict[int, list[Any]] = {}
        for item in kept:
            self.objects.setdefault(item.image_id, []).append(item)
        self.labels = labels
        self.images: list[Image] = [image for image in race.train.images if image.id in self.objects]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        image = self.images[index]
        items = self.objects[image.id]
        pixels = read_image(self.raw / image.file_name, (image.width, image.height)) / 255
        boxes = box_tensor(items)
        if self.flip and torch.rand(()) < 0.5:
            pixels = pixels.flip(-1)
            boxes = torch.stack([image.width - boxes[:, 2], boxes[:, 1], image.width - boxes[:, 0], boxes[:, 3]], 1)
        labels = torch.tensor([self.labels[item.category_id] for item in items])
        return pixels, {"boxes": boxes, "labels": labels}


def make_model(params: Params, classes: int) -> FCOS:
    """torchvision's FCOS with our backbone, channels and tower depth; P3 to P5 if we have no more, else P3 to P7."""
    config = params.model
    backbone = build_detector(replace(config, batch_norm="frozen"), classes).backbone
    more = len(config.levels) > 3
    pyramid = Pyramid(backbone, config.channels, extra_levels=more)
    strides = [8, 16, 32, 64, 128] if more else [8, 16, 32]
    return FCOS(
        pyramid,
        classes,
        min_size=params.train.size[0],
        max_size=params.train.size[1],
        image_mean=list(backbone.mean),
        image_std=list(backbone.std),
        anchor_generator=AnchorGenerator(tuple((stride,) for stride in strides), ((1.0,),) * len(strides)),
        head=FCOSHead(config.channels, 1, classes, config.tower_depth),
        score_thresh=0.05,  # torchvision's 0.2 cuts recall
    )


@dataclass(frozen=True)
class Loop:
    """The other side's training loop."""

    race: Race
    params: Params
    seed: int
    lr: float

    def run(self) -> Result:
        times = {dtype: self._seconds_of_step(dtype) for dtype in (torch.float32, torch.bfloat16)}
        dtype = min(times, key=lambda dtype: times[dtype])
        loader = self._loader()
        epochs = epochs_for(self.race.seconds, times[dtype], len(loader))
        clock = Clock()
        scores = Scores(self.race, clock)
        self._train(dtype, epochs, scores)
        name = "bf16" if dtype == torch.bfloat16 else "float32"
        return scores.result("torchvision", self.seed, f"lr {self.lr:g}, {name}", epochs)

    def _loader(self) -> "DataLoader[Any]":
        return DataLoader(
            Pictures(self.race, flip=self.params.train.augment.flip > 0),
            self.params.train.batch_size,
            shuffle=True,
            collate_fn=lambda samples: tuple(zip(*samples, strict=True)),
        )

    def _start(self, steps: int) -> tuple[FCOS, Any, Any]:
        torch.manual_seed(self.seed)
        model = make_model(self.params, len(self.race.train.categories)).train()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=self.lr, weight_decay=0.05, fused=True)
        return model, optimizer, OneCycleLR(optimizer, self.lr, total_steps=steps)

    def _seconds_of_step(self, dtype: torch.dtype) -> float:
        model, optimizer, schedule = self._start(2 * _TIMED_STEPS + 2)
        times = []
        # The first step allocates memory and is not counted.
        for images, targets in islice(self._loader(), _TIMED_STEPS + 1):
            _step(model, optimizer, schedule, images, targets, dtype)
            times.append(time.process_time())
        return (times[-1] - times[0]) / (len(times) - 1)

    def _train(self, dtype: torch.dtype, epochs: int, scores: Scores) -> None:
        loader = self._loader()
        model, optimizer, schedule = self._start(epochs * len(loader))
        average = ModelEMA(model, 0.99)
        for epoch in range(1, epochs + 1):
            for images, targets in loader:
                _step(model, optimizer, schedule, images, targets, dtype)
                average.update_parameters(model)
            if epoch % max(1, epochs // _POINTS) == 0 or epoch == epochs:
                scores.validate(partial(detect_with_torchvision, average.module.eval()))


def _step(model: FCOS, optimizer: Any, schedule: Any, images: Any, targets: Any, dtype: torch.dtype) -> None:
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        losses = model(list(images), list(targets))
    torch.stack([loss.float() for loss in losses.values()]).sum().backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
    optimizer.step()
    schedule.step()


@torch.inference_mode()
def detect_with_torchvision(model: torch.nn.Module, pixels: Sequence[Tensor]) -> list[Detections]:
    return [
        Detections(found["boxes"], found["scores"], found["labels"])
        for found in model([image / 255 for image in pixels])
    ]


# The race


def read_results(path: Path) -> list[Result]:
    return [Result(**json.loads(line)) for line in path.read_text().splitlines()] if path.is_file() else []


def _command(options: argparse.Namespace, side: str, seed: int, seconds: float, *more: str) -> list[str]:
    base = [sys.executable, "-m", "benchmarks.race", side, options.data, "--folder", str(options.folder)]
    return [*base, "--seconds", str(seconds), "--seeds", str(seed), *more]


def _start(command: Sequence[str], core: int) -> "subprocess.Popen[str]":
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    os.sched_setaffinity(process.pid, {core})
    return process


def _finish(process: "subprocess.Popen[str]") -> Result:
    output, _ = process.communicate()
    if process.returncode:
        sys.exit("a side failed; its error is above")
    return Result(**json.loads(output.splitlines()[-1]))


def run(options: argparse.Namespace) -> None:
    """Runs both sides for each seed at the same time, after the other side has chosen its learning rate."""
    prepare(options)
    cores = sorted(os.sched_getaffinity(0))
    first, last = cores[0], cores[-1]
    trials = []
    for number, lr in enumerate(_LEARNING_RATES):
        command = _command(options, "torchvision", options.seeds[0], options.seconds / _TRIAL, "--lr", str(lr))
        trials.append(_start(command, (first, last)[number % 2]))
    tried = [_finish(process) for process in trials]
    best = max(range(len(tried)), key=lambda index: tried[index].metrics["AP"] or 0.0)
    lr = _LEARNING_RATES[best]
    print(f"learning rates of torchvision: {[(t.settings, t.metrics['AP']) for t in tried]}", flush=True)
    for seed in options.seeds:
        changes = [argument for change in options.set for argument in ("--set", change)]
        sides = [
            _start(_command(options, "ours", seed, options.seconds, *changes), first),
            _start(_command(options, "torchvision", seed, options.seconds, "--lr", str(lr)), last),
        ]
        for result in map(_finish, sides):
            with options.results.open("a") as file:
                file.write(json.dumps(asdict(result)) + "\n")
            print(_row(result), flush=True)


def prepare(options: argparse.Namespace) -> None:
    """Downloads and converts the data into the folder, unless it is there."""
    folder = options.folder / options.data
    if not (folder / "data/unified/val.json").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        changes = {"dataset": "custom", "download.path": str(options.archive.resolve())}
        make_project(folder, changes | dict(DATA[options.data].conversion))


def time_to_reach(curve: Sequence[Sequence[float]], ap: float) -> float | None:
    """CPU seconds of the first validation with at least this AP."""
    return next((point[0] for point in curve if point[1] >= ap), None)


def table(results: Sequence[Result]) -> str:
    """A Markdown table: a row for each training, with the time at which it had reached the other side's final AP."""
    final = {(result.data, result.seed, result.side): result for result in results}
    rows = [
        "| data | seed | side | settings | epochs | CPU s | AP | AP50 | AP75 | reached the other's AP after |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        other = final.get((result.data, result.seed, _SIDES[1 - _SIDES.index(result.side)]))
        reached = time_to_reach(result.curve, other.metrics["AP"] or 0.0) if other else None
        rows.append(f"{_row(result)} {'–' if reached is None else f'{reached:.0f} s'} |")
    return "\n".join(rows)


def _row(result: Result) -> str:
    cells = [
        *(result.data, result.seed, result.side, result.settings, result.epochs, f"{result.seconds:.0f}"),
        *(_with_interval(result, name) for name in ("AP", "AP50")),
        f"{100 * (result.metrics['AP75'] or 0.0):.1f}",
    ]
    return f"| {' | '.join(map(str, cells))} |"


def _with_interval(result: Result, name: str) -> str:
    low, high = (value or 0.0 for value in result.intervals[name])
    return f"{100 * (result.metrics[name] or 0.0):.1f} ({100 * low:.1f}–{100 * high:.1f})"


def _write_card(results: Sequence[Result], folder: Path) -> Path:
    text = f"""# A race against torchvision's FCOS, {today()}

{context()}

    python -m benchmarks.race run DATA --archive ARCHIVE --seconds SECONDS --seeds SEEDS

{table(results)}

AP in percent, with 95 % intervals over images. CPU time of one core a side, without validation.
"""
    return save_card(text, "race", folder)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.race", description=__doc__)
    parser.add_argument("action", choices=("run", "table", *_SIDES))
    parser.add_argument("data", nargs="?", choices=tuple(DATA), default="bccd")
    parser.add_argument("--archive", type=Path, default=Path("bccd.zip"), help="the published archive")
    parser.add_argument("--seconds", type=float, default=600, help="CPU time that each side has")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", action="append", default=[], help="of our side: a parameter, such as train.lr=0.01")
    parser.add_argument("--lr", type=float, default=_LEARNING_RATES[1], help="of the other side")
    parser.add_argument("--folder", type=Path, default=Path(".race"), help="where converted data is kept")
    parser.add_argument("--results", type=Path, default=Path("race.jsonl"))
    options = parser.parse_args()
    if options.action == "run":
        run(options)
    elif options.action == "table":
        results = read_results(options.results)
        print(table(results))
        print(_write_card(results, Path(__file__).parent / "results"))
    else:
        torch.set_num_threads(1)
        prepare(options)
        folder = options.folder / options.data
        race = Race(options.data, folder / "data/raw/custom", *read_splits(folder), options.seconds)
        seed = options.seeds[0]
        if options.action == "ours":
            result = run_ours(race, seed, options.set)
        else:
            result = Loop(race, recipes.load(DATA[race.name].recipe), seed, options.lr).run()
        print(json.dumps(asdict(result)))


if __name__ == "__main__":
    main()
