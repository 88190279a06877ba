"""`fcos predict` post-processes as params.yaml configures it; options override it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from fcos.config import PAPER, InputSize
from fcos.detector import build
from fcos.postprocess import Postprocess
from fcos.weights import Description, save_detector
from pipeline import recipes
from pipeline.cli import main
from pipeline.inference.postprocess import make_postprocess, project_postprocess

Settings = Callable[..., None]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """An untrained detector that scores every location above the threshold."""
    torch.manual_seed(0)
    config = replace(PAPER, backbone="tiny", pretrained=False, channels=16, levels=(3, 4, 5), tower_depth=1)
    config = replace(config, frozen_stages=0, batch_norm="auto")
    detector = build(config, 2)
    torch.nn.init.zeros_(detector.head.class_logits.bias)
    path = tmp_path / "weights/detector.safetensors"
    description = Description(model=config, categories=((1, "cat"), (2, "dog")), input_size=InputSize((64, 64)))
    save_detector(detector, description, path)
    return path


@pytest.fixture
def images(tmp_path: Path, picture: Callable[..., Path]) -> Path:
    for seed in range(2):
        picture(tmp_path / f"images/{seed}.png", (64, 64), seed)
    return tmp_path / "images"


def count_detections(weights: Path, images: Path, *options: str) -> list[int]:
    """The number of detections in each image."""
    command = ["predict", str(images), "--weights", str(weights), "--json", "--score", "0", *options]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    return [len(json.loads(line)["detections"]) for line in result.stdout.splitlines()]


@pytest.mark.usefixtures("home")
def test_predict_uses_the_postprocessing_of_params_yaml(setting: Settings, weights: Path, images: Path) -> None:
    setting(**{"postprocess.max_detections": 1})
    assert count_detections(weights, images) == [1, 1]


@pytest.mark.usefixtures("home")
def test_options_override_params_yaml(setting: Settings, weights: Path, images: Path) -> None:
    setting(**{"postprocess.max_detections": 1})
    assert count_detections(weights, images, "--max-detections", "3") == [3, 3]
    setting(**{"postprocess.max_detections": 1000, "postprocess.nms_iou_threshold": 0.0})
    apart = count_detections(weights, images)
    all_boxes = count_detections(weights, images, "--nms-iou-threshold", "1")
    assert all(few < many for few, many in zip(apart, all_boxes, strict=True))


def test_the_defaults_apply_outside_a_project(
    tmp_path: Path, weights: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert project_postprocess() == Postprocess()
    found = count_detections(weights, images)
    assert all(1 < number <= Postprocess().max_detections for number in found)
    assert count_detections(weights, images, "--max-detections", "1") == [1, 1]


def test_the_defaults_apply_in_a_project_of_another_kind(home: Path) -> None:
    (home / "params.yaml").write_text("lr: 0.1\n")
    assert project_postprocess() == Postprocess()
    (home / "params.yaml").unlink()
    assert project_postprocess(max_detections=7) == Postprocess(max_detections=7)


def test_a_wrong_section_is_one_line(home: Path, weights: Path, images: Path) -> None:
    sections = {
        "{nms: hard}": "postprocess.score_threshold is missing",
        "{maximum: 3}": "postprocess.maximum is unknown; known ones: score_threshold, score_mode,",
        "null": "postprocess is None, but should have the keys",
    }
    for section, message in sections.items():
        (home / "params.yaml").write_text(f"postprocess: {section}\n")
        result = CliRunner().invoke(main, ["predict", str(images), "--weights", str(weights)])
        assert result.exit_code == 1
        assert f"params.yaml: {message}" in result.stderr
        assert result.stderr.count("\n") == 1


def test_the_defaults_of_params_yaml_are_those_of_the_detector() -> None:
    """So `fcos predict` gives the same detections inside and outside a project with unchanged params.yaml."""
    assert make_postprocess(recipes.defaults().postprocess) == Postprocess()
