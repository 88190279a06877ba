"""A trained detector in programs: every kind of image gives the same boxes, and results convert to other forms."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor

import fcos
from fcos.config import InputSize
from fcos.drawing import class_color
from fcos.inference import detect, load_fused
from fcos.postprocess import Postprocess
from fcos.predictor import Predictor, Result
from pipeline.data.images import read_image
from tests.support.noise import noise
from tests.support.tiny_detector import CATEGORIES, save_tiny_detector

SIZE = InputSize((64, 96))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_detector(tmp_path_factory.mktemp("project") / "models/detector.safetensors")


@pytest.fixture(scope="module")
def predictor(weights: Path) -> Predictor:
    return fcos.load(weights, device="cpu")


def assert_equal(result: Result, expected: Any, *, exact: bool = True) -> None:
    assert len(result) == len(expected.scores) > 0
    assert result.labels.equal(expected.labels)
    tolerance = {"rtol": 0.0, "atol": 0.0 if exact else 1e-3}
    torch.testing.assert_close(result.boxes, expected.boxes, **tolerance)
    torch.testing.assert_close(result.scores, expected.scores, **tolerance)


def test_every_kind_of_image_gives_the_detections_of_the_pixels(
    predictor: Predictor, weights: Path, tmp_path: Path
) -> None:
    array = noise(90, 60)
    PIL.Image.fromarray(array).save(tmp_path / "a.png")
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    detector, _ = load_fused(weights)
    (expected,) = detect(detector, [tensor], SIZE, Postprocess())
    expected = expected[expected.scores >= 0.4]  # the default of a detector that wasn't evaluated
    images: list[Any] = [str(tmp_path / "a.png"), tmp_path / "a.png", PIL.Image.fromarray(array), array, tensor]
    for image in images:
        result = predictor.predict(image)
        assert_equal(result, expected)
        assert (result.width, result.height, result.image) == (90, 60, image)
    assert [type(image) for image in images[:2]] == [str, type(tmp_path)]
    assert predictor.predict(images[0]).path == tmp_path / "a.png"
    assert predictor.predict(array[..., ::-1].copy()[..., ::-1]).scores.equal(expected.scores)  # negative strides


def test_gray_arrays_are_rgb_with_equal_channels(predictor: Predictor) -> None:
    gray = noise(90, 60)[..., 0]
    assert_equal(predictor.predict(gray), predictor.predict(np.stack([gray] * 3, axis=2)))


def test_sequences_give_lists_and_iterators_give_iterators(predictor: Predictor) -> None:
    arrays = [noise(90, 60, 1), noise(60, 90, 2), noise(45, 30, 3), noise(90, 60, 4)]
    alone = [predictor.predict(array) for array in arrays]
    for batch_size in (1, 2, 4, 9):
        together = predictor.predict(arrays, batch_size=batch_size)
        assert isinstance(together, list)
        for result, expected in zip(together, alone, strict=True):
            assert_equal(result, expected, exact=False)
    assert predictor.predict([]) == []
    results = predictor.predict(iter(arrays))
    assert not isinstance(results, list)
    for result, expected in zip(results, alone, strict=True):
        assert_equal(result, expected, exact=False)


def test_an_iterator_reads_one_batch_at_a_time(predictor: Predictor) -> None:
    taken = []

    def images() -> Iterator[np.ndarray[Any, Any]]:
        for number in range(6):
            taken.append(number)
            yield noise(32, 32, number)

    results = predictor.predict(images(), batch_size=2)
    assert taken == []
    next(results)
    assert taken == [0, 1]
    next(results)
    assert taken == [0, 1]
    next(results)
    assert taken == [0, 1, 2, 3]


def test_images_of_one_size_share_a_batch(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, ...]] = []
    prepare = predictor.detector.prepare

    def record(images: Any, canvas: Any = None) -> Tensor:
        batch = prepare(images, canvas)
        sizes.append(tuple(batch.shape))
        return batch

    monkeypatch.setattr(predictor.detector, "prepare", record)
    # 90×60 and 45×30 become 96×64 pixels; 60×90 becomes 64×96.
    predictor.predict([noise(90, 60), noise(60, 90), noise(45, 30), noise(90, 60)], batch_size=4)
    assert sizes == [(3, 3, 64, 96), (1, 3, 96, 64)]


# Name, mode and options of a file of eight bits per channel.
FILES = [
    ("a.png", "RGB", {}),
    ("a.png", "L", {}),
    ("a.png", "P", {}),
    ("a.png", "RGBA", {}),
    ("a.png", "1", {}),
    ("a.jpg", "RGB", {}),
    ("a.jpg", "L", {}),
    ("a.jpg", "CMYK", {}),
    ("a.jpg", "RGB", {"exif": "turned"}),
    ("a.webp", "RGB", {}),
    ("a.gif", "P", {}),
    ("a.bmp", "RGB", {}),
    ("a.tif", "RGB", {"compression": "tiff_lzw"}),
    ("a.ppm", "RGB", {}),
]


@pytest.mark.parametrize(("name", "mode", "options"), FILES)
def test_files_have_the_pixels_of_training(name: str, mode: str, options: dict[str, Any], tmp_path: Path) -> None:
    if "exif" in options:
        exif = PIL.Image.Exif()
        exif[0x0112] = 6  # a quarter turn: ignored, boxes refer to stored pixels
        options = {"exif": exif.tobytes()}
    PIL.Image.fromarray(noise(50, 40)).resize((30, 20)).convert(mode).save(tmp_path / name, **options)
    assert fcos.predictor._to_tensor(tmp_path / name).equal(read_image(tmp_path / name))


def deep_files(folder: Path) -> list[Path]:
    """Files of 16 bits per channel, which Pillow would clip or shift."""
    import cv2

    gray = np.arange(600, dtype=np.uint16).reshape(20, 30) * 100
    paths = [folder / name for name in ("gray.png", "gray.tif", "gray.pgm", "rgb.png", "rgb.tif", "rgb.ppm")]
    for path in paths:
        cv2.imwrite(str(path), gray if path.stem == "gray" else np.stack([gray] * 3, axis=2))
    PIL.Image.fromarray(gray.astype(np.float32)).save(folder / "float.tif")
    return [*paths, folder / "float.tif"]


def test_deep_images_are_refused_rather_than_darkened(tmp_path: Path, predictor: Predictor) -> None:
    for path in deep_files(tmp_path):
        with pytest.raises(ValueError, match="more than 8 bits per channel") as caught:
            predictor.predict(path)
        assert str(caught.value).startswith(f"{path}: ")
    with pytest.raises(ValueError, match="more than 8 bits per channel"):
        predictor.predict(PIL.Image.new("I", (30, 20)))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(3, 4, 5), r"a tensor must be uint8 \[3, H, W\], not torch.float32 \[3, 4, 5\]"),
        (torch.zeros(4, 5, 3, dtype=torch.uint8), r"a tensor must be uint8 \[3, H, W\], not torch.uint8 \[4, 5, 3\]"),
        (np.zeros((4, 5, 3)), r"an array must be uint8 \[H, W, 3\] or \[H, W\], not float64 \[4, 5, 3\]"),
        (np.zeros((3, 4, 5), np.uint8), r"not uint8 \[3, 4, 5\]"),
        (np.zeros((2, 4, 5, 3), np.uint8), r"not uint8 \[2, 4, 5, 3\]"),
        ("none.jpg", r"none\.jpg: no such file"),
    ],
)
def test_what_is_no_image_is_one_line(predictor: Predictor, image: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        predictor.predict(image)


def test_a_damaged_file_is_one_line(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(ValueError, match=r"text\.jpg: can't be decoded as an image: unknown image format$"):
        predictor.predict(tmp_path / "text.jpg")
    PIL.Image.fromarray(noise(50, 40)).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"cut\.png: can't be decoded as an image: "):
        predictor.predict(tmp_path / "cut.png")


def test_an_image_above_pillows_limit_is_one_line(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    PIL.Image.new("RGB", (60, 40)).save(tmp_path / "large.png")
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(
        ValueError, match=r"large\.png: can't be decoded as an image: Image size \(2400 pixels\) exceeds"
    ):
        predictor.predict(tmp_path / "large.png")


def write_point(detector: Path, folder: Path, **content: Any) -> Path:
    digest = hashlib.sha256(detector.read_bytes()).hexdigest()
    path = folder / "operating_point.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"weights": digest} | content))
    return path


def test_thresholds_and_post_processing_are_those_of_evaluation(weights: Path) -> None:
    postprocess = Postprocess(max_detections=5, nms="soft_linear")
    points = {"all": {"score": 0.3}, "classes": {"cat": {"score": 0.45}, "dog": None}}
    for folder in (weights.parent, weights.parent.parent / "predictions"):
        path = write_point(weights, folder, **points, postprocess=asdict(postprocess), views={"flip": False})
        detector = fcos.load(weights, device="cpu")
        assert (detector.thresholds, detector.postprocess) == ((0.45, 0.3), postprocess)
        assert len(detector.predict(noise(90, 60), score=0)) == 5
        path.unlink()
    path = write_point(weights, weights.parent, weights="of another training", **points)
    assert fcos.load(weights, device="cpu").thresholds == (0.4, 0.4)
    path.unlink()


def test_scores_are_compared_with_the_threshold_of_their_class(predictor: Predictor) -> None:
    everything = predictor.predict(noise(90, 60), score=0)
    assert sorted(everything.scores.tolist(), reverse=True) == everything.scores.tolist()
    cats = everything.scores[everything.labels == 0]
    middle = float(cats[len(cats) // 2])
    chosen = Predictor(predictor.detector, predictor.description, thresholds=[middle, 1.0]).predict(noise(90, 60))
    assert set(chosen.names) == {"cat"}
    assert chosen.scores.tolist() == cats[cats >= middle].tolist()
    assert len(predictor.predict(noise(90, 60), score=1)) == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"all": {"score": 2}, "classes": {}}, "all: score is 2, but should be a number from 0 to 1"),
        ({"all": None, "classes": {}, "postprocess": {}}, "postprocess.score_threshold is missing"),
        ({"all": None}, "classes is missing"),
    ],
)
def test_an_invalid_operating_point_is_one_line(weights: Path, content: dict[str, Any], message: str) -> None:
    path = write_point(weights, weights.parent, **content)
    with pytest.raises(ValueError, match=message) as caught:
        fcos.load(weights, device="cpu")
    assert str(caught.value).startswith(f"{path}: ")
    path.unlink()


def test_thresholds_of_other_views_are_a_warning(weights: Path) -> None:
    views = {"sizes": None, "flip": True, "tiles": [64, 0.2]}
    path = write_point(weights, weights.parent, all=None, classes={}, views=views)
    with pytest.warns(UserWarning, match=r"chosen with other views of each image \(flip, tiles\)"):
        fcos.load(weights, device="cpu")
    path.unlink()


def test_devices(weights: Path) -> None:
    assert fcos.load(weights, device=torch.device("cpu")).detector.mean.device.type == "cpu"
    with pytest.raises(ValueError, match="device gpu: unknown; choose cpu, cuda or auto"):
        fcos.load(weights, device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device cuda: torch finds no GPU; choose cpu or auto"):
            fcos.load(weights, device="cuda")


def make_result(image: Any = None) -> Result:
    boxes = torch.tensor([[1.0, 2.0, 11.0, 22.0], [5.5, 0.0, 25.0, 10.0], [0.0, 0.0, 3.0, 4.0]])
    image = np.zeros((30, 40, 3), np.uint8) if image is None else image
    return Result(boxes, torch.tensor([0.875, 0.5, 0.25]), torch.tensor([1, 0, 1]), CATEGORIES, 40, 30, image)


def test_parts_of_a_result() -> None:
    result = make_result()
    assert result.names == ["dog", "cat", "dog"]
    assert repr(result) == "Result(40×30 pixels: 2 × dog, 1 × cat)"
    assert repr(make_result("a.jpg")[:0]) == "Result('a.jpg', 40×30 pixels: nothing)"
    assert [part.scores.tolist() for part in result] == [[0.875], [0.5], [0.25]]
    for index in (-1, slice(2, 3), [2], result.scores < 0.3, np.array([False, False, True])):
        part = result[index]
        assert (part.boxes.tolist(), part.names, len(part)) == ([[0, 0, 3, 4]], ["dog"], 1)
    with pytest.raises(IndexError):
        result[3]


def test_coco_results_have_the_data_sets_category_ids() -> None:
    assert make_result().to_coco(image_id=9)[:2] == [
        {"image_id": 9, "category_id": 3, "bbox": [1, 2, 10, 20], "score": 0.875},
        {"image_id": 9, "category_id": 7, "bbox": [5.5, 0, 19.5, 10], "score": 0.5},
    ]
    assert make_result()[:0].to_coco() == []


def test_supervision_has_the_detections_and_the_names_of_their_classes() -> None:
    pytest.importorskip("supervision")
    found = make_result().to_supervision()
    assert found.xyxy.tolist() == [[1, 2, 11, 22], [5.5, 0, 25, 10], [0, 0, 3, 4]]
    assert (found.confidence.tolist(), found.class_id.tolist()) == ([0.875, 0.5, 0.25], [1, 0, 1])
    assert found.data["class_name"].tolist() == ["dog", "cat", "dog"]
    assert len(make_result()[:0].to_supervision()) == 0


def test_supervision_without_the_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "supervision", None)
    with pytest.raises(ImportError, match="needs the package supervision: pip install supervision"):
        make_result().to_supervision()


def test_a_plot_has_the_colors_of_all_other_pictures_and_no_label_on_another() -> None:
    box = [100.0, 100.0, 200.0, 200.0]
    image = np.zeros((300, 400, 3), np.uint8)
    result = Result(
        torch.tensor([box, box]), torch.tensor([0.9, 0.8]), torch.tensor([0, 1]), CATEGORIES, 400, 300, image
    )
    picture = np.asarray(result.plot())
    tags = [(picture == class_color(label)).all(axis=2) for label in (0, 1)]
    assert tuple(picture[200, 150]) == class_color(0)  # the best one is drawn last
    assert tags[0][85:98, 102:150].sum() > 200  # above the box
    assert not tags[1][:100].any()
    assert tags[1][102:114, 102:150].sum() > 200  # inside


def test_a_plot_has_boxes_in_the_color_of_their_class(tmp_path: Path) -> None:
    PIL.Image.new("RGB", (400, 300)).save(tmp_path / "a.png")
    boxes = torch.tensor([[100.0, 100.0, 200.0, 200.0], [250.0, 50.0, 350.0, 250.0]])
    for image in (tmp_path / "a.png", np.zeros((300, 400, 3), np.uint8)):
        result = Result(boxes, torch.tensor([0.9, 0.8]), torch.tensor([0, 0]), CATEGORIES, 400, 300, image)
        picture = np.asarray(result.plot())
        assert picture.shape == (300, 400, 3)
        edges = {tuple(picture[y, x].tolist()) for x, y in ((100, 150), (200, 150), (150, 200), (250, 150), (300, 250))}
        assert len(edges) == 1
        assert edges != {(0, 0, 0)}
        assert not picture[150, 150].any()  # inside of a box
        assert picture[85:100, 100:150].any()  # name and score above it


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (3, {}, "^int is no image: give a path, a Pillow image, a uint8 array or tensor, or several of them$"),
        (b"bytes", {}, "^bytes is no image: "),
        ([None], {}, "^NoneType is no image: "),
        (
            "https://example.org/a.jpg",
            {},
            r"^https://example\.org/a\.jpg: addresses are not opened; download the image",
        ),
        (Path(), {}, r"^\.: a folder; give its files, as in Path\('\.'\)\.glob\('\*\.jpg'\)$"),
        ([], {"score": 2}, "^score is 2, but should be a number from 0 to 1$"),
        ([], {"score": "high"}, "^score is 'high', but should be a number from 0 to 1$"),
        ([], {"batch_size": 0}, "^batch_size is 0, but should be at least 1$"),
    ],
)
def test_invalid_arguments(predictor: Predictor, images: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        predictor.predict(images, **options)


def test_an_array_that_is_read_only(predictor: Predictor) -> None:
    """Such as `np.asarray(PIL.Image.open(path))`; torch would warn of it."""
    image = noise(64, 48)
    expected = predictor.predict(image, score=0)
    image.flags.writeable = False
    assert torch.equal(predictor.predict(image, score=0).boxes, expected.boxes)


def test_its_representation_names_the_classes(predictor: Predictor) -> None:
    assert repr(predictor) == f"Predictor({len(predictor.names)} classes: {', '.join(predictor.names)})"
