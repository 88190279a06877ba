"""What does `model.start_from` gain? A detector of `digits` learns other generated images, for one epoch.

    python -m benchmarks.start_from

AP on the validation split after the epoch, from scratch and from the detector: with the detector's own classes, whose
rows are matched by name, and with two classes that it does not have. A dated card is written.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.harness import context, save_card, today
from pipeline.files import write_json
from pipeline.yaml_files import read_yaml

_REPOSITORY = Path(__file__).resolve().parents[1]
_CLASSES: dict[str, Any] = {
    "the ten digits": None,
    "even and odd": {"even": ["0", "2", "4", "6", "8"], "odd": ["1", "3", "5", "7", "9"]},
}


def make_project(folder: Path, changes: dict[str, Any]) -> None:
    """Makes a folder with generated, converted data, in which training can run."""
    values = read_yaml(_REPOSITORY / "params.yaml")
    write_params(folder, values, {"machine.device": "cpu"} | changes)
    link_code(folder)
    for stage in ("download", "convert"):
        run(folder, stage)


def link_code(folder: Path) -> None:
    """Gives a folder this repository's dvc.yaml and code: stages compare the code before and after."""
    (folder / "dvc.yaml").write_bytes((_REPOSITORY / "dvc.yaml").read_bytes())
    for package in ("fcos", "pipeline"):
        (folder / package).symlink_to(_REPOSITORY / package)


def write_params(folder: Path, values: Any, changes: dict[str, Any]) -> None:
    for name, value in changes.items():
        *sections, key = name.split(".")
        section = values
        for part in sections:
            section = section[part]
        section[key] = value
    folder.mkdir(exist_ok=True)
    write_json(folder / "params.yaml", values)  # JSON is YAML


def run(folder: Path, stage: str) -> str:
    """Runs a stage, and returns what it printed."""
    command = [sys.executable, "-m", f"pipeline.stages.{stage}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr.strip().splitlines()[-1])
    return done.stderr


def train(folder: Path, changes: dict[str, Any]) -> tuple[float, float, str]:
    """Trains, and returns AP and AP50 of the last validation, and the line on what was taken from a file."""
    write_params(folder, read_yaml(folder / "params.yaml"), changes)
    lines = run(folder, "train").replace("\r", "\n").splitlines()
    taken = next((line.partition(": took ")[2] for line in lines if "model.start_from" in line), "")
    val = read_yaml(folder / "metrics/train.json")["val"]
    return val["AP"], val["AP50"], taken


def make_detector(folder: Path, options: argparse.Namespace) -> Path:
    """The folder with a detector that the options describe, which is trained unless there is one."""
    if options.models:
        return Path(options.models).resolve()
    make_project(folder, {"download.digits.train": options.images, "train.validate_every": options.epochs})
    train(folder, {"train.epochs": options.epochs})
    return folder / "models"


def measure(folder: Path, models: Path, classes: str, options: argparse.Namespace) -> list[str]:
    """Rows of the table: AP from scratch and from the detector, for each training seed."""
    data = {"download.digits.seed": 1, "download.digits.train": options.other_images, "download.digits.val": 80}
    make_project(folder, data | {"train.epochs": 1, "convert.classes": _CLASSES[classes]})
    rows = []
    for seed in range(options.seeds):
        scratch = train(folder, {"seed": seed, "model.start_from": "data/start_from"})
        start = train(folder, {"seed": seed, "model.start_from": str(models)})
        numbers = [f"{value:.3f}" for value in (*scratch[:2], *start[:2])]
        rows.append(f"| {classes} | {seed} | {' | '.join(numbers)} | {start[2]} |")
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start_from", description=__doc__)
    parser.add_argument("--images", type=int, default=400, help="training images of the detector to start from")
    parser.add_argument("--epochs", type=int, default=8, help="epochs of that detector")
    parser.add_argument("--models", help="a folder with a detector to start from, instead of training one")
    parser.add_argument("--other-images", type=int, default=200, help="images that it then learns")
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="start-from-") as name:
        models = make_detector(Path(name) / "first", options)
        rows = [row for classes in _CLASSES for row in measure(Path(name) / classes, models, classes, options)]
    table = "\n".join(rows)
    sizes = f"--images {options.images} --epochs {options.epochs} --other-images {options.other_images}"
    command = f"python -m benchmarks.start_from {sizes} --seeds {options.seeds}"
    text = f"""# Starting from another detector, {today()}

{context()}

    {command}

A detector of `digits` ({options.images} images of seed 0, {options.epochs} epochs, otherwise params.yaml) learns
{options.other_images} images of `download.digits.seed=1` for one epoch. AP and AP50 on 80 images.

| classes | seed | AP from scratch | AP50 | AP from the detector | AP50 | taken from the detector |
|---|---|---|---|---|---|---|
{table}
"""
    print(save_card(text, "start-from", Path(__file__).parent / "results"))


if __name__ == "__main__":
    main()
