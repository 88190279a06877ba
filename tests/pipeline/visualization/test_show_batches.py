"""`fcos show-batches` draws the batches that training uses."""

import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import PIL.Image
import pytest
import torch
from click.testing import CliRunner, Result

from pipeline import params
from pipeline.cli import main
from pipeline.data import annotations
from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image
from pipeline.training.build import make_batches
from pipeline.visualization import show_batches as drawing

TRANSFORMS = ("flip", "color_jitter", "affine", "perspective", "crop", "mosaic", "mixup")
Settings = Callable[..., None]


def show(*options: str) -> Result:
    return CliRunner().invoke(main, ["show-batches", *options])


@pytest.fixture
def project(home: Path, setting: Settings, picture: Callable[..., Path]) -> Path:
    """A workspace with ten images of two shapes; each but the first has an object."""
    probabilities = {f"train.augment.{name}": 0.7 for name in TRANSFORMS}
    setting(**{"train.size": [64, 96], "train.batch_size": 4, "train.epochs": 3, **probabilities})
    shapes = [(80, 60) if number % 2 else (60, 80) for number in range(10)]
    images = tuple(Image(number, f"{number}.png", *shape) for number, shape in enumerate(shapes))
    for image in images:
        picture(home / "data/raw/digits" / image.file_name, (image.width, image.height), image.id)
    objects = [Annotation(i, i, 4, (9.0, 7.0, 30.0, 40.0), 1200.0) for i in range(1, 10)]
    train = AnnotationSet((Category(2, "cat"), Category(4, "dog")), images, tuple(objects))
    annotations.write(train, home / "data/unified/train.json")
    return home


def test_each_batch_gets_a_sheet_and_a_line(project: Path) -> None:
    result = show("--epoch", "1")
    assert result.exit_code == 0, result.output
    split = annotations.read(project / "data/unified/train.json")
    steps = list(make_batches(params.load(), split, project / "data/raw/digits")(1))
    assert result.stdout.splitlines() == [
        f"epoch-1-step-{number}.jpg: {drawing.describe_step(parts)}" for number, parts in enumerate(steps)
    ]
    assert result.stderr == "2 pictures in batches\n"
    names = ["cat", "dog"]
    for number, parts in enumerate(steps):
        expected = drawing.draw_step(parts, names, title=f"epoch 1, step {number}: {drawing.describe_step(parts)}")
        expected.save(project / "expected.jpg", quality=90)
        assert (project / "expected.jpg").read_bytes() == (project / f"batches/epoch-1-step-{number}.jpg").read_bytes()


@pytest.mark.usefixtures("project")
def test_a_parameter_on_the_command_line() -> None:
    assert show("--batches", "9", "-S", "train.batch_size=5").stderr == "2 pictures in batches\n"
    assert show("--batches", "9", "-S", "train.batch_size=2").stderr == "5 pictures in batches\n"


@pytest.mark.usefixtures("project")
def test_the_line_gives_counts_and_sizes(setting: Settings) -> None:
    setting(**{f"train.augment.{name}": 0.0 for name in TRANSFORMS})
    setting(**{"train.augment.scale": [1.0, 1.0], "train.batch_size": 10, "train.accumulate": 2})
    setting(**{"train.group_by_aspect_ratio": False})
    (line,) = show().stdout.splitlines()
    assert line.startswith("epoch-0-step-0.jpg: 10 images, 9 objects, 64 to 85 wide, 64 to 85 high, padded to 96×96")


def test_options_choose_number_and_folder(project: Path) -> None:
    result = show("--batches", "1", "--out", "seen/here")
    assert result.exit_code == 0
    assert [path.name for path in (project / "seen/here").iterdir()] == ["epoch-0-step-0.jpg"]
    with PIL.Image.open(project / "seen/here/epoch-0-step-0.jpg") as sheet:
        assert min(sheet.size) > 800  # two by two


def test_workers_do_not_change_batches(project: Path, setting: Settings) -> None:
    """With every transform on: none draws from a global generator."""
    split, raw = annotations.read(project / "data/unified/train.json"), project / "data/raw/digits"
    without_workers = [part for parts in make_batches(params.load(), split, raw)(2) for part in parts]
    torch.rand(7)
    setting(**{"machine.workers": 2})
    with_workers = [part for parts in make_batches(params.load(), split, raw)(2) for part in parts]
    for a, b in zip(without_workers, with_workers, strict=True):
        assert a.names == b.names
        assert torch.equal(a.pixels, b.pixels)
        assert torch.equal(a.targets.boxes, b.targets.boxes)


def test_mistakes_are_one_line_errors(project: Path) -> None:
    result = show("--epoch", "3")
    assert result.exit_code == 1
    assert result.stderr == "fcos: epoch 3: train.epochs in params.yaml is 3, counted from 0\n"
    shutil.move(project / "data/unified", project / "elsewhere")
    result = show()
    assert result.exit_code == 1
    assert result.stderr.endswith("data/unified/train.json: does not exist yet; run `dvc repro convert` first\n")
    assert not (project / "batches").exists()


def test_no_image_of_the_data_set_is_overwritten(project: Path) -> None:
    raw = project / "data/raw/digits"
    content = (raw / "1.png").read_bytes()
    split = annotations.read(project / "data/unified/train.json")
    (raw / "1.png").rename(raw / "epoch-0-step-0.jpg")
    renamed = tuple(
        Image(i.id, "epoch-0-step-0.jpg" if i.id == 1 else i.file_name, i.width, i.height) for i in split.images
    )
    annotations.write(AnnotationSet(split.categories, renamed, split.annotations), project / "data/unified/train.json")
    result = show("--out", str(raw))
    assert result.exit_code == 1
    assert result.stderr.endswith("epoch-0-step-0.jpg: is an image of the data set: choose another --out\n")
    assert (raw / "epoch-0-step-0.jpg").read_bytes() == content


def test_an_undecodable_image_leaves_no_output(project: Path) -> None:
    for number in range(1, 10):
        (project / f"data/raw/digits/{number}.png").write_bytes(b"no image")
    result = show()
    assert result.exit_code == 1
    assert "can't be decoded" in result.stderr
    assert not (project / "batches").exists()


def test_real_photographs(home: Path, setting: Settings, archive: Callable[[str], Path]) -> None:
    """Twelve photographs of VOC2007, with every transform at once."""
    probabilities = {f"train.augment.{name}": 1.0 for name in TRANSFORMS}
    setting(**{"train.size": [200, 320], "train.batch_size": 6, "train.group_by_aspect_ratio": False, **probabilities})
    raw, images = home / "data/raw/digits", []
    with tarfile.open(archive("voc2007-trainval-400.tar")) as tar:
        jpegs = (member for member in tar if member.name.endswith(".jpg"))
        for number in range(12):
            member = next(jpegs)
            content = tar.extractfile(member)
            assert content
            (raw / member.name).parent.mkdir(parents=True, exist_ok=True)
            (raw / member.name).write_bytes(content.read())
            with PIL.Image.open(raw / member.name) as photograph:
                images.append(Image(number, member.name, *photograph.size))
    boxes = [(i.width / 4, i.height / 4, i.width / 2, i.height / 2) for i in images]
    objects = [Annotation(number, number, 1, box, box[2] * box[3]) for number, box in enumerate(boxes)]
    train = AnnotationSet((Category(1, "middle"),), tuple(images), tuple(objects))
    annotations.write(train, home / "data/unified/train.json")
    result = show()
    assert result.exit_code == 0, result.output
    assert [line.split(", ")[0] for line in result.stdout.splitlines()] == [
        f"epoch-0-step-{step}.jpg: 6 images" for step in (0, 1)
    ]
    assert all(int(line.split(", ")[1].split()[0]) > 6 for line in result.stdout.splitlines()), (
        "mosaics have more objects than images"
    )
