"""`train.overfit`: training on a few images without augmentation."""

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


def with_train(**train: object) -> Params:
    values = params.load(PROJECT / "params.yaml")
    return replace(values, train=replace(values.train, **train))


def write_squares(folder: Path, count: int = 6) -> AnnotationSet:
    """Writes gray images of 64×64 pixels, each with a colored square, except every third one."""
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
    split = write_squares(tmp_path, 30)
    subsets = [overfit_subset(replace(with_train(overfit=4), seed=seed), split)[1] for seed in (0, 0, 1)]
    assert subsets[0] == subsets[1] != subsets[2]
    for subset in subsets:
        assert len(subset.images) == 4
        assert {image.id for image in subset.images} == {annotation.image_id for annotation in subset.annotations}
        assert subset.categories == split.categories
    assert len(overfit_subset(with_train(overfit=99), split)[1].images) == 20


def test_images_with_only_crowds_or_difficult_objects_are_not_chosen(tmp_path: Path) -> None:
    split = write_squares(tmp_path)
    first, second, *others = split.annotations
    changed = replace(split, annotations=(replace(first, iscrowd=1), replace(second, difficult=1), *others))
    assert [image.id for image in overfit_subset(with_train(overfit=9), changed)[1].images] == [4, 5]


@pytest.mark.parametrize(
    ("overfit", "batch_size", "accumulate", "processes", "batch"),
    [(4, 8, 1, 1, 4), (16, 8, 1, 1, 8), (5, 8, 2, 1, 4), (1, 8, 1, 2, 2), (3, 8, 2, 2, 4)],
)
def test_the_batch_size_fits_images_parts_and_processes(
    tmp_path: Path, overfit: int, batch_size: int, accumulate: int, processes: int, batch: int
) -> None:
    values = with_train(overfit=overfit, batch_size=batch_size, accumulate=accumulate)
    train = overfit_subset(values, write_squares(tmp_path), processes)[0].train
    assert train.batch_size == batch
    assert train.batch_size % (accumulate * processes) == 0


def test_epochs_repeat_the_images_without_augmentation(tmp_path: Path) -> None:
    values = with_train(overfit=4, batch_size=2, size=(64, 64))
    values = replace(values, train=replace(values.train, augment=replace(values.train.augment, flip=1.0, mosaic=1.0)))
    chosen, split = overfit_subset(values, write_squares(tmp_path))
    batches = make_batches(chosen, split, tmp_path)
    assert len(batches) == 50
    steps = [part for parts in batches(1) for part in parts]
    assert len(steps) == 50
    for first, second in zip(steps[::2], steps[1::2], strict=True):  # each pass contains every image once
        assert sorted([*first.names, *second.names]) == [image.file_name for image in split.images]
    inputs = {name: pixels for part in steps for name, pixels in zip(part.names, part.pixels, strict=True)}
    for name, pixels in inputs.items():
        stored = torch.from_numpy(np.asarray(PIL.Image.open(tmp_path / name)).copy()).permute(2, 0, 1)
        assert torch.equal(pixels, stored)


def test_a_resume_continues_with_the_same_steps(tmp_path: Path) -> None:
    chosen, split = overfit_subset(with_train(overfit=3, batch_size=2, size=(64, 64)), write_squares(tmp_path))
    batches = make_batches(chosen, split, tmp_path)
    names = [parts[0].names for parts in batches(2)]
    assert [parts[0].names for parts in batches(2, 47)] == names[47:]
    assert [parts[0].names for parts in batches(3)] != names


def test_images_that_are_not_fit_are_an_error_with_a_remedy(tmp_path: Path) -> None:
    split = overfit_subset(with_train(overfit=4), write_squares(tmp_path))[1]
    row = {"epoch": 1.0, "step": 50.0, "AP": 0.3}
    check_overfit(History([{}] * 50, [row | {"AP50": 0.2}, row | {"AP50": 0.95}]), split)
    with pytest.raises(
        PipelineError, match=r"AP50 reached only 0\.940 of 0\.95 in 50 steps on 4 images \(0\.png"
    ) as caught:
        check_overfit(History([{}] * 50, [row | {"AP50": 0.94}, row | {"AP50": 0.5}]), split)
    assert "fcos explain" in str(caught.value)
    assert "\n" not in str(caught.value)
