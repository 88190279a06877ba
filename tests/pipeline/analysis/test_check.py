"""`fcos check`: one step of everything, and nothing of it left behind."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from pipeline.analysis.check import Measured, duration
from pipeline.cli import main
from pipeline.data import annotations
from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image

MEASURED = Measured(
    device="CPU",
    processes=1,
    epochs=10,
    steps=100,
    images=16,
    judged=50,
    validations=5,
    workers=0,
    decoding=0.01,
    step=0.8,
    validating=0.1,
    saving=0.1,
    loading=0.1,
    state=3 << 20,
    memory=900 << 20,
    loss=2.0,
)


@pytest.fixture
def small(home: Path, setting: Callable[..., None], picture: Callable[..., Path]) -> Path:
    """A workspace with ten small images to learn from, and three to be judged on."""
    for name, count in (("train", 10), ("val", 3)):
        for number in range(count):
            picture(home / f"data/raw/digits/{name}{number}.png", (64, 64), seed=number)
        images = tuple(Image(n + 1, f"{name}{n}.png", 64, 64) for n in range(count))
        objects = tuple(Annotation(n + 1, n + 1, 1 + n % 2, (8.0, 8.0, 30.0, 24.0), 720.0) for n in range(count))
        split = AnnotationSet((Category(1, "cat"), Category(2, "dog")), images, objects)
        annotations.write(split, home / f"data/unified/{name}.json")
    setting(**{"train.size": [64, 64], "train.batch_size": 4, "machine.device": "cpu", "model.levels": [3, 4]})
    return home


def fcos_check() -> Result:
    return CliRunner().invoke(main, ["check"])


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize(
    "changes", [{}, {"machine.workers": 2, "train.accumulate": 2, "machine.cache": True}, {"train.overfit": 2}]
)
def test_everything_runs_and_nothing_is_left(
    small: Path,
    setting: Callable[..., None],
    changes: dict[str, object],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    temporary = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    setting(**changes)
    before = files(small)
    answer = fcos_check()
    assert answer.exit_code == 0, answer.output
    assert answer.stderr == "" or "overfit" not in changes
    for line in (
        r"^CPU$",
        r"^decoding and augmenting +[\d,.]+ images/s by one core",
        r"^training step +[\d.,]+ images/s \([\d.]+ s for [24] images\)$",
        r"^validation +[\d.,]+ images/s",
        r"^memory +[\d,]{3,} MiB at its peak$",
        r"^state +\d+\.\d MiB; \d+\.\d\d s to save",
        r"^whole training +about .+: (8 epochs of 2|20 epochs of 50) steps, (8 validations of 3|20 validations of 2)",
    ):
        assert re.search(line, answer.stdout, re.MULTILINE), (line, answer.stdout)
    assert files(small) == before
    assert list(temporary.iterdir()) == []


def test_advice_comes_after(small: Path, setting: Callable[..., None]) -> None:  # noqa: ARG001
    setting(**{"train.lr": 5.0})
    assert "fcos: a learning rate of 5 is far too high for adamw: try train.lr 0.001\n" in fcos_check().stderr


def test_without_data(home: Path) -> None:
    answer = fcos_check()
    assert answer.exit_code == 1
    assert answer.output == f"fcos: {home}/data/unified/train.json: not there yet: run `dvc repro convert` first\n"


def test_errors_are_those_of_training(small: Path, setting: Callable[..., None]) -> None:
    (small / "data/raw/digits/val1.png").unlink()
    answer = fcos_check()
    assert answer.exit_code == 1
    assert answer.stderr == f"fcos: {small}/data/raw/digits/val1.png: no such file\n"
    setting(**{"train.lr": 1e38})
    answer = fcos_check()
    assert answer.exit_code == 1
    assert re.fullmatch(r"fcos: step \d: the loss is not finite: total .*; try a lower train\.lr, .*\n", answer.stderr)


def test_time_of_a_whole_training() -> None:
    assert MEASURED.epoch == pytest.approx(100 * (0.8 + 0.16))
    assert MEASURED.validation == pytest.approx(5.0)
    assert MEASURED.whole == pytest.approx(10 * 96 + 5 * 5)


@pytest.mark.parametrize(("workers", "processes"), [(1, 1), (4, 2)])
def test_workers_decode_beside_the_step(workers: int, processes: int) -> None:
    assert replace(MEASURED, workers=workers, processes=processes).epoch == pytest.approx(100 * 0.8)
    slow = replace(MEASURED, workers=workers, processes=processes, decoding=1.0)
    assert slow.epoch == pytest.approx(100 * 16 / workers / processes)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 s"),
        (59.6, "1 min 0 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 5 min"),
        (3599.9, "1 h 0 min"),
        (4e5, "4 d 15 h"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_gpu_without_enough_memory_is_one_line(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.\nMore")

    monkeypatch.setattr("fcos.training.trainer.Trainer._learn", full)
    answer = fcos_check()
    assert answer.exit_code == 1
    assert answer.stderr.startswith("fcos: CUDA out of memory. Tried to allocate 20 GiB. Raise train.accumulate")
    assert answer.stderr.endswith("training then starts from the beginning\n")
    assert answer.stderr.count("\n") == 1
