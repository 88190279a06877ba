"""`fcos check` on small data sets, and its arithmetic by hand."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from pipeline import params
from pipeline.analysis.check import Measurements, _load, check, format_duration, read_splits, share_of_process
from pipeline.cli import main
from pipeline.data import annotations
from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image
from pipeline.errors import PipelineError
from pipeline.loading import dataset
from pipeline.loading.tiles import TiledData

MEASUREMENTS = Measurements(
    device="CPU",
    processes=1,
    epochs=10,
    steps=100,
    batch_size=16,
    val_images=50,
    validations=5,
    workers=0,
    decode_time=0.01,
    step_time=0.8,
    validation_time=0.1,
    save_time=0.1,
    load_time=0.1,
    state_size=3 << 20,
    peak_memory=900 << 20,
    first_loss=2.0,
)


@pytest.fixture
def small(home: Path, setting: Callable[..., None], picture: Callable[..., Path]) -> Path:
    """A workspace with ten small training images and three validation images."""
    for name, count in (("train", 10), ("val", 3)):
        for number in range(count):
            picture(home / f"data/raw/digits/{name}{number}.png", (64, 64), seed=number)
        images = tuple(Image(n + 1, f"{name}{n}.png", 64, 64) for n in range(count))
        objects = tuple(Annotation(n + 1, n + 1, 1 + n % 2, (8.0, 8.0, 30.0, 24.0), 720.0) for n in range(count))
        split = AnnotationSet((Category(1, "cat"), Category(2, "dog")), images, objects)
        annotations.write(split, home / f"data/unified/{name}.json")
    setting(**{"train.size": [64, 64], "train.batch_size": 6, "machine.device": "cpu", "model.levels": [3, 4]})
    return home


def fcos_check(*options: str) -> Result:
    return CliRunner().invoke(main, ["check", *options])


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize(
    "changes", [{}, {"machine.workers": 2, "train.accumulate": 2, "machine.cache": True}, {"train.overfit": 2}]
)
def test_all_lines_are_printed_and_no_file_is_left_behind(
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
    answer = fcos_check("-S", "train.batch_size=4")
    assert answer.exit_code == 0, answer.output
    assert answer.stderr == "" or "overfit" not in changes
    for line in (
        r"^CPU$",
        r"^decoding and augmentation +[\d,.]+ images/s by one core",
        r"^training step +[\d.,]+ images/s \([\d.]+ s for [24] images\)$",
        r"^validation +[\d.,]+ images/s",
        r"^peak memory +[\d,]{3,} MiB$",
        r"^checkpoint +\d+\.\d MiB; \d+\.\d\d s to save",
        r"^whole training +about .+: (11 epochs of 2|20 epochs of 50) steps, (11 validations of 3|20 validations of 2)",
    ):
        assert re.search(line, answer.stdout, re.MULTILINE), (line, answer.stdout)
    assert files(small) == before
    assert list(temporary.iterdir()) == []


def test_advice_follows_on_stderr(small: Path, setting: Callable[..., None]) -> None:  # noqa: ARG001
    setting(**{"train.lr": 5.0})
    assert "fcos: a learning rate of 5 is far too high for muon: try train.lr 0.01\n" in fcos_check().stderr


def test_without_data(home: Path) -> None:
    answer = fcos_check()
    assert answer.exit_code == 1
    assert answer.output == f"fcos: {home}/data/unified/train.json: does not exist yet; run `dvc repro convert` first\n"


def test_errors_are_those_of_training(small: Path, setting: Callable[..., None]) -> None:
    (small / "data/raw/digits/val1.png").unlink()
    answer = fcos_check()
    assert answer.exit_code == 1
    assert answer.stderr == f"fcos: {small}/data/raw/digits/val1.png: no such file\n"
    setting(**{"train.lr": 1e38})
    answer = fcos_check()
    assert answer.exit_code == 1
    assert re.fullmatch(r"fcos: step \d: the loss is not finite: total .*; try a lower train\.lr, .*\n", answer.stderr)


@pytest.mark.parametrize(("workers", "decodings"), [(0, 3 / 27), (2, 6 / 27), (20, 1.0)])
def test_the_first_tiles_of_images_decode_them(
    home: Path, picture: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, workers: int, decodings: float
) -> None:
    """Decoding an image takes 2 s and cropping 1/8 s; an epoch has three images with eight tiles each."""
    clock, read_image, read = [0.0], dataset.read_image, TiledData.read

    def slow(function: Callable[..., Any], seconds: float) -> Callable[..., Any]:
        def call(*arguments: object) -> object:
            clock[0] += seconds
            return function(*arguments)

        return call

    monkeypatch.setattr(dataset, "read_image", slow(read_image, 2.0))
    monkeypatch.setattr(TiledData, "read", slow(read, 0.125))
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    for number in range(3):
        picture(home / f"{number}.png", (256, 128), seed=number)
    images = tuple(Image(n + 1, f"{n}.png", 256, 128) for n in range(3))
    split = AnnotationSet((Category(1, "cat"),), images, (Annotation(1, 1, 1, (8.0, 8.0, 9.0, 9.0), 81.0),))
    values = params.load()
    train = replace(values.train, tiles=(64, 0.0), size=(64, 64), batch_size=4, empty_tiles=1.0, min_visibility=0.0)
    chosen = share_of_process(replace(values, train=train), 1)
    assert _load(chosen, split, home, max(1, workers))[1] == pytest.approx(0.125 + 2 * decodings)


def test_time_of_the_whole_training_by_hand() -> None:
    assert MEASUREMENTS.epoch_time == pytest.approx(100 * (0.8 + 0.16))
    assert MEASUREMENTS.whole_validation_time == pytest.approx(5.0)
    assert MEASUREMENTS.training_time == pytest.approx(10 * 96 + 5 * 5)


@pytest.mark.parametrize(("workers", "processes"), [(1, 1), (4, 2)])
def test_workers_decode_during_training_steps(workers: int, processes: int) -> None:
    assert replace(MEASUREMENTS, workers=workers, processes=processes).epoch_time == pytest.approx(100 * 0.8)
    slow = replace(MEASUREMENTS, workers=workers, processes=processes, decode_time=1.0)
    assert slow.epoch_time == pytest.approx(100 * 16 / workers / processes)


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
    assert format_duration(seconds) == words


def test_lack_of_gpu_memory_is_one_line(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.\nMore")

    monkeypatch.setattr("fcos.training.trainer.Trainer._step", full)
    answer = fcos_check()
    assert answer.exit_code == 1
    assert answer.stderr.startswith("fcos: CUDA out of memory. Tried to allocate 20 GiB. Raise train.accumulate")
    assert answer.stderr.endswith("training then starts from the beginning\n")
    assert answer.stderr.count("\n") == 1


def test_a_batch_that_gpus_cannot_share_is_the_error_of_training(
    small: Path,  # noqa: ARG001
    setting: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.training.launch.choose_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    setting(**{"train.batch_size": 6, "train.accumulate": 2, "machine.devices": "auto"})
    answer = fcos_check()
    assert answer.exit_code == 1
    assert answer.stdout == ""
    assert answer.stderr.startswith("fcos: params.yaml: train.batch_size is 6, which can't be divided evenly among 2 ")
    assert answer.stderr.count("\n") == 1
    setting(**{"machine.devices": 3})
    assert fcos_check().stderr == "fcos: params.yaml: machine.devices is 3, but torch finds 2 GPUs\n"


def test_each_process_measures_its_share_of_a_batch(small: Path, setting: Callable[..., None]) -> None:
    setting(**{"train.batch_size": 8, "train.accumulate": 2, "machine.workers": 4, "machine.cache": True})
    share = share_of_process(params.load(small / "params.yaml"), 2)
    assert (share.train.batch_size, share.train.accumulate) == (4, 2)
    assert (share.machine.workers, share.machine.cache) == (0, False)


def test_no_validation_images(small: Path) -> None:
    train, val = read_splits(small)
    with pytest.raises(PipelineError, match=r"data/unified/val\.json: has no images to validate on"):
        check(params.load(), train, val.subset(()), small)


def test_overfitting_on_two_gpus_gives_each_its_share(
    small: Path, setting: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two images on two GPUs with two parts each need a batch of four: two images for each process."""
    monkeypatch.setattr("pipeline.analysis.check.num_processes", lambda _: 2)
    shares = []
    monkeypatch.setattr("pipeline.analysis.check._measure", lambda params, *_, **__: shares.append(params))
    setting(**{"train.overfit": 2, "train.accumulate": 2})
    values = params.load(small / "params.yaml")
    train, val = read_splits(small)
    check(values, train, val, small / "data/raw/digits")
    assert [share_of_process(share, 2).train.batch_size for share in shares] == [2]
