"""`fcos show-batches`: what it draws are the batches that training sees."""

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
from pipeline.visualization import show_batches as showing

ALL = ("flip", "color_jitter", "affine", "perspective", "crop", "mosaic", "mixup")
Setting = Callable[..., None]


def show(*options: str) -> Result:
    return CliRunner().invoke(main, ["show-batches", *options])


@pytest.fixture
def project(home: Path, setting: Setting, picture: Callable[..., Path]) -> Path:
    """A workspace with ten images of two shapes, an object in each but the first."""
    wanted = {f"train.augment.{name}": 0.7 for name in ALL}
    setting(**{"train.size": [64, 96], "train.batch_size": 4, "train.epochs": 3, **wanted})
    shapes = [(80, 60) if number % 2 else (60, 80) for number in range(10)]
    images = tuple(Image(number, f"{number}.png", *shape) for number, shape in enumerate(shapes))
    for image in images:
        picture(home / "data/raw/digits" / image.file_name, (image.width, image.height), image.id)
    objects = [Annotation(i, i, 4, (9.0, 7.0, 30.0, 40.0), 1200.0) for i in range(1, 10)]
    train = AnnotationSet((Category(2, "cat"), Category(4, "dog")), images, tuple(objects))
    annotations.write(train, home / "data/unified/train.json")
    return home


def test_a_sheet_and_a_line_for_each_batch(project: Path) -> None:
    done = show("--epoch", "1")
    assert done.exit_code == 0, done.output
    split = annotations.read(project / "data/unified/train.json")
    steps = list(make_batches(params.load(), split, project / "data/raw/digits")(1))
    assert done.stdout.splitlines() == [
        f"epoch-1-step-{number}.jpg: {showing.line(parts)}" for number, parts in enumerate(steps)
    ]
    assert done.stderr == "2 pictures in batches\n"
    names = ["cat", "dog"]
    for number, parts in enumerate(steps):
        again = showing.sheet(parts, names, title=f"epoch 1, step {number}: {showing.line(parts)}")
        again.save(project / "again.jpg", quality=90)
        assert (project / "again.jpg").read_bytes() == (project / f"batches/epoch-1-step-{number}.jpg").read_bytes()


@pytest.mark.usefixtures("project")
def test_the_line_by_hand(setting: Setting) -> None:
    setting(**{f"train.augment.{name}": 0.0 for name in ALL})
    setting(**{"train.augment.scale": [1.0, 1.0], "train.batch_size": 10, "train.accumulate": 2})
    setting(**{"train.group_by_aspect_ratio": False})
    (line,) = show().stdout.splitlines()
    assert line.startswith("epoch-0-step-0.jpg: 10 images, 9 objects, 64 to 85 wide, 64 to 85 high, padded to 96×96")


def test_how_many_and_where(project: Path) -> None:
    done = show("--batches", "1", "--out", "seen/here")
    assert done.exit_code == 0
    assert [path.name for path in (project / "seen/here").iterdir()] == ["epoch-0-step-0.jpg"]
    with PIL.Image.open(project / "seen/here/epoch-0-step-0.jpg") as sheet:
        assert min(sheet.size) > 800  # two by two


def test_workers_change_nothing(project: Path, setting: Setting) -> None:
    """With every transformation on: they draw from no global generator."""
    split, raw = annotations.read(project / "data/unified/train.json"), project / "data/raw/digits"
    alone = [part for parts in make_batches(params.load(), split, raw)(2) for part in parts]
    torch.rand(7)
    setting(**{"machine.workers": 2})
    shared = [part for parts in make_batches(params.load(), split, raw)(2) for part in parts]
    for a, b in zip(alone, shared, strict=True):
        assert a.names == b.names
        assert torch.equal(a.pixels, b.pixels)
        assert torch.equal(a.targets.boxes, b.targets.boxes)


def test_what_a_person_may_get_wrong(project: Path) -> None:
    done = show("--epoch", "3")
    assert done.exit_code == 1
    assert done.stderr == "fcos: epoch 3: train.epochs in params.yaml is 3, counted from 0\n"
    shutil.move(project / "data/unified", project / "elsewhere")
    done = show()
    assert done.exit_code == 1
    assert done.stderr.endswith("data/unified/train.json: does not exist yet; run `dvc repro convert` first\n")
    assert not (project / "batches").exists()


def test_no_picture_of_the_data_set_is_overwritten(project: Path) -> None:
    raw = project / "data/raw/digits"
    content = (raw / "1.png").read_bytes()
    split = annotations.read(project / "data/unified/train.json")
    (raw / "1.png").rename(raw / "epoch-0-step-0.jpg")
    renamed = tuple(
        Image(i.id, "epoch-0-step-0.jpg" if i.id == 1 else i.file_name, i.width, i.height) for i in split.images
    )
    annotations.write(AnnotationSet(split.categories, renamed, split.annotations), project / "data/unified/train.json")
    done = show("--out", str(raw))
    assert done.exit_code == 1
    assert done.stderr.endswith("epoch-0-step-0.jpg: is an image of the data set: choose another --out\n")
    assert (raw / "epoch-0-step-0.jpg").read_bytes() == content


def test_a_bad_image_leaves_nothing_half_written(project: Path) -> None:
    for number in range(1, 10):
        (project / f"data/raw/digits/{number}.png").write_bytes(b"no image")
    done = show()
    assert done.exit_code == 1
    assert "can't be decoded" in done.stderr
    assert not (project / "batches").exists()


def test_real_photographs(home: Path, setting: Setting, archive: Callable[[str], Path]) -> None:
    """Twelve of VOC2007, with every transformation at once."""
    wanted = {f"train.augment.{name}": 1.0 for name in ALL}
    setting(**{"train.size": [200, 320], "train.batch_size": 6, "train.group_by_aspect_ratio": False, **wanted})
    raw, images = home / "data/raw/digits", []
    with tarfile.open(archive("voc2007-trainval-400.tar")) as whole:
        jpegs = (member for member in whole if member.name.endswith(".jpg"))
        for number in range(12):
            member = next(jpegs)
            content = whole.extractfile(member)
            assert content
            (raw / member.name).parent.mkdir(parents=True, exist_ok=True)
            (raw / member.name).write_bytes(content.read())
            with PIL.Image.open(raw / member.name) as photograph:
                images.append(Image(number, member.name, *photograph.size))
    boxes = [(i.width / 4, i.height / 4, i.width / 2, i.height / 2) for i in images]
    objects = [Annotation(number, number, 1, box, box[2] * box[3]) for number, box in enumerate(boxes)]
    train = AnnotationSet((Category(1, "middle"),), tuple(images), tuple(objects))
    annotations.write(train, home / "data/unified/train.json")
    done = show()
    assert done.exit_code == 0, done.output
    assert [line.split(", ")[0] for line in done.stdout.splitlines()] == [
        f"epoch-0-step-{step}.jpg: 6 images" for step in (0, 1)
    ]
    assert all(int(line.split(", ")[1].split()[0]) > 6 for line in done.stdout.splitlines()), "mosaics have more"
