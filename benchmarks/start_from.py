"""What does `model.start_from` gain? A detector of the digits 0 to 4 learns 5 to 9 in other images, for one epoch.

    python -m benchmarks.start_from

AP on the validation split after the epoch, from scratch and from the detector, for several training seeds. The images
and the photographs of the digits in them differ from those of the detector's training (`download.digits.seed`). A
dated card is written.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.harness import context, save_card, today
from pipeline.files import write_json
from pipeline.yaml_files import read_yaml

_REPOSITORY = Path(__file__).resolve().parents[1]
_SIZE = 128  # pixels of an image's sides
_FIRST, _OTHER = ["0", "1", "2", "3", "4"], ["5", "6", "7", "8", "9"]


def make_project(folder: Path, changes: dict[str, Any]) -> None:
    """Makes a folder with generated, converted data, in which training can run."""
    values = read_yaml(_REPOSITORY / "params.yaml")
    common = {"download.digits.size": _SIZE, "train.size": [_SIZE, _SIZE], "convert.checks.unknown_class": "skip"}
    write_params(folder, values, common | {"machine.device": "cpu"} | changes)
    (folder / "dvc.yaml").write_bytes((_REPOSITORY / "dvc.yaml").read_bytes())
    for package in ("fcos", "pipeline"):  # stages compare the code before and after
        (folder / package).symlink_to(_REPOSITORY / package)
    for stage in ("download", "convert"):
        run(folder, stage)


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
    taken = next((line.partition("took")[2] for line in lines if "model.start_from" in line), "")
    val = read_yaml(folder / "metrics/train.json")["val"]
    return val["AP"], val["AP50"], taken


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start_from", description=__doc__)
    parser.add_argument("--images", type=int, default=480, help="training images of the detector to start from")
    parser.add_argument("--epochs", type=int, default=5, help="epochs of that detector")
    parser.add_argument("--other-images", type=int, default=240, help="training images of the other digits")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    data = {"download.digits.val": 80, "train.validate_every": 100}
    rows, taken = [], ""
    with tempfile.TemporaryDirectory(prefix="start-from-") as name:
        first, other = Path(name) / "first", Path(name) / "other"
        make_project(first, data | {"download.digits.train": options.images, "convert.classes": _FIRST})
        ap, ap50, _ = train(first, {"train.epochs": options.epochs})
        print(f"the detector to start from: AP {ap:.3f}, AP50 {ap50:.3f}", flush=True)
        changes = {"download.digits.seed": 1, "download.digits.train": options.other_images, "train.epochs": 1}
        make_project(other, data | changes | {"convert.classes": _OTHER})
        for seed in range(options.seeds):
            scratch = train(other, {"seed": seed, "model.start_from": "data/start_from"})
            start = train(other, {"seed": seed, "model.start_from": str(first / "models")})
            taken = start[2]
            rows.append((seed, scratch, start))
            print(f"seed {seed}: from scratch {scratch[0]:.3f}, from the detector {start[0]:.3f}", flush=True)
    table = "\n".join(
        f"| {seed} | {scratch[0]:.3f} | {scratch[1]:.3f} | {start[0]:.3f} | {start[1]:.3f} |"
        for seed, scratch, start in rows
    )
    gain = statistics.fmean(start[0] - scratch[0] for _, scratch, start in rows)
    text = f"""# Starting from another detector, {today()}

{context()}

    python -m benchmarks.start_from --images {options.images} --epochs {options.epochs} \\
        --other-images {options.other_images} --seeds {options.seeds}

A detector of the digits 0 to 4 ({options.images} images, {options.epochs} epochs, AP {ap:.3f}) learns the digits 5 to 9
in {options.other_images} other images of {_SIZE} pixels for one epoch. It took{taken}. AP and AP50 on 80 images, by the
training seed; the mean gain of AP is {gain:+.3f}.

| seed | AP from scratch | AP50 | AP from the detector | AP50 |
|---|---|---|---|---|
{table}
"""
    print(save_card(text, "start-from", Path(__file__).parent / "results"))


if __name__ == "__main__":
    main()
