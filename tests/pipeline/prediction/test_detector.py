"""Batches, classes and tiles of `fcos predict`."""

from typing import Any

import pytest
import torch
from torch import Tensor

from fcos.postprocess import Detections, Postprocess
from pipeline.errors import PipelineError
from pipeline.inference import views
from pipeline.inference.saved_detector import SavedDetector
from pipeline.inference.views import Views
from pipeline.prediction.detector import ConfiguredDetector, only_classes
from tests.support.tiny_detector import save_tiny_detector


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SavedDetector:
    weights = save_tiny_detector(tmp_path_factory.mktemp("models") / "detector.safetensors")
    return SavedDetector.load(weights, torch.device("cpu"))


def noise(width: int, height: int) -> Tensor:
    generator = torch.Generator().manual_seed(width * height)
    return torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=generator).permute(2, 0, 1)


@pytest.mark.parametrize("chosen", [Views(), Views(sizes=((64, 96), (96, 128)), flip=True), Views(tiles=(48, 0.2))])
def test_images_in_a_batch_have_the_detections_that_they_have_alone(
    model: SavedDetector, chosen: Views, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [noise(90, 60), noise(45, 30), noise(60, 90), noise(90, 60), noise(300, 20), noise(90, 58)]
    configured = ConfiguredDetector(model, [0.45, 0.5], Postprocess(), chosen, batch_size=8)
    alone = [configured.detect([image])[0] for image in images]
    sizes: list[int] = []
    detect = views.detect_resized

    def record(detector: Any, images: Any, *rest: Any) -> Any:
        sizes.append(len(images))
        return detect(detector, images, *rest)

    monkeypatch.setattr(views, "detect_resized", record)
    together = configured.detect(images)
    # At 64×96 pixels, 90×60, 45×30 and 90×58 become 96×64 or 96×62; tiles of different images can have other sizes.
    assert max(sizes) == (4 if chosen.tiles is None else max(sizes))
    for found, expected in zip(together, alone, strict=True):
        assert len(found) == len(expected) > 0
        assert found.labels.equal(expected.labels)
        torch.testing.assert_close(found.boxes, expected.boxes, rtol=0, atol=1e-3)
        torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-5)


def test_only_the_wanted_classes_reach_their_threshold(model: SavedDetector) -> None:
    names = model.class_names
    assert only_classes([0.3, 0.4], names, None) == [0.3, 0.4]
    assert only_classes([0.3, 0.4], names, "cat, dog") == [0.3, 0.4]
    thresholds = only_classes([0.0, 0.0], names, "dog")
    (found,) = ConfiguredDetector(model, thresholds, Postprocess(), Views()).detect([noise(90, 60)])
    assert set(found.labels.tolist()) == {1}
    assert only_classes([0.3, 0.4], ["a,b", "c"], "a,b")[0] == 0.3
    with pytest.raises(PipelineError, match=r"^--classes: 'bird' is no class of the detector; known ones: cat, dog$"):
        only_classes([0.3, 0.4], names, "cat,bird")


def test_detections_of_other_classes_take_no_place_of_the_wanted_ones(model: SavedDetector) -> None:
    def find(thresholds: list[float], limit: int) -> Detections:
        processing = Postprocess(score_threshold=0, max_detections=limit)
        (found,) = ConfiguredDetector(model, thresholds, processing, Views()).detect([noise(90, 60)])
        return found

    every = find([0.0, 0.0], 30)
    best = int(every.labels[0])
    assert len(set(every.labels.tolist())) == 2
    others = every[every.labels != best]
    thresholds = only_classes([0.0, 0.0], model.class_names, model.class_names[1 - best])
    found = find(thresholds, 3)  # as many as detections of the other class have better scores
    assert found.scores.tolist() == others.scores.tolist()[:3]
    assert found.boxes.equal(others.boxes[:3])


def white_boxes(_detector: object, images: Any, _size: object, _postprocess: object) -> list[Detections]:
    """Stands for a detector of white rectangles: the bounding box of the white pixels of each image."""
    found = []
    for image in images:
        y, x = (image[0] > 127).nonzero(as_tuple=True)
        box = [x.min(), y.min(), x.max() + 1, y.max() + 1] if len(x) else []
        boxes = torch.tensor([box] if box else [], dtype=torch.float32).view(-1, 4)
        found.append(Detections(boxes, torch.full((len(boxes),), 0.9), torch.zeros(len(boxes), dtype=torch.int64)))
    return found


@pytest.mark.parametrize("box", [(70, 20, 140, 50), (100, 10, 110, 90), (5, 5, 195, 95), (95, 45, 105, 55)])
def test_an_object_on_a_seam_of_tiles_appears_once(
    model: SavedDetector, box: tuple[int, int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "detect_resized", white_boxes)
    monkeypatch.setattr(views, "fit", lambda image, _size: image)
    x1, y1, x2, y2 = box
    image = torch.zeros(3, 100, 200, dtype=torch.uint8)
    image[:, y1:y2, x1:x2] = 255
    configured = ConfiguredDetector(model, [0.5, 0.5], Postprocess(), Views(tiles=(64, 0.2)))
    (found,) = configured.detect([image])
    assert found.boxes.tolist() == [[x1, y1, x2, y2]]
