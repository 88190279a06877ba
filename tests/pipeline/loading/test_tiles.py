"""Training on tiles: coordinates, objects that are cut off, empty tiles, and the order of an epoch."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from pipeline import recipes
from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image
from pipeline.data.images import read_image
from pipeline.errors import PipelineError
from pipeline.loading import dataset, tiles
from pipeline.loading.batches import Batches
from pipeline.loading.tiles import TiledData
from pipeline.params import Params
from pipeline.training.build import make_batches

LARGE, SMALL = (200, 320), (40, 50)  # height and width


def write(folder: Path, *sizes: tuple[int, int], seed: int = 0, objects: int = 12) -> AnnotationSet:
    """Images of noise with random boxes of 4 to 40 pixels, whose area is inside their image."""
    random = np.random.default_rng(seed)
    images, items = [], []
    folder.mkdir(parents=True, exist_ok=True)
    for number, (height, width) in enumerate(sizes, start=1):
        Pillow.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        images.append(Image(number, f"{number}.png", width, height))
        for _ in range(objects):
            w, h = random.uniform(4, 40, 2)
            x, y = random.uniform(0, width - w), random.uniform(0, height - h)
            items.append(Annotation(len(items) + 1, number, 1, (x, y, w, h), w * h))
    return AnnotationSet((Category(1, "a"),), tuple(images), tuple(items))


@pytest.fixture
def values() -> Callable[..., Params]:
    """The default parameters, changed in the section train; without augmentation."""

    def make(**train: object) -> Params:
        defaults = recipes.defaults()
        plain = replace(defaults.train.augment, scale=(1.0, 1.0))
        options = {"tiles": (64, 0.25), "size": (64, 64), "batch_size": 4, "augment": plain} | train
        return replace(defaults, train=replace(defaults.train, **options))

    return make


def tiled(params: Params, split: AnnotationSet, folder: Path) -> TiledData:
    batches = make_batches(params, split, folder)
    assert isinstance(batches, Batches)
    assert isinstance(batches.data, TiledData)
    return batches.data


def borders(data: TiledData, index: int) -> list[int]:
    return data._regions.borders[index].tolist()  # type: ignore[no-any-return]


def test_pixels_and_boxes_of_each_region(tmp_path: Path, values: Callable[..., Params]) -> None:
    """A slow reference: each object is moved and clipped by hand."""
    split = write(tmp_path, LARGE, SMALL)
    data = tiled(values(), split, tmp_path)
    # 200 and 320 pixels in steps of at most 48: 4 × 7 tiles, and the two whole images.
    assert len(data) == 4 * 7 + 2
    for index in range(len(data)):
        image, (x1, y1, x2, y2) = 1 if index < len(data) - 1 else 2, borders(data, index)
        sample = data.read(index)
        assert torch.equal(sample.image, read_image(tmp_path / f"{image}.png")[:, y1:y2, x1:x2])
        expected = []
        for item in split.annotations:
            x, y, w, h = item.bbox
            left, top, right, bottom = max(x, x1), max(y, y1), min(x + w, x2), min(y + h, y2)
            visible = max(0, right - left) * max(0, bottom - top) / (w * h)
            if item.image_id == image and visible >= 0.3 and min(right - left, bottom - top) >= 0.99:
                expected.append([left - x1, top - y1, right - x1, bottom - y1])
        assert sample.boxes.shape == (len(expected), 4)
        torch.testing.assert_close(
            sample.boxes, torch.tensor(expected, dtype=torch.float32).view(-1, 4), atol=1e-3, rtol=0
        )
        assert data.shapes[index].tolist() == list(sample.size)
    assert (data.name(0), data.name(1), data.name(len(data) - 1)) == ("1.png", "1.png [0, 0, 64, 64]", "2.png")


def test_every_object_is_seen_and_small_ones_whole_in_a_tile(tmp_path: Path, values: Callable[..., Params]) -> None:
    """Objects that are no larger than the overlap, 16 pixels, are whole in some tile; all are in the whole image."""
    split = write(tmp_path, LARGE, objects=60)
    data = tiled(values(), split, tmp_path)
    whole_image, in_tiles = data.objects(0)[0], range(1, len(data))
    assert len(whole_image) == 60
    for item in split.annotations:
        x, y, w, h = item.bbox
        found = []
        for index in in_tiles:
            x1, y1, x2, y2 = borders(data, index)
            if x >= x1 and y >= y1 and x + w <= x2 and y + h <= y2:
                moved = torch.tensor([x - x1, y - y1, x + w - x1, y + h - y1])
                found.append(bool(((data.objects(index)[0] - moved).abs() < 1e-3).all(dim=1).any()))
        assert all(found)
        assert found or max(w, h) > 16


@pytest.mark.parametrize(("min_visibility", "expected"), [(0.0, 2), (0.5, 2), (0.51, 1), (1.0, 1)])
def test_objects_that_are_cut_off(
    tmp_path: Path, values: Callable[..., Params], min_visibility: float, expected: int
) -> None:
    """Half of the second object is inside the first tile of 64 pixels; the first ends at its border."""
    split = write(tmp_path, (64, 200), objects=0)
    boxes = ((44.0, 10.0, 20.0, 20.0), (59.0, 30.0, 10.0, 10.0))
    items = tuple(Annotation(number, 1, 1, box, 100.0) for number, box in enumerate(boxes, start=1))
    data = tiled(values(min_visibility=min_visibility), replace(split, annotations=items), tmp_path)
    assert borders(data, 1) == [0, 0, 64, 64]
    assert data.objects(1)[0].tolist() == [[44, 10, 64, 30], [59, 30, 64, 40]][:expected]


def test_an_epoch_has_all_objects_and_a_share_of_the_empty_tiles(tmp_path: Path, values: Callable[..., Params]) -> None:
    split = write(tmp_path, LARGE, LARGE, SMALL, objects=3)
    data = tiled(values(empty_tiles=0.5), split, tmp_path)
    counts = data.object_counts
    needed = {index for index in range(len(data)) if counts[index] or "[" not in data.name(index)}
    empty = len(data) - len(needed)
    orders = [data.order(seed, torch.Generator().manual_seed(seed)).tolist() for seed in (1, 2, 1)]
    assert orders[0] == orders[2] != orders[1]
    for order in orders:
        assert len(order) == len(set(order)) == data.epoch_length == len(needed) + round(0.5 * empty)
        assert needed <= set(order)
    assert set(orders[0]) != set(orders[1])
    for share, length in ((0.0, len(needed)), (1.0, len(data))):
        assert tiled(values(empty_tiles=share), split, tmp_path).epoch_length == length


def test_regions_with_rare_classes_are_drawn_more_often(tmp_path: Path, values: Callable[..., Params]) -> None:
    """A class in one of nine images, at a threshold of 1: its tile and the whole image are drawn √9 times."""
    split = write(tmp_path, *[LARGE] * 9, objects=2)
    rare = Annotation(99, 9, 2, (0.0, 0.0, 10.0, 10.0), 100.0)
    split = replace(split, categories=(Category(1, "a"), Category(2, "b")), annotations=(*split.annotations, rare))
    data = tiled(values(repeat_threshold=1.0), split, tmp_path)
    has_rare = torch.tensor([bool((data.objects(index)[1] == 1).any()) for index in range(len(data))])
    assert has_rare.sum() == 2
    factors = data.repeat_factors(1.0)
    assert factors[has_rare].tolist() == [3.0, 3.0]
    assert set(factors[~has_rare].tolist()) == {1.0}
    counts = data.order(0, torch.Generator().manual_seed(0), factors).bincount(minlength=len(data))
    assert counts[has_rare].tolist() == [3, 3]
    assert counts[~has_rare].max() == 1


def test_an_image_is_decoded_once_in_an_epoch(
    tmp_path: Path, values: Callable[..., Params], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An epoch shuffles the tiles of two of the twelve images at a time."""
    monkeypatch.setattr(tiles, "_BLOCK_BYTES", 2 * 3 * LARGE[0] * LARGE[1])
    split = write(tmp_path, *[LARGE] * 12)
    read, decoded = dataset.read_image, Counter[str]()

    def count(path: Path, *arguments: object) -> torch.Tensor:
        decoded[path.name] += 1
        return read(path, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(dataset, "read_image", count)
    batches = make_batches(values(batch_size=1), split, tmp_path)
    for epoch in (0, 1):
        decoded.clear()
        images = [name.split()[0] for (part,) in batches(epoch) for name in part.names]
        # Images of the last blocks of the previous epoch may still be in memory.
        assert set(decoded.values()) == {1}
        assert 6 <= len(decoded) <= 12
        runs = [images[start : start + 40] for start in range(0, len(images) - 40, 40)]
        assert all(1 < len(set(run)) <= 4 for run in runs)


def test_mosaics_combine_regions_of_the_epoch_and_of_the_block(
    tmp_path: Path, values: Callable[..., Params], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without empty tiles, most of the tiles are in no mosaic. A block has two of the six images."""
    monkeypatch.setattr(tiles, "_BLOCK_BYTES", 2 * 3 * LARGE[0] * LARGE[1])
    split = write(tmp_path, *[LARGE] * 6, objects=3)
    augment = replace(values().train.augment, mosaic=1.0, close_mosaic_epochs=0)
    data = tiled(values(empty_tiles=0.0, augment=augment), split, tmp_path)
    order = data.order(1, torch.Generator().manual_seed(0)).tolist()
    read, original = list[int](), data.read
    monkeypatch.setattr(data, "read", lambda index: read.append(index) or original(index))
    blocks = []
    for index in order:
        read.clear()
        data[1, index, 0]
        assert (len(set(read)), read[0]) == (4, index)
        assert set(read) <= set(order)
        blocks.append({int(data._regions.images[other]) for other in read})
    together = [set.union(*(images for images in blocks if images & {image})) for image in range(6)]
    assert [len(images) for images in together] == [2] * 6


@pytest.mark.parametrize("grouped", [False, True])
def test_a_resumed_epoch_has_the_same_steps(tmp_path: Path, values: Callable[..., Params], grouped: bool) -> None:
    params = values(group_by_aspect_ratio=grouped, augment=recipes.defaults().train.augment)
    split = write(tmp_path, LARGE, SMALL, (100, 60))
    whole = list(make_batches(params, split, tmp_path)(3))
    assert len(whole) == len(make_batches(params, split, tmp_path)) > 4
    resumed = list(make_batches(params, split, tmp_path)(3, first=2))
    for (part,), (again,) in zip(whole[2:], resumed, strict=True):
        assert part.names == again.names
        assert torch.equal(part.pixels, again.pixels)
        assert torch.equal(part.targets.boxes, again.targets.boxes)
    others = [name for (part,) in make_batches(params, split, tmp_path)(4) for name in part.names]
    assert others != [name for (part,) in whole for name in part.names]


def test_tiles_need_images_at_their_stored_size(tmp_path: Path, values: Callable[..., Params]) -> None:
    split, params = write(tmp_path, LARGE), values()
    data = tiled(params, split, tmp_path).data
    data.cache = object()  # type: ignore[assignment]
    with pytest.raises(PipelineError, match=r"machine\.cache: .*: set it to false"):
        TiledData(data, (64, 0.25), min_visibility=0.3, empty_tiles=0.1)
