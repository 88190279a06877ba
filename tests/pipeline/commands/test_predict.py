"""`fcos predict` where an image can't be read, is too large, or the output can't be written."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from click.testing import CliRunner, Result

from fcos.config import PAPER, InputSize
from fcos.detector import build
from fcos.weights import Description, save_detector
from pipeline.cli import main
from tests.support.large_images import enlarge_png
from tests.support.tiny_detector import save_tiny_detector
from tests.support.videos import read_video, write_video

CONFIG = replace(
    PAPER,
    backbone="tiny",
    pretrained=False,
    batch_norm="auto",
    channels=16,
    levels=(3, 4, 5),
    tower_depth=1,
    frozen_stages=0,
)

Predict = Callable[..., Result]


@pytest.fixture
def predict(tmp_path: Path, picture: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Predict:
    """Runs the command in a folder with a detector and three images: good, damaged and large."""
    description = Description(model=CONFIG, categories=((1, "cat"),), input_size=InputSize((64, 64)))
    save_detector(build(CONFIG, 1), description, tmp_path / "detector.safetensors")
    picture(tmp_path / "good.png")
    enlarge_png(picture(tmp_path / "large.png"), 20_000, 10_000)
    (tmp_path / "damaged.png").write_bytes(b"no image")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, **options: str | bytes) -> Result:
        return CliRunner().invoke(main, ["predict", "--weights", "detector.safetensors", *arguments], **options)

    return run


def test_each_image_that_cant_be_read_is_a_line_and_the_others_are_processed(predict: Predict) -> None:
    result = predict("damaged.png", "large.png", "good.png", "--out", "out")
    assert result.exit_code == 1
    assert result.stdout == "good.png: nothing\n"
    assert result.stderr.splitlines() == [
        "fcos: damaged.png: can't be decoded as an image: unknown image format",
        "fcos: large.png: 20,000×10,000 is 200.0 megapixels, more than the limit of 150: cut the image into tiles, or "
        "raise the limit: --max-megapixels 200",
        "1 picture in out",
    ]
    assert [record["file"] for record in json.loads(Path("out/detections.json").read_text())] == ["good.png"]


def test_the_advice_on_large_images_works_as_printed(predict: Predict) -> None:
    result = predict("good.png", "--max-megapixels", "0.001")
    assert result.stderr.endswith(
        "megapixels, more than the limit of 0.001: cut the image into tiles, or raise the limit: --max-megapixels 1\n"
    )
    assert predict("good.png", "--max-megapixels", "1").exit_code == 0


@pytest.mark.parametrize("arguments", [["none.png"], ["good.png", "--out", "good.png/below"]])
def test_what_stops_everything_is_one_line(predict: Predict, arguments: list[str]) -> None:
    result = predict(*arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr in (
        "fcos: none.png: no such file or folder\n",
        "fcos: good.png/below: can't be written: not a directory; choose another --out\n",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--save", "json,xml"],
            "--save: 'xml' can't be written; choose from pictures, crops, json, csv, coco, yolo, voc",
        ),
        (["--classes", "dog"], "--classes: 'dog' is no class of the detector; known ones: cat"),
        (["--save", "yolo"], "predicted/yolo: already exists; choose another --out, or remove it"),
        (["--save", "crops"], "predicted/crops: already exists; choose another --out, or remove it"),
    ],
)
def test_options_are_checked_before_the_first_image(predict: Predict, arguments: list[str], message: str) -> None:
    for name in ("yolo", "crops"):
        Path(f"predicted/{name}").mkdir(parents=True)
        Path(f"predicted/{name}/precious.txt").touch()
    result = predict("good.png", *arguments)
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", f"fcos: {message}\n")


def test_a_list_with_images_that_cant_be_read(predict: Predict) -> None:
    listing = "good.png\ngone.png\ndamaged.png\nhttps://example.org/a.jpg\n"
    result = predict("-", "--json", "--batch", "3", "--score", "1", input=listing)
    assert result.exit_code == 1
    assert json.loads(result.stdout)["file"] == "good.png"
    assert result.stderr.splitlines() == [
        "fcos: gone.png: no such file or folder",
        "fcos: https://example.org/a.jpg: is a URL; download it first: curl -O https://example.org/a.jpg",
        "fcos: damaged.png: can't be decoded as an image: unknown image format",
    ]
    assert not Path("predicted").exists()


def test_a_list_may_contain_any_bytes(predict: Predict) -> None:
    result = predict("-", "--json", "--score", "1", input=b"caf\xe9.jpg\ngood.png\n")
    assert (result.exit_code, result.stderr) == (1, "fcos: caf\\xe9.jpg: no such file or folder\n")
    assert json.loads(result.stdout)["file"] == "good.png"
    assert (result := predict("-", input="")).exit_code == 1
    assert result.stderr == "fcos: -: the list is empty\n"


def test_data_sets_have_no_copies_with_images_none(predict: Predict) -> None:
    assert predict("good.png", "--save", "coco,voc,yolo", "--images", "none").stderr == (
        "detections in 1 image in predicted\n"
    )
    assert [path for path in Path("predicted").rglob("*") if path.suffix == ".png"] == []
    assert Path("predicted/yolo/labels/train/good.txt").is_file()


def test_other_commands_say_in_one_line_what_they_cant_write(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = CliRunner().invoke(main, ["recipes", "paper_r50", "--out", str(tmp_path / "file/params.yaml")])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"fcos: {tmp_path / 'file'}")
    assert result.stderr.count("\n") == 1


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """A video of three pictures, in a folder with a detector that detects much in everything."""
    save_tiny_detector(tmp_path / "detector.safetensors")
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (90, 120, 3), dtype=np.uint8) for _ in range(3)]
    return write_video(tmp_path / "video.mp4", pictures)


@pytest.mark.parametrize("options", [[], ["--tiles", "64", "0.2"]])
def test_frames_of_a_video_are_detected_as_images(predict: Predict, video: Path, options: list[str]) -> None:
    options = [*options, "--score", "0.4", "--json"]
    result = predict(video.name, *options)
    assert (result.exit_code, result.stderr) == (0, "")
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [record["frame"] for record in records] == [0, 1, 2]
    PIL.Image.fromarray(read_video(video)[0][1]).save("frame.png")
    image = json.loads(predict("frame.png", *options).stdout)
    assert image["detections"]
    assert records[1]["detections"] == image["detections"]


def test_a_video_beside_images(predict: Predict, video: Path) -> None:
    result = predict("good.png", video.name, "missing.mp4", "--every", "2", "--track", "--score", "0.4", "--out", "out")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[0].startswith("good.png: ")
    assert re.fullmatch(r"video\.mp4: 2 frames: \d+ × cat, \d+ × dog; \d+ tracks", result.stdout.splitlines()[1])
    assert result.stderr.splitlines() == [
        "fcos: missing.mp4: no such file or folder",
        "1 picture in out",
        "1 video in out",
    ]
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "detections.json", "good.jpg", "video.jsonl", "video.mp4",
    ]  # fmt: skip
    records = [json.loads(line) for line in Path("out/video.jsonl").read_text().splitlines()]
    assert [record["frame"] for record in records] == [0, 2]
    assert {detection["track_id"] is None for detection in records[0]["detections"]} == {True}
    assert len(read_video(Path("out/video.mp4"))[0]) == 3


def test_an_input_video_is_never_overwritten(predict: Predict, video: Path) -> None:
    before = video.read_bytes()
    result = predict(video.name, "--out", ".")
    assert (result.exit_code, result.stderr) == (
        1,
        "fcos: video.mp4: is an input; its picture would overwrite it: choose another --out\n",
    )
    assert video.read_bytes() == before


def test_kinds_of_output_that_are_for_images_only(predict: Predict, video: Path) -> None:
    result = predict(video.name, "--save", "csv,yolo")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "fcos: --save csv,yolo: only for images; for videos, add pictures (the video with boxes) or json\n"
    )
    assert predict(video.name, "--save", "csv,json").exit_code == 0
    assert [path.name for path in Path("predicted").iterdir()] == ["video.jsonl"]
    assert predict(video.name, "--json", "--save", "csv").stderr == ""  # nothing is written, so no folder is named
