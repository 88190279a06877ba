"""Detection at several sizes, in mirrored images and in tiles, beside plain detection."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from fcos import inference as plain
from fcos.config import PAPER, InputSize
from fcos.detector import Detector, build
from fcos.postprocess import Detections, Postprocess
from pipeline import recipes
from pipeline.data import images as decoding
from pipeline.data.annotations import AnnotationSet, Category, Image
from pipeline.data.images import read_image
from pipeline.inference import views as views_module
from pipeline.inference.detect import detect_split
from pipeline.inference.merging import MERGES
from pipeline.inference.views import Views, detect_in_views, mirror
from tests.support.painted_scenes import COLORS, scene

SIZE, POSTPROCESS = InputSize((64, 96)), Postprocess(score_threshold=0.3, max_detections=40)
SHAPES = [(64, 64), (70, 64), (48, 64)]


@pytest.fixture(scope="module")
def detector() -> Detector:
    """Untrained, with varied scores above the threshold."""
    torch.manual_seed(0)
    config = replace(PAPER, backbone="tiny", pretrained=False, channels=16, levels=(3, 4, 5), tower_depth=1)
    detector = build(replace(config, frozen_stages=0, batch_norm="auto"), 3).eval()
    torch.nn.init.normal_(detector.head.class_logits.weight, std=0.1)
    torch.nn.init.zeros_(detector.head.class_logits.bias)
    return detector


def noise(*shapes: tuple[int, int]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = (torch.randint(256, (*shape, 3), generator=generator, dtype=torch.uint8) for shape in shapes)
    return [image.permute(2, 0, 1) for image in images]


def detect(detector: Detector, images: Sequence[torch.Tensor], views: Views, batch_size: int = 2) -> list[Detections]:
    return detect_in_views(detector, images, SIZE, POSTPROCESS, views, batch_size)


def assert_equal(first: Sequence[Detections], second: Sequence[Detections]) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert len(a)
        assert all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("boxes", "scores", "labels"))


@pytest.mark.parametrize(
    "views",
    [
        Views(),
        Views(merge="wbf", merge_iou_threshold=0.1),
        Views(sizes=((64, 96),)),
        Views(sizes=((96, 64),)),
        Views(tiles=(70, 0.5)),
        Views(tiles=(1000, 0.2)),
    ],
)
def test_a_single_view_is_plain_detection_to_the_bit(detector: Detector, views: Views) -> None:
    """Also where the only tile is the image."""
    images = noise(*SHAPES)
    assert_equal(detect(detector, images, views), plain.detect(detector, images, SIZE, POSTPROCESS))


def test_another_size_is_that_of_a_detector_with_this_size(detector: Detector) -> None:
    images = noise(*SHAPES)
    other = plain.detect(detector, images, InputSize((32, 64)), POSTPROCESS)
    assert_equal(detect(detector, images, Views(sizes=((32, 64),))), other)
    canvas = InputSize((80, 64), letterbox=True)
    views = Views(sizes=((64, 32),))
    boxes = detect_in_views(detector, images, canvas, POSTPROCESS, views, 2)
    assert_equal(boxes, plain.detect(detector, images, InputSize((64, 32), letterbox=True), POSTPROCESS))


@pytest.mark.parametrize("merge", MERGES)
def test_sizes_and_flip_are_merged(detector: Detector, merge: str) -> None:
    images = noise(*SHAPES)
    mirrored = [image.flip(-1) for image in images]
    found = []
    for size in ((32, 64), (64, 96)):
        found.append(plain.detect(detector, images, InputSize(size), POSTPROCESS))
        flipped = plain.detect(detector, mirrored, InputSize(size), POSTPROCESS)
        found.append([mirror(boxes, image.shape[-1]) for boxes, image in zip(flipped, images, strict=True)])
    expected = MERGES[merge](found, 0.5, 40)
    views = Views(sizes=((32, 64), (64, 96)), flip=True, merge=merge, merge_iou_threshold=0.5)  # type: ignore[arg-type]
    merged = detect(detector, images, views)
    # Resizing a mirrored image rounds differently by one in a few pixels.
    for boxes, others in zip(merged, expected, strict=True):
        assert boxes.scores.tolist() == pytest.approx(others.scores.tolist(), abs=0.01)


@pytest.mark.parametrize("merge", MERGES)
def test_the_detections_of_a_mirrored_image_are_mirrored(detector: Detector, merge: str) -> None:
    """The views of a mirrored image are those of the image in reverse order, to the bit where nothing is resized."""
    (image,) = noise((64, 64))
    flipped = image.flip(-1)
    images, mirrored = ([pixels] for pixels in (image, flipped))
    views = Views(flip=True, merge=merge)  # type: ignore[arg-type]
    (boxes,), (others,) = detect(detector, images, views), detect(detector, mirrored, views)
    expected = mirror(others, 64)
    assert boxes.scores.tolist() == pytest.approx(expected.scores.tolist(), abs=1e-6)
    assert torch.allclose(boxes.boxes, expected.boxes, atol=1e-3)


def test_mirrored_boxes() -> None:
    boxes = Detections(torch.tensor([[10.0, 20.0, 30.0, 50.0]]), torch.tensor([0.5]), torch.tensor([1]))
    mirrored = mirror(boxes, 100)
    assert mirrored.boxes.tolist() == [[70, 20, 90, 50]]
    assert_equal([mirror(mirrored, 100)], [boxes])


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[int, ...]]]:
    """Replaces the network by one that finds painted rectangles; the shapes of the images of each batch."""
    shapes: list[list[tuple[int, ...]]] = []

    def detect(
        _detector: Detector, images: Sequence[torch.Tensor], _size: InputSize, _postprocess: Postprocess
    ) -> list[Detections]:
        shapes.append([tuple(image.shape[1:]) for image in images])
        return [painted(image) for image in images]

    monkeypatch.setattr(views_module, "detect_resized", detect)
    return shapes


def painted(image: torch.Tensor) -> Detections:
    """The rectangles of the colors of `scene`, with a score that grows with the visible area."""
    found = []
    for label, color in enumerate(COLORS):
        rows, columns = torch.nonzero((image == torch.tensor(color).view(3, 1, 1)).all(dim=0), as_tuple=True)
        if len(rows) >= 16:
            box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            found.append((torch.tensor(box, dtype=torch.float32), 1 - 1 / len(rows), label))
    boxes, scores, labels = zip(*found, strict=True) if found else ((), (), ())
    return Detections(
        torch.stack(boxes) if boxes else torch.zeros(0, 4),
        torch.tensor(scores),
        torch.tensor(labels, dtype=torch.int64),
    )


def test_objects_in_tiles(
    detector: Detector, batches: list[list[tuple[int, ...]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the borders of the image and of tiles, in a corner of four tiles, in one tile, larger than a tile."""
    boxes = [
        [0, 0, 12, 9],
        [84, 60, 97, 75],
        [60, 10, 130, 22],
        [20, 20, 52, 40],
        [0, 85, 190, 119],
        [180, 30, 200, 60],
    ]
    images = [scene(120, 200, boxes).image, scene(80, 80, [[5, 5, 60, 70]]).image]
    monkeypatch.setattr(views_module, "fit", lambda image, _size: image)  # so that coordinates are exact
    for image, expected in zip(images, (boxes, [[5, 5, 60, 70]]), strict=True):
        (found,) = detect(detector, [image], Views(tiles=(90, 0.2)), batch_size=3)
        assert sorted(found.boxes.tolist()) == sorted(expected)
    # The image, then its 2 × 3 tiles three at a time; the second image is smaller than a tile.
    assert [len(batch) for batch in batches] == [1, 3, 3, 1]
    assert {shape for batch in batches[1:3] for shape in batch} == {(90, 90)}


def test_each_tile_is_detected_in_all_views(detector: Detector, batches: list[list[tuple[int, ...]]]) -> None:
    views = Views(tiles=(60, 0), sizes=((60, 60), (30, 30)), flip=True)
    (found,) = detect(detector, [scene(60, 120, [[5, 5, 40, 30]]).image], views)
    assert found.boxes.tolist() == [pytest.approx([5, 5, 40, 30], abs=1.5)]
    assert [shape for batch in batches for shape in batch] == (
        [(30, 60)] * 2 + [(15, 30)] * 2 + [(60, 60)] * 4 + [(30, 30)] * 4
    )


@pytest.mark.usefixtures("batches")
def test_images_with_16_bits_have_the_same_pixels_in_tiles(
    detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their range is that of the whole image: a tile with the background alone is not stretched to black and white."""
    values = np.full((60, 120), 300, dtype=np.uint16)
    values[:, 60:90] = 301
    values[10:30, 10:50] = 65535
    PIL.Image.fromarray(values).save(tmp_path / "deep.png")
    image = read_image(tmp_path / "deep.png")
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(views_module, "fit", lambda crop, _size: seen.append(crop) or crop)
    (found,) = detect(detector, [image], Views(tiles=(60, 0)))
    assert found.boxes.tolist() == [[10, 10, 50, 30]]
    assert torch.equal(torch.cat(seen[1:], dim=2), image)
    assert seen[2].unique().tolist() == [1]  # 300 and 301 of 65535


def test_an_image_is_decoded_once(
    detector: Detector, picture: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(tmp_path / "a.png", (100, 60))
    opened: list[Path] = []
    original = decoding.open_image_file
    monkeypatch.setattr(decoding, "open_image_file", lambda path: opened.append(path) or original(path))
    split = AnnotationSet(
        tuple(Category(number, str(number)) for number in (1, 2, 3)), (Image(1, "a.png", 100, 60),), ()
    )
    views = Views(tiles=(50, 0.2), sizes=((32, 64), (64, 96)), flip=True)
    detect_batch = partial(
        detect_in_views, detector, input_size=SIZE, postprocess=POSTPROCESS, views=views, batch_size=8
    )
    assert len(list(detect_split(detect_batch, split, tmp_path, batch_size=8))) == 40
    assert opened == [tmp_path / "a.png"]


def test_the_defaults_of_params_yaml_are_a_single_view() -> None:
    assert Views.of(recipes.defaults().evaluate) == Views()


@pytest.mark.parametrize(
    ("views", "other", "alike"),
    [
        (Views(), Views(merge="wbf"), True),
        (Views(flip=True), Views(flip=True, merge="wbf"), False),
        (Views(tiles=(64, 0.2)), Views(), False),
        (Views(), Views(tiles=(64, 0.2)), False),
        (Views(), Views(sizes=((64, 64),)), False),
        (Views(sizes=((64, 64), (96, 96))), Views(sizes=((64, 64), (96, 96))), True),
    ],
)
def test_views_with_the_same_detections(views: Views, other: Views, alike: bool) -> None:
    assert views.is_like(other) is alike
