import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fcos.config import PAPER
from fcos.detector import build
from fcos.weights import Description, load_detector, save_detector

MODEL = replace(
    PAPER,
    backbone="efficientnet_lite0",
    channels=16,
    levels=(3, 4, 5),
    tower_depth=1,
    frozen_stages=0,
    batch_norm="auto",
)
ABOUT = Description(model=MODEL, categories=((7, "cat"), (3, "dög")), size=(320, 416))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "detector.safetensors"
    save_detector(build(MODEL, 2), ABOUT, path)
    return path


def test_a_saved_detector_detects_the_same(saved: Path) -> None:
    torch.manual_seed(0)
    original = build(MODEL, 2).eval()
    loaded, about = load_detector(saved)
    assert about == ABOUT
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    with torch.no_grad():
        a, b = (detector(detector.prepare([image])) for detector in (original, loaded))
    torch.testing.assert_close(a.logits, b.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(a.ltrb, b.ltrb, rtol=1e-5, atol=1e-4)


def test_same_detector_same_bytes(saved: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    again = tmp_path / "again.safetensors"
    save_detector(build(MODEL, 2), ABOUT, again)
    assert again.read_bytes() == saved.read_bytes()
    assert again.with_suffix(".json").read_bytes() == saved.with_suffix(".json").read_bytes()


def test_the_saved_normalisation_is_used(saved: Path) -> None:
    text = json.loads(saved.with_suffix(".json").read_text())
    text["normalisation"]["mean"] = [0.0, 0.0, 0.0]
    saved.with_suffix(".json").write_text(json.dumps(text))
    detector, _ = load_detector(saved)
    assert detector.prepare([torch.zeros(3, 32, 32, dtype=torch.uint8)]).abs().max() == 0


def test_a_batch_normed_backbone_comes_back(tmp_path: Path) -> None:
    model = replace(MODEL, backbone="tiny", pretrained=False)
    path = tmp_path / "tiny.safetensors"
    original = build(model, 1)
    save_detector(original, Description(model=model, categories=((1, "a"),), size=(64, 64)), path)
    loaded = load_detector(path)[0].state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in original.state_dict().items())


def damage(path: Path, how: str) -> None:
    about = path.with_suffix(".json")
    text = json.loads(about.read_text())
    match how:
        case "no weights":
            path.unlink()
        case "no description":
            about.unlink()
        case "not JSON":
            about.write_text("{")
        case "another version":
            about.write_text(json.dumps(text | {"version": 99}))
        case "another architecture":
            about.write_text(json.dumps(text | {"model": text["model"] | {"channels": 32}}))
        case "another number of classes":
            about.write_text(json.dumps(text | {"categories": text["categories"] * 2}))
        case "no normalisation":
            about.write_text(json.dumps(text | {"normalisation": None}))
        case "an unknown backbone":
            about.write_text(json.dumps(text | {"model": text["model"] | {"backbone": "foo"}}))
        case "cut weights":
            path.write_bytes(path.read_bytes()[:-1000])


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ("no weights", r"detector.safetensors: no such file"),
        ("no description", r"detector.json: no such file"),
        ("not JSON", "detector.json: not a detector's description"),
        ("another version", "version 99, but this program reads version 2"),
        ("another architecture", "does not hold the weights"),
        ("another number of classes", "does not hold the weights"),
        ("no normalisation", "not a detector's description"),
        ("an unknown backbone", "not a detector's description"),
        ("cut weights", "does not hold the weights"),
    ],
)
def test_damaged_files_are_told(saved: Path, how: str, problem: str) -> None:
    damage(saved, how)
    with pytest.raises(ValueError, match=problem) as caught:
        load_detector(saved)
    assert "\n" not in str(caught.value)
