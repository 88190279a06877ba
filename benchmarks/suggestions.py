"""Does `fcos suggest` gain anything over labeling pictures at random? Simulated on a data set that has all labels.

    python -m benchmarks.suggestions ../shared/data/bccd.zip

For each draw, a detector is trained on a few images, and the others count as unlabeled. Two detectors are trained with
as many images more: the suggested ones, or random ones. Both are measured on the validation split, and their
differences are paired by draw. The default needs 15 trainings, about an hour on one core; a dated card is written.
"""

import argparse
import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import context, save_card, today
from pipeline import params
from pipeline.analysis.suggestions import choose, look_at_all
from pipeline.data import annotations
from pipeline.data.annotations import AnnotationSet, Image
from pipeline.errors import PipelineError
from pipeline.files import write_json
from pipeline.inference.device import choose_device
from pipeline.inference.postprocess import make_postprocess
from pipeline.inference.saved_detector import SavedDetector
from pipeline.inference.score_thresholds import score_thresholds
from pipeline.yaml_files import read_yaml

_REPOSITORY = Path(__file__).resolve().parents[1]
_SETTINGS: dict[str, Any] = {
    "dataset": "custom",
    "loss": "giou",
    "convert.train": "trainval",
    "convert.val": "test",
    "convert.issues": "repair",
    "model.backbone": "efficientnet_lite0",
    "model.pretrained": True,
    "model.channels": 64,
    "train.size": [160, 224],
    "train.batch_size": 4,
    "train.lr": 0.001,
    "train.augment.flip": 0.5,
    "inspect.fiftyone": False,
    "machine.device": "cpu",
}
# Student's t for 95 %, two-sided, by degrees of freedom.
_T = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}


@dataclass(frozen=True)
class Draw:
    """AP50 on the validation split, by the images that were trained on."""

    labeled: float
    suggested: float
    random: float

    @property
    def gain(self) -> float:
        return self.suggested - self.random


class Project:
    """A folder with converted data in which stages run; each training replaces the one before."""

    def __init__(self, folder: Path, archive: Path, epochs: int) -> None:
        self.folder = folder
        values = read_yaml(_REPOSITORY / "params.yaml")
        changes = _SETTINGS | {"download.path": str(archive.resolve())}
        changes |= {"train.epochs": epochs, "train.validate_every": epochs}
        for name, value in changes.items():
            *sections, key = name.split(".")
            section = values
            for part in sections:
                section = section[part]
            section[key] = value
        write_json(folder / "params.yaml", values)  # JSON is YAML
        (folder / "dvc.yaml").write_bytes((_REPOSITORY / "dvc.yaml").read_bytes())
        (folder / "data/corrections").mkdir(parents=True)
        for package in ("fcos", "pipeline"):  # stages compare the code before and after
            (folder / package).symlink_to(_REPOSITORY / package)
        for stage in ("download", "convert"):
            self.run(stage)
        self.params = params.load(folder / "params.yaml")
        self.train = annotations.read(folder / "data/unified/train.json")

    def run(self, stage: str) -> None:
        command = [sys.executable, "-m", f"pipeline.stages.{stage}"]
        done = subprocess.run(command, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(done.stderr.strip().splitlines()[-1])

    def ap50(self, images: Iterable[Image]) -> float:
        """Trains on these images, and returns AP50 of the last validation."""
        annotations.write(self.train.subset(images), self.folder / "data/unified/train.json")
        self.run("train")
        rows = (self.folder / "plots/validation.csv").read_text().splitlines()
        return float(dict(zip(rows[0].split(","), rows[-1].split(","), strict=True))["AP50"])

    def suggest(self, labeled: Sequence[Image], unlabeled: Sequence[Image], count: int) -> list[Image]:
        """The images that `fcos suggest` would choose, with the thresholds of an evaluation."""
        self.run("evaluate")
        weights = self.folder / "models/detector.safetensors"
        model = SavedDetector.load(weights, choose_device("cpu"))
        raw, by_path = self.folder / "data/raw" / self.params.dataset, {}
        for image in [*labeled, *unlabeled]:
            by_path[raw / image.file_name] = image
        files = ((path, (image.width, image.height)) for path, image in by_path.items())
        pictures = list(look_at_all(model, files, make_postprocess(self.params.postprocess), _raise))
        first, rest = pictures[: len(labeled)], pictures[len(labeled) :]
        thresholds = score_thresholds(weights, model.class_names)
        chosen = choose(rest, [picture.vector for picture in first], thresholds, count)
        return [by_path[item.picture.path] for item in chosen]


def _raise(error: PipelineError) -> None:
    raise error


def draw(project: Project, number: int, labeled: int, count: int) -> Draw:
    images = random.Random(number).sample(list(project.train.images), len(project.train.images))
    first, rest = images[:labeled], images[labeled:]
    before = project.ap50(first)
    suggested = project.suggest(first, rest, count)
    return Draw(before, project.ap50([*first, *suggested]), project.ap50([*first, *rest[:count]]))


def mean_gain(draws: Sequence[Draw]) -> tuple[float, float]:
    """The mean of the paired differences, and half of its 95 % interval; infinite for one draw."""
    gains = [item.gain for item in draws]
    if len(gains) < 2:
        return gains[0], math.inf
    half = _T.get(len(gains) - 1, 1.96) * statistics.stdev(gains) / math.sqrt(len(gains))
    return statistics.fmean(gains), half


def verdict(draws: Sequence[Draw]) -> str:
    mean, half = mean_gain(draws)
    interval = f"{100 * mean:+.1f} ± {100 * half:.1f} points of AP50 (95 %, paired)"
    if mean > half:
        return f"Suggested images gain over random ones: {interval}."
    if mean < -half:
        return f"Suggested images lose against random ones: {interval}."
    return f"No gain over random images is shown: {interval}."


def card(draws: Sequence[Draw], options: argparse.Namespace, data: AnnotationSet) -> str:
    rows = [
        f"| {number} | {100 * item.labeled:.1f} | {100 * item.random:.1f} | {100 * item.suggested:.1f} "
        f"| {100 * item.gain:+.1f} |"
        for number, item in enumerate(draws)
    ]
    table = "\n".join(rows)
    return f"""# Suggested images, {options.archive.stem}, {today()}

{context()}

    python -m benchmarks.suggestions {options.archive.name} --draws {len(draws)} --labeled {options.labeled} \\
        --count {options.count} --epochs {options.epochs}

{len(data.images)} images with labels; settings: `{json.dumps(_SETTINGS)}`. AP50 in percent on the validation split.

| draw | {options.labeled} images | + {options.count} random | + {options.count} suggested | difference |
|---|---|---|---|---|
{table}

{verdict(draws)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.suggestions", description=__doc__)
    parser.add_argument("archive", type=Path, help="a data set with the splits trainval and test, such as BCCD")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--labeled", type=int, default=40, help="images of the first training")
    parser.add_argument("--count", type=int, default=40, help="images added")
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args()
    draws: list[Draw] = []
    with tempfile.TemporaryDirectory(prefix="suggestions-") as folder:
        project = Project(Path(folder), options.archive, options.epochs)
        for number in range(options.draws):
            draws.append(draw(project, number, options.labeled, options.count))
            print(f"draw {number}: {draws[-1]}, gain {draws[-1].gain:+.3f}", flush=True)
        print(verdict(draws))
        print(save_card(card(draws, options, project.train), "suggestions", Path(__file__).parent / "results"))


if __name__ == "__main__":
    main()
