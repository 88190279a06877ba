"""`fcos import-weights` on state dicts of torchvision's model with random weights."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from torchvision.models.detection import FCOS

from fcos.config import InputSize
from fcos.torchvision_weights import TORCHVISION_POSTPROCESS, coco_categories
from pipeline.cli import main
from pipeline.data.images import read_image
from pipeline.errors import PipelineError
from pipeline.inference.detect import detect
from pipeline.inference.import_weights import read_detector
from pipeline.inference.saved_detector import SavedDetector

SIZE = (160, 240)


@pytest.fixture(scope="module")
def small(random_fcos: Callable[[int], FCOS]) -> FCOS:
    return random_fcos(4)


@pytest.fixture(scope="module")
def small_file(small: FCOS, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "small.pth"
    torch.save({"model": small.state_dict(), "epoch": 3}, path)
    return path


def write_categories(path: Path, names: dict[int, str]) -> Path:
    path.write_text(json.dumps({"categories": [{"id": id, "name": name} for id, name in names.items()]}))
    return path


def test_91_classes_of_coco_become_80_with_the_same_detections(
    random_fcos: Callable[[int], FCOS], tmp_path: Path, picture: Callable[..., Path]
) -> None:
    theirs = random_fcos(91)
    unused = [row for row in range(91) if row not in dict(coco_categories())]
    with torch.no_grad():  # as after training on COCO: an unused id is never detected
        theirs.head.classification_head.cls_logits.bias[unused] = -100
    theirs.transform.min_size, theirs.transform.max_size = SIZE[:1], SIZE[1]
    theirs.detections_per_img = 10**6
    file, out, image = tmp_path / "coco.safetensors", tmp_path / "models/detector.safetensors", tmp_path / "image.png"
    save_file(theirs.state_dict(), file)
    picture(image, (230, 160))  # as high as SIZE: neither model resizes it
    result = CliRunner().invoke(main, ["import-weights", str(file), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "80 classes" in result.output
    model = SavedDetector.load(out, torch.device("cpu"))
    assert model.description.input_size == InputSize((800, 1333))
    assert model.description.categories == coco_categories()
    pixels = read_image(image)
    (detections,) = detect(model.detector, [pixels], InputSize(SIZE), TORCHVISION_POSTPROCESS)
    with torch.no_grad():
        (expected,) = theirs([pixels / 255])
    assert len(detections) == 100
    whole = (expected["boxes"][:, 2:] > expected["boxes"][:, :2]).all(dim=-1)  # torchvision keeps boxes without area
    scores, boxes, labels = (expected[name][whole][:100] for name in ("scores", "boxes", "labels"))
    torch.testing.assert_close(detections.scores, scores, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(detections.boxes, boxes, rtol=1e-4, atol=1e-2)
    assert [model.description.categories[label][0] for label in detections.labels] == labels.tolist()


def test_categories_match_rows_by_order_or_by_id(small: FCOS, small_file: Path, tmp_path: Path) -> None:
    weight = small.head.classification_head.cls_logits.weight
    detector, categories = read_detector(small_file)
    assert categories == ((1, "class_1"), (2, "class_2"), (3, "class_3"))
    assert torch.equal(detector.head.class_logits.weight, weight[1:])
    _, categories = read_detector(
        small_file, write_categories(tmp_path / "names.json", {10: "cat", 20: "dog", 30: "cow"})
    )
    assert categories == ((10, "cat"), (20, "dog"), (30, "cow"))
    detector, categories = read_detector(small_file, write_categories(tmp_path / "ids.json", {3: "cow", 1: "cat"}))
    assert categories == ((1, "cat"), (3, "cow"))
    assert torch.equal(detector.head.class_logits.weight, weight[[1, 3]])


@pytest.mark.parametrize(
    ("names", "problem"),
    [({10: "cat", 20: "dog"}, "2 categories, but the weights have 3 classes"), ({}, "not a COCO JSON")],
)
def test_categories_that_do_not_match_the_weights(
    small_file: Path, tmp_path: Path, names: dict[int, str], problem: str
) -> None:
    with pytest.raises(PipelineError, match=problem):
        read_detector(small_file, write_categories(tmp_path / "names.json", names))


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("none.pth", None, "no such file"),
        ("bytes.pth", b"no weights", "neither .safetensors nor"),
        ("bytes.safetensors", b"no weights", "neither .safetensors nor"),
        ("code.pth", {"model": Path("x")}, "neither .safetensors nor"),
        ("list.pth", [torch.ones(1)], "contains no state dict"),
        ("other.pth", {"fc.weight": torch.ones(1)}, "not a state dict of torchvision's fcos_resnet50_fpn"),
    ],
)
def test_an_invalid_file_is_a_one_line_error(tmp_path: Path, name: str, content: object, problem: str) -> None:
    file, out = tmp_path / name, tmp_path / "out.safetensors"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        torch.save(content, file)
    result = CliRunner().invoke(main, ["import-weights", str(file), "--out", str(out)])
    assert result.exit_code == 1
    assert problem in result.stderr
    assert result.stderr.count("\n") == 1
    assert not out.exists()
