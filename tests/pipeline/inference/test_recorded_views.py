"""`fcos predict` detects objects in the views of an image with which the score thresholds were chosen."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from fcos.config import PAPER, InputSize
from fcos.detector import build
from fcos.postprocess import Postprocess
from fcos.weights import Description, save_detector
from pipeline.cli import main
from pipeline.data.boxes import xyxy_to_xywh
from pipeline.data.images import read_image
from pipeline.errors import PipelineError
from pipeline.files import digest
from pipeline.inference.recorded_views import choose_views, recorded_views
from pipeline.inference.saved_detector import SavedDetector
from pipeline.inference.views import Views, detect_in_views

FLIPPED = Views(flip=True)


@pytest.fixture
def weights(tmp_path: Path, picture: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """An untrained detector with varied scores, beside an image; outside a project."""
    torch.manual_seed(0)
    config = replace(PAPER, backbone="tiny", pretrained=False, channels=16, levels=(3, 4, 5), tower_depth=1)
    config = replace(config, frozen_stages=0, batch_norm="auto")
    detector = build(config, 1)
    torch.nn.init.normal_(detector.head.class_logits.weight, std=0.1)
    torch.nn.init.zeros_(detector.head.class_logits.bias)
    description = Description(model=config, categories=((1, "cat"),), input_size=InputSize((64, 64)))
    save_detector(detector, description, tmp_path / "models/detector.safetensors")
    picture(tmp_path / "a.png", (100, 64))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "models/detector.safetensors"


def record(weights: Path, views: dict[str, Any] | None) -> Path:
    """Writes the operating points of evaluation, with a threshold that every detection reaches."""
    path = weights.parent.parent / "predictions/operating_point.json"
    path.parent.mkdir(exist_ok=True)
    points = {"weights": digest(weights), "all": {"score": 0.0}, "classes": {}}
    path.write_text(json.dumps(points if views is None else points | {"views": views}))
    return path


def predict(weights: Path, *options: str) -> Result:
    result = CliRunner().invoke(main, ["predict", "a.png", "--weights", str(weights), "--json", *options])
    assert result.exit_code == 0, result.output
    return result


def boxes(result: Result) -> list[list[float]]:
    return [detection["bbox"] for detection in json.loads(result.stdout)["detections"]]


def expected(weights: Path, views: Views) -> list[list[float]]:
    model = SavedDetector.load(weights, torch.device("cpu"))
    images = [read_image(weights.parent.parent / "a.png")]
    (found,) = detect_in_views(model.detector, images, InputSize((64, 64)), Postprocess(), views, 8)
    return [[round(value, 2) for value in xyxy_to_xywh(box)] for box in found.boxes.tolist()]


def test_the_views_of_evaluation_are_the_default(weights: Path) -> None:
    views = Views(flip=True, tiles=(64, 0.2), sizes=((64, 64), (32, 64)))
    record(weights, asdict(views))
    result = predict(weights)
    assert boxes(result) == expected(weights, views) != expected(weights, Views())
    assert result.stderr == (
        "fcos: objects are detected as in the evaluation: sizes 64×64 and 32×64, mirrored too, tiles of 64 pixels "
        "that overlap by 0.2; --plain detects once in each image\n"
    )


def test_plain_detects_once(weights: Path) -> None:
    record(weights, asdict(FLIPPED))
    result = predict(weights, "--plain")
    assert boxes(result) == expected(weights, Views())
    assert result.stderr == (
        "fcos: the score thresholds were chosen with other views of each image (the size of training, mirrored too) "
        "than these (the size of training); --score sets a threshold\n"
    )
    assert predict(weights, "--plain", "--score", "0").stderr == ""


@pytest.mark.parametrize(
    ("options", "views"),
    [
        (["--flip"], FLIPPED),
        (["--size", "32", "64"], Views(sizes=((32, 64),))),
        (
            ["--size", "32", "64", "--size", "64", "96", "--merge", "wbf"],
            Views(sizes=((32, 64), (64, 96)), merge="wbf"),
        ),
        (["--tiles", "64", "0.25"], Views(tiles=(64, 0.25))),
    ],
)
def test_options(weights: Path, options: list[str], views: Views) -> None:
    result = predict(weights, "--score", "0", *options)
    assert boxes(result) == expected(weights, views)
    assert result.stderr == ""  # the detector hasn't been evaluated


def test_options_override_the_recorded_views_one_by_one(weights: Path) -> None:
    record(weights, asdict(replace(FLIPPED, merge="wbf")))
    views, note = choose_views(weights, plain=False, score=None, sizes=((32, 64),), flip=None)
    assert views == Views(flip=True, sizes=((32, 64),), merge="wbf")
    assert note is not None
    assert choose_views(weights, plain=False, score=None, flip=False)[0] == Views(merge="wbf")
    assert choose_views(weights, plain=True, score=None, sizes=((32, 64),))[0] == Views(sizes=((32, 64),))


def test_no_note_where_nothing_differs(weights: Path) -> None:
    for views in (None, asdict(Views()), asdict(Views(merge="wbf"))):
        record(weights, views)  # None: by an older version, which had no other views
        assert predict(weights).stderr == ""


def test_views_of_other_weights_are_not_used(weights: Path) -> None:
    path = record(weights, asdict(FLIPPED))
    path.write_text(path.read_text().replace(digest(weights), "others"))
    assert recorded_views(weights) is None
    assert choose_views(weights, plain=False, score=None) == (Views(), None)


@pytest.mark.parametrize(
    ("views", "message"),
    [
        ({"tiles": [0, 0.2]}, "views.tiles.1 is 0, but should be greater than or equal to 1"),
        ({"merge": "mean"}, "views.merge is 'mean', but should be 'nms' or 'wbf'"),
    ],
)
def test_an_invalid_file_is_one_line(weights: Path, views: dict[str, Any], message: str) -> None:
    path = record(weights, views)
    with pytest.raises(PipelineError) as caught:
        choose_views(weights, plain=False, score=None)
    assert str(caught.value) == f"{path}: {message}; run `dvc repro -f evaluate`, or give --score"
    assert choose_views(weights, plain=False, score=0.5) == (Views(), None)  # as the message says
