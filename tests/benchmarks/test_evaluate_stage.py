"""The measurement of the evaluate stage: its images, what it counts as convolutions, and its card."""

from pathlib import Path

import pytest
from PIL import Image as Pillow

from benchmarks import evaluate_stage
from benchmarks.evaluate_stage import Result
from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image
from pipeline.data.images import read_image


def test_images_are_resized_and_repeated_with_their_objects(tmp_path: Path) -> None:
    for name, side in (("a", 40), ("b", 20)):
        Pillow.new("RGB", (side, side), (side, 0, 0)).save(tmp_path / f"{name}.png")
    images = (Image(7, "a.png", 40, 40), Image(9, "b.png", 20, 20))
    split = AnnotationSet((Category(1, "x"),), images, (Annotation(1, 9, 1, (2.0, 4.0, 10.0, 5.0), 50.0),))
    repeated = evaluate_stage.repeat(split, tmp_path, tmp_path / "many", 5, (60, 80))
    assert [(image.id, image.height, image.width) for image in repeated.images] == [(n, 60, 80) for n in range(1, 6)]
    assert {item.image_id: (item.bbox, item.area) for item in repeated.annotations} == dict.fromkeys(
        (2, 4), ((8.0, 12.0, 40.0, 15.0), 600.0)
    )
    for image in repeated.images:
        pixels = read_image(tmp_path / "many" / image.file_name)
        assert pixels.shape == (3, 60, 80)
        assert float(pixels[0].float().mean()) == pytest.approx(40 if image.id % 2 else 20, abs=2)


def test_what_counts_as_a_convolution() -> None:
    times = {
        "mkldnn::_convolution_pointwise": 50.0,
        "aten::_slow_conv2d_forward": 10.0,
        "aten::mkldnn_convolution": 15.0,
    }
    assert evaluate_stage.convolution_share(times | {"aten::clamp": 20.0, "image::decode_jpeg": 5.0}) == 0.75


def test_card() -> None:
    text = evaluate_stage.card(Result(2500, (288, 384), "efficientnet_lite0", 6.4, 120.0, 110.0, 100.0))
    assert "2,500 images of 288×384 pixels, efficientnet_lite0, on average 6 detections" in text
    assert "| the whole stage | 120.0 | **1.20** (goal ≤ 1.25: met) |" in text
    assert "| detection, with reading of images | 110.0 | 1.10 |" in text
    slow = evaluate_stage.card(Result(2500, (288, 384), "tiny", 6.4, 130.0, 110.0, 100.0))
    assert "**1.30** (goal ≤ 1.25: **missed**)" in slow
