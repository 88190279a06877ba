"""Embeddings of images, objects and detections, collected while a detector runs."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from torch.nn import functional as F

from fcos.config import PAPER, InputSize
from fcos.detector import Detector, build
from fcos.inference import fit
from fcos.postprocess import Postprocess
from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image
from pipeline.data.boxes import xywh_to_xyxy
from pipeline.data.images import read_image
from pipeline.evaluation.embedding_files import Embeddings
from pipeline.inference.detect import detect_split
from pipeline.inference.embeddings import SplitEmbedder, embed_boxes, embed_images
from pipeline.inference.views import Views, detect_in_views

SIZE, CHANNELS = InputSize((64, 96)), 8
CONFIG = replace(
    PAPER, backbone="tiny", pretrained=False, channels=CHANNELS, levels=(3, 4), tower_depth=0, frozen_stages=0
)
CONFIG = replace(CONFIG, batch_norm="auto")


def test_the_four_cells_of_a_box_are_its_quarters_on_the_level_of_its_size() -> None:
    """Each level's channels are 1, the x and the y of a location, so a cell's mean is 1 and its center."""

    def ramps(stride: int, number: float) -> torch.Tensor:
        y, x = torch.meshgrid(*[(torch.arange(160 // stride) + 0.5) * stride] * 2, indexing="ij")
        return torch.stack([torch.full_like(x, number), x, y])[None]

    small, large = (40.0, 60.0, 60.0, 100.0), (10.0, 10.0, 150.0, 130.0)  # P3 up to 128 pixels, then P4
    found = embed_boxes([ramps(8, 100), ramps(16, 200)], [torch.tensor([small, large])], CONFIG)
    expected = torch.tensor(
        [
            [100, 100, 100, 100, 45, 55, 45, 55, 70, 70, 90, 90],
            [200, 200, 200, 200, 45, 115, 45, 115, 40, 40, 100, 100],
        ]
    )
    torch.testing.assert_close(found, F.normalize(expected.float()), atol=1e-4, rtol=0)


def test_padding_does_not_count_in_the_embedding_of_an_image() -> None:
    level = torch.full((2, 2, 4, 4), 1000.0)
    level[0, 0, :3, :2], level[0, 1, :3, :2] = 3, 4  # 20×16 pixels at a stride of 8
    level[1, 0], level[1, 1] = 1, 0
    found = embed_images([level, 7 * level], [(20, 16), (32, 32)], (8, 8))
    # Both levels have the same weight, whatever their scale.
    torch.testing.assert_close(found, torch.tensor([[3, 4, 3, 4], [5, 0, 5, 0]]) / 50**0.5)


@pytest.fixture(scope="module")
def detector() -> Detector:
    torch.manual_seed(0)
    return build(CONFIG, 2).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, generator = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for image in SPLIT.images:
        pixels = generator.integers(256, size=(image.height, image.width, 3), dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(folder / image.file_name)
    return folder


PLAIN = Views()
# In another order than their shapes, from which batches are made; two have the same shape.
_SHAPES = {9: (96, 64), 2: (48, 64), 7: (96, 64), 4: (64, 64), 5: (200, 130)}
SPLIT = AnnotationSet(
    (Category(3, "cat"), Category(8, "dog")),
    tuple(Image(number, f"{number}.png", *size) for number, size in _SHAPES.items()),
    (
        Annotation(30, 7, 3, (10, 20, 30, 20), 600),
        Annotation(31, 5, 8, (0, 0, 100, 90), 9000),
        Annotation(32, 9, 8, (5, 5, 8, 8), 64, difficult=1),
        Annotation(33, 5, 3, (50, 20, 30, 20), 600, iscrowd=1),
        Annotation(34, 7, 3, (60, 20, 20, 20), 400),
    ),
)


def run(detector: Detector, folder: Path, views: Views = PLAIN) -> tuple[Embeddings, list[tuple[int, torch.Tensor]]]:
    """The embeddings, and the image and the box of each detection."""
    postprocess = Postprocess(score_threshold=0.0, max_detections=15)
    batches = partial(detect_in_views, detector, input_size=SIZE, postprocess=postprocess, views=views, batch_size=2)
    embedder = SplitEmbedder(detector, SPLIT, views.input_sizes(SIZE)[0], batches)
    found = list(detect_split(embedder, SPLIT, folder, batch_size=2))
    return embedder.embeddings(), [(item.image_id, torch.tensor(xywh_to_xyxy(item.bbox))) for item in found]


@torch.inference_mode()
def embed_alone(detector: Detector, folder: Path, number: int, box: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    """The embeddings of an image and of a box in it, by a batch of that image."""
    pixels = read_image(folder / f"{number}.png")
    resized = fit(pixels, SIZE)
    canvas = (96, 64) if number == 4 else None  # as large as the other image of its batch, 2
    levels = detector.neck(detector.backbone(detector.prepare([resized], canvas)))
    height, width = resized.shape[1:]
    scale = torch.tensor([width / pixels.shape[2], height / pixels.shape[1]] * 2)
    image = embed_images(levels, [(height, width)], CONFIG.strides)
    return image[0].numpy(), embed_boxes(levels, [(box * scale)[None]], CONFIG)[0].numpy()


def test_each_embedding_is_that_of_its_image_or_box(detector: Detector, folder: Path) -> None:
    found, detections = run(detector, folder)
    assert found.image_ids.tolist() == list(_SHAPES)
    assert found.annotation_ids.tolist() == [30, 31, 32, 34]  # without the crowd
    assert found.images.shape == (5, 2 * CHANNELS)
    assert found.annotations.shape == (4, 4 * CHANNELS)
    boxes = {item.id: (item.image_id, torch.tensor(xywh_to_xyxy(item.bbox))) for item in SPLIT.annotations}
    for number, vector in zip(found.annotation_ids.tolist(), found.annotations, strict=True):
        np.testing.assert_allclose(vector, embed_alone(detector, folder, *boxes[number])[1], atol=2e-3)
    for number, vector in zip(_SHAPES, found.images, strict=True):
        np.testing.assert_allclose(vector, embed_alone(detector, folder, number, torch.ones(4))[0], atol=2e-3)
    # The ten best detections of each image have one: all images have 15.
    assert len(detections) == 5 * 15
    assert found.detection_rows.tolist() == [15 * image + rank for image in range(5) for rank in range(10)]
    for row in (3, 24, 49):
        expected = embed_alone(detector, folder, *detections[int(found.detection_rows[row])])[1]
        np.testing.assert_allclose(found.detections[row], expected, atol=2e-3)


def test_with_several_views_images_and_objects_have_the_embeddings_of_the_plain_one(
    detector: Detector, folder: Path
) -> None:
    plain, _ = run(detector, folder)
    found, _ = run(detector, folder, Views(sizes=((64, 96), (96, 128)), flip=True, tiles=(64, 0.2)))
    np.testing.assert_array_equal(found.images, plain.images)
    np.testing.assert_array_equal(found.annotations, plain.annotations)
    assert not detector.neck._forward_hooks
