"""The images of calibration and comparison: which ones, and when they are read."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import PipelineError


@pytest.mark.parametrize(
    ("files", "chosen"), [(3, [0, 1, 2]), (4, [0, 1, 2, 3]), (7, [0, 1, 3, 5]), (9, [0, 2, 4, 6]), (0, [])]
)
def test_they_are_evenly_spaced(files: int, chosen: list[int]) -> None:
    from pipeline.export.images import evenly_spaced

    paths = [Path(f"{index}.png") for index in range(files)]
    assert evenly_spaced(paths, 4) == [paths[index] for index in chosen]


def test_they_are_read_one_at_a_time(tmp_path: Path, picture: Callable[..., Path]) -> None:
    from pipeline.export.images import for_calibration

    picture(tmp_path / "inner/a.PNG", (40, 30))
    (tmp_path / "inner/b.jpg").write_bytes(b"damaged")
    images, description = for_calibration(tmp_path / "detector.safetensors", tmp_path)
    assert description == f"2 images of {tmp_path}"
    assert next(images).shape == (3, 30, 40)
    with pytest.raises(PipelineError, match=r"b\.jpg"):
        next(images)


def test_images_of_the_comparison(home: Path, picture: Callable[..., Path]) -> None:
    """Those of the validation split; generated ones if it is empty; a missing one has a remedy before any is used."""
    from fcos import build
    from fcos.config import PAPER, InputSize
    from fcos.description import Description
    from pipeline.data.annotations import AnnotationSet, Category, Image, write
    from pipeline.export.images import for_comparison
    from pipeline.export.measurement import validation_split
    from pipeline.inference.saved_detector import SavedDetector

    config = replace(PAPER, backbone="tiny", pretrained=False, channels=16, levels=(4, 5), tower_depth=0)
    description = Description(model=config, categories=((1, "a"),), input_size=InputSize((32, 64)))
    model, weights = SavedDetector(build(config, 1), description), home / "models/detector.safetensors"
    weights.parent.mkdir()
    for name, count in (("train", 0), ("val", 3)):
        images = tuple(Image(number + 1, f"{number}.png", 40, 30) for number in range(count))
        write(AnnotationSet((Category(1, "a"),), images, ()), home / f"data/unified/{name}.json")
    for number in (0, 2):
        picture(home / f"data/raw/digits/{number}.png", (40, 30), seed=number)
    found = for_comparison(weights, model, 1)
    assert (found.number, [image.shape for image in found.pixels]) == (1, [(3, 30, 40)])
    found = for_comparison(weights, model)
    assert found.number == 3
    with pytest.raises(PipelineError, match=r"1\.png: .*; --no-check exports without comparing$"):
        list(found.pixels)
    (home / "data/raw/digits/0.png").unlink()
    with pytest.raises(PipelineError, match=r"0\.png: .*; --no-check exports without comparing$"):
        for_comparison(weights, model)
    shutil.copy(home / "data/unified/train.json", home / "data/unified/val.json")
    found = for_comparison(weights, model)
    assert (found.number, found.split) == (16, None)
    assert next(iter(found.pixels)).shape == (3, 32, 64)
    assert validation_split(weights, model) is None
