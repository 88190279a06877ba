"""`train.overfit`: a few images, unchanged, until they are known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from fcos.training.history import History
from pipeline import params
from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image
from pipeline.errors import PipelineError
from pipeline.params import Params
from pipeline.training.build import make_batches
from pipeline.training.overfit import check_overfit, overfit_subset
from tests.support.paths import PROJECT

COLORS = {"cat": (230, 40, 40), "dog": (40, 60, 230)}


def wanted(**train: object) -> Params:
    own = params.load(PROJECT / "params.yaml")
    return replace(own, train=replace(own.train, **train))


def squares(folder: Path, count: int = 6) -> AnnotationSet:
    """Gray images of 64×64 pixels with a colored square each; every third has none."""
    images, objects = [], []
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        pixels = np.full((64, 64, 3), 120, dtype=np.uint8)
        if number % 3 != 2:
            left, name = 8 + 2 * number, ("cat", "dog")[number % 2]
            pixels[12:44, left : left + 32] = COLORS[name]
            objects.append(Annotation(number + 1, number + 1, 1 + number % 2, (float(left), 12.0, 32.0, 32.0), 1024.0))
        PIL.Image.fromarray(pixels).save(folder / f"{number}.png")
        images.append(Image(number + 1, f"{number}.png", 64, 64))
    return AnnotationSet((Category(1, "cat"), Category(2, "dog")), tuple(images), tuple(objects))


def test_images_are_chosen_by_the_seed_and_have_objects(tmp_path: Path) -> None:
    split = squares(tmp_path, 30)
    chosen = [overfit_subset(replace(wanted(overfit=4), seed=seed), split)[1] for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]
    for one in chosen:
        assert len(one.images) == 4
        assert {image.id for image in one.images} == {annotation.image_id for annotation in one.annotations}
        assert one.categories == split.categories
    assert len(overfit_subset(wanted(overfit=99), split)[1].images) == 20


def test_crowds_and_difficult_objects_are_none_to_learn_by_heart(tmp_path: Path) -> None:
    split = squares(tmp_path)
    first, second, *others = split.annotations
    changed = replace(split, annotations=(replace(first, iscrowd=1), replace(second, difficult=1), *others))
    assert [image.id for image in overfit_subset(wanted(overfit=9), changed)[1].images] == [4, 5]


@pytest.mark.parametrize(
    ("overfit", "batch_size", "accumulate", "processes", "batch"),
    [(4, 8, 1, 1, 4), (16, 8, 1, 1, 8), (5, 8, 2, 1, 4), (1, 8, 1, 2, 2), (3, 8, 2, 2, 4)],
)
def test_batches_fit_images_parts_and_processes(
    tmp_path: Path, overfit: int, batch_size: int, accumulate: int, processes: int, batch: int
) -> None:
    asked = wanted(overfit=overfit, batch_size=batch_size, accumulate=accumulate)
    train = overfit_subset(asked, squares(tmp_path), processes)[0].train
    assert train.batch_size == batch
    assert train.batch_size % (accumulate * processes) == 0


def test_epochs_repeat_the_images_as_they_are(tmp_path: Path) -> None:
    asked = wanted(overfit=4, batch_size=2, size=(64, 64))
    asked = replace(asked, train=replace(asked.train, augment=replace(asked.train.augment, flip=1.0, mosaic=1.0)))
    chosen, split = overfit_subset(asked, squares(tmp_path))
    batches = make_batches(chosen, split, tmp_path)
    assert len(batches) == 50
    steps = [part for parts in batches(1) for part in parts]
    assert len(steps) == 50
    for first, second in zip(steps[::2], steps[1::2], strict=True):  # each pass has every image once
        assert sorted([*first.names, *second.names]) == [image.file_name for image in split.images]
    seen = {name: pixels for part in steps for name, pixels in zip(part.names, part.pixels, strict=True)}
    for name, pixels in seen.items():
        stored = torch.from_numpy(np.asarray(PIL.Image.open(tmp_path / name)).copy()).permute(2, 0, 1)
        assert torch.equal(pixels, stored)


def test_a_resume_goes_on_with_the_same_steps(tmp_path: Path) -> None:
    chosen, split = overfit_subset(wanted(overfit=3, batch_size=2, size=(64, 64)), squares(tmp_path))
    batches = make_batches(chosen, split, tmp_path)
    whole = [parts[0].names for parts in batches(2)]
    assert [parts[0].names for parts in batches(2, 47)] == whole[47:]
    assert [parts[0].names for parts in batches(3)] != whole


def test_what_is_not_learned_fails_and_says_where_to_look(tmp_path: Path) -> None:
    split = overfit_subset(wanted(overfit=4), squares(tmp_path))[1]
    row = {"epoch": 1.0, "step": 50.0, "AP": 0.3}
    check_overfit(History([{}] * 50, [row | {"AP50": 0.2}, row | {"AP50": 0.95}]), split)
    with pytest.raises(
        PipelineError, match=r"AP50 reached only 0\.940 of 0\.95 in 50 steps on 4 images \(0\.png"
    ) as told:
        check_overfit(History([{}] * 50, [row | {"AP50": 0.94}, row | {"AP50": 0.5}]), split)
    assert "fcos explain" in str(told.value)
    assert "\n" not in str(told.value)
