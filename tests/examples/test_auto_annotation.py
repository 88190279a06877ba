"""The examples for CVAT and Label Studio, with stand-ins for what they import of those packages."""

import runpy
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import PIL.Image
import pytest

import fcos
from tests.support.noise import noise
from tests.support.paths import PROJECT
from tests.support.tiny_detector import save_tiny_detector

WIDTH, HEIGHT = 120, 60


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_detector(tmp_path_factory.mktemp("models") / "detector.safetensors")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A picture whose EXIF orientation turns it by a quarter: it is shown 120 pixels wide and 60 high."""
    exif = PIL.Image.Exif()
    exif[274] = 6
    path = tmp_path / "photo.png"
    PIL.Image.fromarray(noise(HEIGHT, WIDTH)).save(path, exif=exif)
    return path


def expected(weights: Path, image: PIL.Image.Image, score: float | None = None) -> list[tuple[str, list[float], float]]:
    result = fcos.load(weights, "cpu").predict(image, score=score)
    assert {*result.names} == {"cat", "dog"}
    return list(zip(result.names, result.boxes.tolist(), result.scores.tolist(), strict=True))


def test_cvat(weights: Path, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CVAT gets a rectangle for each detection, and its threshold replaces the detector's."""
    package, module = ModuleType("cvat_sdk"), ModuleType("cvat_sdk.auto_annotation")
    module.label_spec = lambda name, id, **options: {"name": name, "id": id, **options}  # type: ignore[attr-defined]
    module.rectangle = lambda label, points, **options: (label, points, options)  # type: ignore[attr-defined]
    module.DetectionFunctionSpec = SimpleNamespace  # type: ignore[attr-defined]
    module.DetectionFunctionContext = object  # type: ignore[attr-defined]
    package.auto_annotation = module  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cvat_sdk", package)
    monkeypatch.setitem(sys.modules, "cvat_sdk.auto_annotation", module)
    function = runpy.run_path(str(PROJECT / "examples/cvat_auto_annotation.py"))["create"](str(weights), device="cpu")
    assert function.spec.labels == [
        {"name": "cat", "id": 0, "type": "rectangle"}, {"name": "dog", "id": 1, "type": "rectangle"},
    ]  # fmt: skip
    with PIL.Image.open(photo) as image:
        found = [function.detect(SimpleNamespace(conf_threshold=score), image) for score in (None, 0.5)]
        for rectangles, score in zip(found, (None, 0.5), strict=True):
            assert [(("cat", "dog")[label], box, options["score"]) for label, box, options in rectangles] == expected(
                weights, image, score
            )
    assert len(found[0]) > len(found[1]) > 0


class Base:
    """As label_studio_ml.model.LabelStudioMLBase, of a project with one configuration."""

    parsed_label_config: dict[str, Any] = {  # noqa: RUF012
        "choice": {"type": "Choices", "to_name": ["img"], "inputs": [{"type": "Image", "value": "x"}], "labels": []},
        "boxes": {"type": "RectangleLabels", "to_name": ["img"], "inputs": [{"type": "Image", "value": "photo"}],
                  "labels": ["dog", "horse"]},
    }  # fmt: skip

    def get_local_path(self, url: str) -> str:
        return url.removeprefix("http://label-studio/")


def test_label_studio(weights: Path, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Label Studio gets percent of the image as it shows it, and only labels of its configuration."""
    package, module = ModuleType("label_studio_ml"), ModuleType("label_studio_ml.model")
    module.LabelStudioMLBase = Base  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "label_studio_ml", package)
    monkeypatch.setitem(sys.modules, "label_studio_ml.model", module)
    monkeypatch.setenv("FCOS_WEIGHTS", str(weights))
    backend = runpy.run_path(str(PROJECT / "examples/label_studio_backend.py"))["Backend"]()
    (prediction,) = backend.predict([{"id": 5, "data": {"photo": f"http://label-studio/{photo}"}}], context=None)
    with PIL.Image.open(photo) as image:
        upright = image.transpose(PIL.Image.Transpose.ROTATE_270)
    assert upright.size == (WIDTH, HEIGHT)
    dogs = [(box, score) for name, box, score in expected(weights, upright) if name == "dog"]
    assert len(prediction["result"]) == len(dogs)
    for region, (box, score) in zip(prediction["result"], dogs, strict=True):
        value = region.pop("value")
        assert region == {
            "from_name": "boxes", "to_name": "img", "type": "rectanglelabels", "score": score,
            "original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0,
        }  # fmt: skip
        corners = [value["x"] * WIDTH, value["y"] * HEIGHT, (value["x"] + value["width"]) * WIDTH]
        assert [*corners, (value["y"] + value["height"]) * HEIGHT] == pytest.approx([100 * side for side in box])
        assert (value["rotation"], value["rectanglelabels"]) == (0, ["dog"])
    assert prediction["score"] == max(score for _, score in dogs)
    monkeypatch.setattr(Base, "parsed_label_config", {})
    with pytest.raises(ValueError, match="the labeling configuration has no RectangleLabels"):
        backend.predict([])
