"""The commands and the Python code of docs/use.md and README.md, and the example of `Predictor.predict`."""

import csv
import doctest
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from math import ceil, floor
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from click.testing import CliRunner, Result

import fcos.predictor
from pipeline.cli import main
from pipeline.conversion import export
from tests.support.noise import noise
from tests.support.paths import PROJECT
from tests.support.projects import readme
from tests.support.tiny_detector import CATEGORIES, save_tiny_detector
from tests.support.videos import write_video

IMAGES = ("photo.jpg", "folder/photo.jpg", "folder/sub/a.png", "photos/b.png", "photos/c.jpg")


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a detector and images, in which the commands of docs/use.md have run one after another."""
    folder = tmp_path_factory.mktemp("used")
    save_tiny_detector(folder / "models/detector.safetensors")
    (folder / "dvc.yaml").touch()
    for seed, name in enumerate(IMAGES, 1):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(noise(64, 48, seed)).save(folder / name)
    return folder


@pytest.fixture(autouse=True)
def in_the_folder(used: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(used)


def run(command: list[str], text: str | None = None) -> Result:
    assert command[0] == "fcos"
    result = CliRunner().invoke(main, command[1:], input=text)
    assert result.exit_code == 0, result.output
    return result


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def image_size(path: Path) -> tuple[int, int]:
    with PIL.Image.open(path) as image:
        return image.size


def test_images_in(used: Path) -> None:
    pictures, piped, pets = readme("On images", "docs/use.md")
    run(pictures)
    assert files(used / "seen") == ["a.jpg", "b.jpg", "detections.json", "photo-2.jpg", "photo.jpg"]
    pipe = piped.index("|")
    listed = subprocess.run(piped[:pipe], capture_output=True, text=True, check=True).stdout
    lines = run(piped[pipe + 1 :], listed).stdout.splitlines()
    assert [json.loads(line)["file"] for line in lines] == ["photos/c.jpg"]
    run(pets)
    found = [
        item for record in json.loads((used / "pets/detections.json").read_text()) for item in record["detections"]
    ]
    assert {item["category_id"] for item in found} == {3, 7}
    assert min(item["score"] for item in found) >= 0.3


def test_videos(used: Path) -> None:
    tracked, every_fifth = readme("On video", "docs/use.md")
    (of_readme,) = (words for words in readme("Use it") if "--track" in words)
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(6)]
    write_video(used / "walk.mp4", pictures, sound=["aac"])
    run(tracked)
    assert files(used / "tracked") == ["walk.jsonl", "walk.mp4"]
    frames = [json.loads(line) for line in (used / "tracked/walk.jsonl").read_text().splitlines()]
    assert [frame["frame"] for frame in frames] == [0, 1, 2, 3, 4, 5]
    assert {type(item["track_id"]) for frame in frames for item in frame["detections"]} == {int, type(None)}
    assert [json.loads(line)["frame"] for line in run(every_fifth).stdout.splitlines()] == [0, 5]
    run(of_readme)
    assert files(used / "predicted") == ["walk.jsonl", "walk.mp4"]
    (used / "walk.mp4").unlink()


def test_files_out(used: Path) -> None:
    tables, data_sets = readme("What is written", "docs/use.md")[:2]
    run(tables)
    with (used / "seen-csv/detections.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["filename"] for row in rows} == {"folder/photo.jpg", "folder/sub/a.png"}
    best = next(row for row in rows if row["filename"] == "folder/photo.jpg")
    size = image_size(used / f"seen-csv/crops/{best['class']}/photo-1.jpg")
    left, top, right, bottom = (float(best[name]) for name in ("xmin", "ymin", "xmax", "ymax"))
    # The table's coordinates are rounded to 0.01 pixel, which can be a pixel of the crop.
    for length, start, end in zip(size, (left, top), (right, bottom), strict=True):
        assert length in {ceil(end + error) - floor(start - error) for error in (-0.005, 0, 0.005)}
    assert len(list((used / "seen-csv/crops").rglob("*.jpg"))) == len(rows)
    run(data_sets)
    check_data_sets(used)
    zipped = readme("Correct the detections in CVAT or Label Studio", "docs/use.md")[0]
    assert (zipped[1], (used / zipped[1]).is_dir()) == ("to-label/yolo", True)


def check_data_sets(used: Path) -> None:
    """Conversion reads each of them, with the boxes of the COCO results."""
    out = used / "to-label"
    results = json.loads((out / "coco/results.json").read_text())
    content = json.loads((out / "coco/annotations/instances_train.json").read_text())
    assert [item["score"] for item in content["annotations"]] == [item["score"] for item in results]
    assert all(item["segmentation"] == [] for item in content["annotations"])
    expected = sorted((item["image_id"], item["category_id"], *item["bbox"]) for item in results)
    assert len(expected) > 20
    for name in ("coco", "yolo", "voc"):
        survey = export.export(out / name, "coco", used / f"read-{name}", export.load_params(), images="none").survey
        (split,) = survey.splits.values()
        ids = {category.id: dict(map(reversed, CATEGORIES))[category.name] for category in split.categories}
        order = {image.id: number for number, image in enumerate(sorted(split.images, key=lambda x: x.file_name), 1)}
        assert [Path(image.file_name).name for image in sorted(split.images, key=lambda x: x.file_name)] == [
            "a.png", "photo.jpg",
        ]  # fmt: skip
        # The order of images is that of the arguments in COCO, and that of names in the others.
        swapped = {1: 2, 2: 1}
        boxes = sorted((swapped[order[item.image_id]], ids[item.category_id], *item.bbox) for item in split.annotations)
        assert boxes == [pytest.approx(box, abs=1e-6) for box in expected], name
        shutil.rmtree(used / f"read-{name}")
    assert (out / "yolo/data.yaml").read_text() == 'train: "images/train"\nnames:\n  0: "cat"\n  1: "dog"\n'
    assert (out / "voc/labelmap.txt").read_text() == "# label:color_rgb:parts:actions\ncat:::\ndog:::\n"


def python_blocks(file: str, section: str) -> Iterator[str]:
    text = (PROJECT / file).read_text().split(f"# {section}\n")[1].split("\n## ")[0]
    return (match[1] for match in re.finditer(r"(?ms)^```python\n(.*?)^```", text))


def test_python(used: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    for block in python_blocks("docs/use.md", "In Python"):
        exec(block, names)
    first = capsys.readouterr().out.splitlines()[0]
    assert re.fullmatch(r"(cat|dog) 0\.\d\d \[[\d.]+(, [\d.]+){3}\]", first)
    assert image_size(used / "boxes.png") == (64, 48)
    assert {item["image_id"] for item in names["sure"]} == {"c.jpg"}  # type: ignore[attr-defined]
    assert set(names["cats"].names) == {"cat"}  # type: ignore[attr-defined]


def test_readme(used: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (command,) = (words for words in readme("Use it") if "--save" in words)
    run([word.replace("to-label", "of-readme") for word in command])
    assert files(used / "of-readme/yolo/labels") == ["train/c.txt"]
    for block in python_blocks("README.md", "Use it"):
        exec(block, {})
    assert capsys.readouterr().out.startswith("tensor([[")


def test_the_example_of_predict() -> None:
    finder = doctest.DocTestFinder(recurse=False)
    (example,) = finder.find(fcos.predictor.Predictor.predict, "predict", module=fcos.predictor)
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example)
    assert (result.failed, result.attempted) == (0, 7)
