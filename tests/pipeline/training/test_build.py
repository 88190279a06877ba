"""The trainer and the batches that parameters describe."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from fcos.backbones import build_backbone
from fcos.fast.compiled import CompiledModel
from fcos.training.amp import fastest_precision
from fcos.training.history import NullCallback
from fcos.training.muon import Muon
from fcos.training.trainer import Trainer
from pipeline import params
from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image
from pipeline.errors import PipelineError
from pipeline.inference.views import Views
from pipeline.training import build
from pipeline.training.build import (
    learning_rate,
    make_batches,
    make_trainer,
    make_validation,
    resolve_precision,
    to_iterations,
)
from tests.support.noise_images import write_noise_images


def test_a_relative_path_of_pretrained_weights_is_relative_to_the_main_repository(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`dvc exp run --queue` runs in a temporary workspace, which has no copy of ignored files."""
    main = tmp_path / "main"
    main.mkdir()
    values = params.load(home / "params.yaml")
    backbone = build_backbone(values.model)
    torch.save(backbone.parts.state_dict(), main / "start.pth")
    monkeypatch.setenv("DVC_ROOT", str(main))

    def backbone_from(name: str) -> torch.nn.Module:
        chosen = replace(values, seed=1, model=replace(values.model, pretrained=name, batch_norm="trained"))
        return trainer_of(chosen, home).detector.backbone.parts

    loaded = backbone_from("start.pth").state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in backbone.parts.state_dict().items())
    with pytest.raises(PipelineError, match=r"params\.yaml: model\.pretrained: .*main/other\.pth"):
        backbone_from("other.pth")


def test_validation_detects_in_the_tiles_of_training(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    views = []

    def detect_split(detect: partial[object], *_: object, **__: object) -> list[object]:
        views.append(detect.keywords["views"])
        return []

    monkeypatch.setattr(build, "detect_split", detect_split)
    values = params.load(home / "params.yaml")
    split = AnnotationSet((Category(1, "cat"),), (Image(1, "a.png", 40, 30),), ())
    for tiles in (None, (64, 0.25)):
        validate = make_validation(replace(values, train=replace(values.train, tiles=tiles)), split, home)
        assert validate(trainer_of(values, home).detector) == {"AP": 0.0, "AP50": 0.0}
    assert views == [Views(), Views(tiles=(64, 0.25))]


def trainer_of(values: params.Params, home: Path) -> Trainer:
    """A trainer for one image with one object; the image file does not exist."""
    annotation = Annotation(1, 1, 1, (1.0, 1.0, 9.0, 9.0), 81.0)
    split = AnnotationSet((Category(1, "cat"),), (Image(1, "a.png", 40, 30),), (annotation,))
    batches = make_batches(values, split, home)
    return make_trainer(
        values, batches=batches, validate=dict, classes=["cat"], callback=NullCallback(), checkpoint=None
    )


@pytest.mark.parametrize(
    ("unit", "value", "expected"), [("fraction", 0.25, 10), ("epochs", 1.5, 15), ("iterations", 7, 7)]
)
def test_lengths_are_converted_from_each_unit(home: Path, unit: str, value: float, expected: int) -> None:
    """Of four epochs of ten steps."""
    train = replace(params.load(home / "params.yaml").train, epochs=4, steps=(1.0,), warmup=1.0, schedule_unit=unit)
    assert to_iterations(train, 10, value) == expected


def test_the_learning_rate_is_scaled_with_the_batch_size(home: Path) -> None:
    train = replace(params.load(home / "params.yaml").train, lr=0.01, batch_size=8)
    assert learning_rate(train) == 0.01
    assert learning_rate(replace(train, base_batch_size=16)) == pytest.approx(0.005)
    assert learning_rate(replace(train, base_batch_size=2)) == pytest.approx(0.04)


def test_the_parameters_reach_the_trainer(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.setenv(variable, str(home))  # so that its value is restored
    values = params.load(home / "params.yaml")
    default = trainer_of(values, home)
    weight = default.detector.head.class_logits.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert default.compile_model(default.detector) is default.detector
    assert default.precision.name == resolve_precision(values).name == fastest_precision(torch.device("cpu"))
    assert capsys.readouterr().err == ""
    assert isinstance(default.optimizer, Muon)
    changed = replace(
        values.train,
        channels_last=False,
        compile=True,
        precision="fp16",
        optimizer="sgd",
        lr=0.1,
        batch_size=8,
        base_batch_size=16,
        schedule="plateau",
        plateau_patience=2,
        gamma=0.5,
        warmup=0.0,
        ema_decay=0.0,
        backbone_frozen_epochs=2,
    )
    other = trainer_of(replace(values, train=changed), home)
    weight = other.detector.head.class_logits.weight
    assert weight.is_contiguous()
    assert not weight.is_contiguous(memory_format=torch.channels_last)
    assert isinstance(other.compile_model(other.detector), CompiledModel)
    assert other.precision.dtype is torch.float16
    assert [group["lr"] for group in other.optimizer.param_groups] == [0.05, 0.05]
    assert default.plateau is None
    assert other.plateau is not None
    for _ in range(3):  # a first validation, and two that are not better
        other.plateau.on_validation(1, 0.1)
    assert [group["lr"] for group in other.optimizer.param_groups] == [0.025, 0.025]
    assert other.ema is None
    assert other.backbone_frozen_epochs == 2


def test_a_precision_that_the_cpu_lacks_gives_a_one_line_warning(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    values = params.load(home / "params.yaml")
    trainer_of(
        replace(values, train=replace(values.train, precision="bf16"), machine=replace(values.machine, device="cpu")),
        home,
    )
    assert capsys.readouterr().err.splitlines() == ["train: train.precision: on this CPU, bf16 is slower than float32"]


def test_the_parameters_reach_the_batches(home: Path) -> None:
    split = write_noise_images(home / "raw", [(48, 64), (64, 48), (40, 80), *[(48, 64)] * 7])
    values = params.load(home / "params.yaml")
    train = replace(values.train, max_images=5, batch_size=2, size=(64, 96))
    values = replace(values, machine=replace(values.machine, cache=True, workers=0))
    batches = make_batches(replace(values, train=train), split, home / "raw")
    assert len(batches.data) == 5
    assert [len(list(batches(epoch))) for epoch in range(2)] == [2, 2]
    (folder,) = home.glob(".fcos/cache/raw/*/sides-64-96")
    sums = np.fromfile(folder / "sums", dtype=np.uint64)
    assert set(np.flatnonzero(sums)) <= set(batches.data.image_indices.tolist())
    assert not batches.pin_memory or torch.cuda.is_available()
    assert batches.repeat_factors is None
    repeating = make_batches(replace(values, train=replace(train, repeat_threshold=0.5)), split, home / "raw")
    assert repeating.repeat_factors.tolist() == [1] * 5  # all images have the only class
    varied = replace(train, multi_scale=(48, 80))
    make_batches(replace(values, train=varied), split, home / "raw")
    assert list(home.glob(".fcos/cache/raw/*/sides-80-96"))
