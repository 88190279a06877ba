"""Images with detections that MLflow shows by epoch."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow

from pipeline.integrations.mlflow_images import COUNT, SIDE, ValidationImages
from pipeline.visualization.boxes import class_color
from tests.support.inspected_project import DETECTIONS, SCENE


def folder(inspected: Any) -> Path:
    path: Path = inspected.root / "data/raw/digits"
    return path


def test_the_images_are_spread_over_those_with_objects_and_stay_the_same(inspected: Any) -> None:
    images = ValidationImages(SCENE, folder(inspected))
    assert [image.id for image in images._images] == [11, 12, 13, 15]  # 14 has no object
    assert [picture.size for picture in images.draw()] == [(SIDE, SIDE // 2)] * COUNT


def test_detections_are_drawn_in_the_color_of_their_class_from_a_score_on(inspected: Any) -> None:
    images = ValidationImages(SCENE, folder(inspected))
    before = [np.asarray(picture) for picture in images.draw()]
    images.keep(DETECTIONS)
    after = [np.asarray(picture) for picture in images.draw()]
    # 512 pixels for 200: the box of image 12, (150, 10, 30, 30), of a dog at 0.7, has its left edge at 384.
    assert tuple(after[1][80, 384]) == class_color(1)
    assert (before[1][80, 384] != after[1][80, 384]).any()
    assert (before[3] == after[3]).all()  # image 15 has no detection
    images.keep([])
    assert all((first == second).all() for first, second in zip(before, images.draw(), strict=True))


def test_objects_are_dashed_and_the_example_is_the_first_image_alone(inspected: Any) -> None:
    images = ValidationImages(SCENE, folder(inspected))
    edge = np.asarray(images.draw()[0])[26, 26:128]  # the top of the box (10, 10, 40, 40), scaled by 2.56
    white = (edge == 255).all(axis=1)
    assert white.any()
    assert not white.all()
    example = Pillow.open(BytesIO(images.example()))
    assert (example.format, example.size) == ("JPEG", (SIDE, SIDE // 2))
    assert np.asarray(example).max() < 200  # without boxes
