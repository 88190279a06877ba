"""The pictures and records that `fcos predict` writes."""

from dataclasses import replace
from pathlib import Path

import PIL.Image
import pytest
import torch

from fcos.config import PAPER, InputSize
from fcos.detector import build
from fcos.postprocess import Postprocess
from fcos.weights import Description
from pipeline.errors import PipelineError
from pipeline.inference.saved_detector import SavedDetector
from pipeline.visualization import predictions


@pytest.fixture
def model() -> SavedDetector:
    torch.manual_seed(0)
    config = replace(
        PAPER,
        backbone="tiny",
        pretrained=False,
        channels=16,
        levels=(3, 4, 5),
        tower_depth=1,
        frozen_stages=0,
        batch_norm="auto",
    )
    description = Description(model=config, categories=((7, "cat"), (3, "dog")), input_size=InputSize((64, 64)))
    return SavedDetector(build(config, 2).eval(), description)


def write_picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.effect_noise((60, 40), 90).save(path)
    return path


def test_an_input_is_never_overwritten(model: SavedDetector, tmp_path: Path) -> None:
    path = write_picture(tmp_path / "a.jpg")
    before = path.read_bytes()
    with pytest.raises(PipelineError, match=r"a\.jpg: is an input; .* choose another --out"):
        predictions.write(model, [path], 0.5, tmp_path, Postprocess())
    assert path.read_bytes() == before


def test_an_undecodable_image_leaves_no_output(model: SavedDetector, tmp_path: Path) -> None:
    good, bad = write_picture(tmp_path / "good.png"), tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    with pytest.raises(PipelineError, match=r"bad\.png: can't be decoded"):
        predictions.write(model, [good, bad], 0.5, tmp_path / "out", Postprocess())
    assert not (tmp_path / "out").exists()


def test_records_have_pixel_boxes_and_the_data_sets_category_ids(model: SavedDetector, tmp_path: Path) -> None:
    (record,) = predictions.write(
        model, [write_picture(tmp_path / "a.png")], 0.0, tmp_path / "out", Postprocess(score_threshold=0.0)
    )
    assert (record["width"], record["height"]) == (60, 40)
    assert record["detections"]
    assert {detection["category_id"] for detection in record["detections"]} <= {7, 3}
    for detection in record["detections"]:
        x, y, width, height = detection["bbox"]
        assert min(x, y) >= 0
        assert x + width <= 60.02
        assert y + height <= 40.02
    assert (tmp_path / "out/a.jpg").is_file()
