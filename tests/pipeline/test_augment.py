from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.annotations import Annotation, AnnotationSet, Category, Image
from pipeline.augment import Sample, augment, crop, fitted_scale, flip, resize
from pipeline.errors import PipelineError
from pipeline.images import read_image
from pipeline.loader import Augmentation, Batches, TrainingData, generator


def scene(height: int, width: int, boxes: list[list[int]]) -> Sample:
    """Each box's pixels are filled with 100 + its number, on black: where the boxes go, the pixels must go."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    for number, (x1, y1, x2, y2) in enumerate(boxes):
        image[:, y1:y2, x1:x2] = 100 + number
    return Sample(image, torch.tensor(boxes, dtype=torch.float32).view(-1, 4), torch.arange(len(boxes)), "scene")


def painted(sample: Sample, label: int) -> list[int]:
    """The box around the pixels that belong to a label, edges of whole pixels."""
    rows, columns = torch.nonzero(sample.image[0] == 100 + label, as_tuple=True)
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]


@pytest.mark.parametrize(
    ("height", "width", "size", "expected"),
    [(480, 640, (800, 1333), 800 / 480), (480, 1200, (800, 1333), 1333 / 1200), (256, 256, (256, 256), 1.0)],
)
def test_fitted_scale(height: int, width: int, size: tuple[int, int], expected: float) -> None:
    assert fitted_scale(height, width, size) == pytest.approx(expected)


def test_resize_by_hand() -> None:
    found = resize(scene(100, 200, [[20, 10, 60, 90]]), 0.5)
    assert found.image.shape == (3, 50, 100)
    assert found.boxes.tolist() == [[10, 5, 30, 45]]


def test_boxes_follow_the_rounded_sides() -> None:
    found = resize(scene(101, 33, [[0, 0, 33, 101]]), 0.3)
    assert found.image.shape == (3, 30, 10)
    torch.testing.assert_close(found.boxes, torch.tensor([[0.0, 0.0, 10.0, 30.0]]))


def test_flip_moves_boxes_with_the_pixels_and_back() -> None:
    original = scene(40, 61, [[3, 5, 20, 30], [50, 1, 61, 9]])
    mirrored = flip(original)
    assert mirrored.boxes[0].tolist() == painted(mirrored, 0) == [41, 5, 58, 30]
    assert mirrored.boxes[1].tolist() == painted(mirrored, 1)
    assert torch.equal(flip(mirrored).image, original.image)
    assert torch.equal(flip(mirrored).boxes, original.boxes)


def test_crop_keeps_objects_whose_centre_is_inside() -> None:
    found = crop(
        scene(60, 60, [[10, 10, 30, 30], [0, 0, 12, 12], [40, 40, 60, 60]]), top=8, left=8, height=30, width=30
    )
    assert found.image.shape == (3, 30, 30)
    assert found.labels.tolist() == [0]
    assert found.boxes.tolist() == [painted(found, 0)] == [[2, 2, 22, 22]]


def test_crop_cuts_boxes_at_the_window() -> None:
    found = crop(scene(60, 60, [[10, 10, 40, 40]]), top=0, left=0, height=30, width=30)
    assert found.boxes.tolist() == [painted(found, 0)] == [[10, 10, 30, 30]]


sides = st.integers(40, 160)


@settings(max_examples=60, deadline=None)
@given(sides, sides, st.integers(0, 2**31), st.data())
def test_boxes_stay_on_their_pixels(height: int, width: int, seed: int, data: st.DataObject) -> None:
    x1, y1 = data.draw(st.integers(0, width - 16)), data.draw(st.integers(0, height - 16))
    x2, y2 = data.draw(st.integers(x1 + 12, width)), data.draw(st.integers(y1 + 12, height))
    sample = scene(height, width, [[x1, y1, x2, y2]])
    random = torch.Generator().manual_seed(seed)
    found = augment(sample, size=(96, 128), zoom=(0.7, 1.6), flip_probability=0.5, random=random)
    limits = torch.tensor([found.image.shape[2], found.image.shape[1]] * 2)
    assert (found.boxes >= 0).all()
    assert (found.boxes <= limits).all()
    assert max(found.image.shape[1:]) <= 129
    if len(found.boxes) and (found.image[0] == 100).sum() > 30:
        # Smoothing blurs the border by a few pixels at these zooms.
        torch.testing.assert_close(found.boxes[0], torch.tensor(painted(found, 0), dtype=torch.float32), atol=4, rtol=0)


def test_the_same_key_gives_the_same_numbers_and_another_key_others() -> None:
    assert torch.equal(torch.rand(4, generator=generator(0, 1, "a")), torch.rand(4, generator=generator(0, 1, "a")))
    assert not torch.equal(torch.rand(4, generator=generator(0, 1, "a")), torch.rand(4, generator=generator(0, 2, "a")))


@pytest.fixture
def data(tmp_path: Path) -> TrainingData:
    """Ten images; the third has a crowd alone, the fourth a difficult object alone, the fifth nothing."""
    annotations = []
    for index in range(10):
        noise = np.random.default_rng(index).integers(0, 255, (48, 64, 3), dtype=np.uint8)
        PIL.Image.fromarray(noise).save(tmp_path / f"{index}.png")
        if index != 4:
            annotations.append(
                Annotation(index, index, 5, (4.0, 4.0, 20.0, 30.0), 600.0, int(index == 2), int(index == 3))
            )
    split = AnnotationSet(
        (Category(5, "thing"),), tuple(Image(i, f"{i}.png", 64, 48) for i in range(10)), tuple(annotations)
    )
    how = Augmentation(size=(48, 64), zoom=(0.8, 1.2), flip_probability=0.5, seed=3)
    return TrainingData(split, tmp_path, augmentation=how, difficult=False, empty=True)


def batches(data: TrainingData, workers: int = 0) -> Batches:
    return Batches(data=data, batch_size=4, workers=workers, seed=3)


def test_crowds_and_difficult_objects_are_not_learnt(data: TrainingData) -> None:
    assert [len(boxes) for boxes in data.boxes] == [1, 1, 0, 0, 0, 1, 1, 1, 1, 1]


def test_workers_and_a_resume_change_nothing(data: TrainingData) -> None:
    alone = list(batches(data)(epoch=2))
    shared = list(batches(data, workers=2)(epoch=2))
    resumed = list(batches(data)(epoch=2, first=1))
    assert len(alone) == len(batches(data)) == 2
    for a, b in zip([*alone, alone[1]], [*shared, *resumed], strict=True):
        assert a.names == b.names
        assert all(torch.equal(x, y) for x, y in zip(a.images, b.images, strict=True))
        assert torch.equal(a.targets.boxes, b.targets.boxes)


def test_epochs_differ_in_order_and_in_luck(data: TrainingData) -> None:
    first, second = (next(batches(data)(epoch)) for epoch in (0, 1))
    assert first.names != second.names
    assert not torch.equal(data[0, 0].image, data[1, 0].image) or not torch.equal(data[0, 1].image, data[1, 1].image)


def test_fewer_images_than_a_batch_are_one_batch(data: TrainingData) -> None:
    few = Batches(data=data, batch_size=64, workers=0, seed=0)
    assert [len(batch.images) for batch in few(0)] == [10]


def test_nothing_to_learn_is_an_error_at_once(tmp_path: Path) -> None:
    nothing = AnnotationSet((Category(1, "a"),), (Image(1, "a.png", 8, 8),), ())
    how = Augmentation(size=(8, 8), zoom=(1, 1), flip_probability=0, seed=0)
    with pytest.raises(PipelineError, match="1 images, but not one object to learn from"):
        TrainingData(nothing, tmp_path, augmentation=how, difficult=True, empty=True)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_every_kind_of_image_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    PIL.Image.new("RGB", (7, 5), (255, 255, 255)).convert(mode).save(path)
    found = read_image(path)
    assert found.shape == (3, 5, 7)
    assert found.dtype == torch.uint8
    assert (found == 255).all()


def test_a_truncated_image_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    PIL.Image.effect_noise((64, 64), 80).save(path)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(PipelineError, match=r"cut\.jpg: can't be decoded as an image"):
        read_image(path)
    with pytest.raises(PipelineError, match=r"none\.jpg: no such file"):
        read_image(tmp_path / "none.jpg")


def test_sixteen_bits_become_eight_not_white(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    PIL.Image.fromarray(np.array([[0, 256, 32768, 65535]], dtype=np.uint16)).save(path)
    assert read_image(path)[0].tolist() == [[0, 1, 128, 255]]


def test_a_bad_image_is_one_line_from_a_worker_too(data: TrainingData) -> None:
    (data.folder / "7.png").write_bytes(b"no image")
    for workers in (0, 1):
        with pytest.raises(PipelineError, match=r"7\.png: can't be decoded") as caught:
            list(batches(data, workers)(epoch=0))
        assert "\n" not in str(caught.value)
        assert "Error:" not in str(caught.value)
