"""The download and convert stages as DVC starts them, on the default and on real data sets."""

import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tfrecord import example_pb2

from pipeline.data.annotations import read
from tests.support.paths import PROJECT
from tests.support.tfrecords import framed

Stage = Callable[[str], subprocess.CompletedProcess[str]]
Setting = Callable[..., None]


def succeeds(stage: Stage, name: str) -> str:
    done = stage(name)
    assert done.returncode == 0, done.stderr
    return done.stdout


def fails(stage: Stage, name: str, *said: str) -> None:
    """The stage exits with status 1 and one line on standard error."""
    done = stage(name)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"{name}: ")
    for text in said:
        assert text in done.stderr


def report(home: Path) -> Any:
    return json.loads((home / "data/unified/report.json").read_text())


def counts(home: Path) -> dict[str, tuple[int, int, int]]:
    """The number of images, ordinary and difficult objects by split, counted in the files."""
    found = {}
    for path in sorted((home / "data/unified").glob("*.json")):
        if path.stem != "report":
            annotations = read(path)
            difficult = sum(item.difficult for item in annotations.annotations)
            found[path.stem] = (len(annotations.images), len(annotations.annotations) - difficult, difficult)
    return found


def test_digits(home: Path, setting: Setting, stage: Stage) -> None:
    setting(**{"download.digits.train": 40, "download.digits.val": 10, "download.digits.size": 128})
    assert succeeds(stage, "download").startswith("download: digits: 52 files")
    assert succeeds(stage, "convert").startswith("convert: digits (coco, 10 classes): train 40 images")
    train = read(home / "data/unified/train.json")
    assert [category.name for category in train.categories] == list("0123456789")
    assert train.images[0].file_name == "images/train/000001.jpg"
    assert all((home / "data/raw/digits" / image.file_name).is_file() for image in train.images)
    before = {path.name: path.read_bytes() for path in (home / "data/unified").iterdir()}
    shutil.rmtree(home / "data")
    succeeds(stage, "download")
    succeeds(stage, "convert")
    assert {path.name: path.read_bytes() for path in (home / "data/unified").iterdir()} == before


def test_empty_custom_folder_says_what_to_put_there(home: Path, setting: Setting, stage: Stage) -> None:
    setting(dataset="custom")
    (home / "data/custom").mkdir(parents=True)
    (home / "data/custom/.gitkeep").touch()
    fails(stage, "download", "data/custom: nothing is in there; put your images", "download.path")
    setting(**{"download.path": "data/elsewhere"})
    fails(stage, "download", "data/elsewhere: no such file or folder")
    assert not (home / "data/raw/custom").exists()


def test_project_folder_is_refused_as_a_data_set(setting: Setting, stage: Stage) -> None:
    setting(**{"dataset": "custom", "download.path": "."})
    fails(stage, "download", "contains this project's data/raw")


@pytest.fixture
def own(tmp_path: Path, voc_xml: Callable[..., Path], picture: Callable[..., Path]) -> Path:
    folder = tmp_path / "own"
    for n in range(8):
        voc_xml(folder / "annotations" / f"{n}.xml", [("cat", 1, 1, 9, 9)])
        picture(folder / "images" / f"{n}.png", seed=n)
    return folder


def test_custom_folder_is_copied_not_linked(home: Path, own: Path, setting: Setting, stage: Stage) -> None:
    setting(**{"dataset": "custom", "download.path": str(own), "convert.split_seed": "auto"})
    succeeds(stage, "download")
    copied = home / "data/raw/custom/images/0.png"
    assert copied.stat().st_ino != (own / "images/0.png").stat().st_ino
    copied.write_bytes(b"changed")
    assert (own / "images/0.png").read_bytes() != b"changed"
    succeeds(stage, "download")  # replaces what is there
    assert copied.read_bytes() == (own / "images/0.png").read_bytes()
    succeeds(stage, "convert")
    assert sum(images for images, _, _ in counts(home).values()) == 8


def test_images_inside_tfrecords_become_files(home: Path, tmp_path: Path, setting: Setting, stage: Stage) -> None:
    own = tmp_path / "own"
    own.mkdir()
    for split in ("train", "val"):
        picture = io.BytesIO()
        Image.new("RGB", (40, 30), "red" if split == "val" else "blue").save(picture, "PNG")
        example = example_pb2.Example()
        feature = example.features.feature
        feature["image/filename"].bytes_list.value.append(b"a.png")
        feature["image/encoded"].bytes_list.value.append(picture.getvalue())
        feature["image/object/class/text"].bytes_list.value.append(b"cat")
        for side, share in (("xmin", 0.25), ("ymin", 0.5), ("xmax", 0.5), ("ymax", 1)):
            feature[f"image/object/bbox/{side}"].float_list.value.append(share)
        (own / f"{split}.tfrecord").write_bytes(framed(example.SerializeToString()))
    setting(**{"dataset": "custom", "download.path": str(own)})
    assert succeeds(stage, "download").startswith("download: custom: 4 files")
    assert succeeds(stage, "convert").startswith("convert: custom (tfrecord, 1 class): train 1 image, 1 object")
    train = read(home / "data/unified/train.json")
    assert [image.file_name for image in train.images] == ["train.tfrecord.images/000001_a.png"]
    assert [item.bbox for item in train.annotations] == [(10, 15, 10, 15)]
    assert sorted(path.name for path in own.iterdir()) == ["train.tfrecord", "val.tfrecord"]


def test_archive_dropped_into_the_custom_folder(home: Path, own: Path, setting: Setting, stage: Stage) -> None:
    setting(dataset="custom")
    (home / "data/custom").mkdir(parents=True)
    shutil.make_archive(str(home / "data/custom/own"), "gztar", own)
    succeeds(stage, "download")
    assert (home / "data/raw/custom/annotations/7.xml").is_file()


def test_a_temporary_workspace_needs_an_absolute_path(home: Path, own: Path, tmp_path: Path, setting: Setting) -> None:
    """DVC would record the clone's folder, which lacks the files that git ignores."""
    setting(**{"dataset": "custom", "download.path": "data/mine"})
    main = tmp_path / "main"
    shutil.copytree(own, main / "data/mine")
    environment = dict(os.environ) | {"DVC_ROOT": str(main), "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-m", "pipeline.stages.download"]
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, check=False, text=True)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.endswith(f"with --queue and --temp it must be absolute; set it to {main / 'data/mine'}")
    setting(**{"dataset": "custom", "download.path": str(main / "data/mine")})
    subprocess.run(command, cwd=home, env=environment, check=True)
    assert (home / "data/raw/custom/images/0.png").is_file()


def test_failed_download_keeps_existing_data(
    home: Path, own: Path, tmp_path: Path, setting: Setting, stage: Stage
) -> None:
    setting(**{"dataset": "custom", "download.path": str(own)})
    succeeds(stage, "download")
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("fine", "x")
        archive.writestr("../evil", "x")
    setting(**{"download.path": str(tmp_path / "bad.zip")})
    (home / "data/raw/.custom.99999.partial").mkdir()  # of a run that was killed
    fails(stage, "download", "bad.zip: ../evil: would land outside the folder")
    assert [path.name for path in (home / "data/raw").iterdir()] == ["custom"]
    assert (home / "data/raw/custom/images/0.png").is_file()


def test_failed_conversion_leaves_nothing_half_written(
    home: Path, own: Path, setting: Setting, stage: Stage, voc_xml: Callable[..., Path]
) -> None:
    setting(**{"dataset": "custom", "download.path": str(own), "convert.split_seed": "auto"})
    voc_xml(own / "annotations" / "3.xml", [("cat", 30, 1, 90, 9)])
    succeeds(stage, "download")
    fails(stage, "convert", "annotations/3.xml: object 1: ", "50 px beyond", "-S convert.issues=repair")
    assert sorted(path.name for path in (home / "data").iterdir()) == ["extend_from", "raw", "start_from"]
    setting(**{"convert.issues": "repair"})
    assert "repaired: 1 out_of_bounds_box (data/unified/report.json)" in succeeds(stage, "convert")


def test_conversion_without_annotations(home: Path, own: Path, setting: Setting, stage: Stage) -> None:
    setting(**{"dataset": "custom", "download.path": str(own / "images")})
    succeeds(stage, "download")
    fails(stage, "convert", "no annotations recognized in 8 images")
    setting(**{"download.format": "coco"})
    fails(stage, "convert", "no COCO instance file found")
    assert not (home / "data/unified").exists()


def test_bccd(home: Path, archive: Callable[[str], Path], setting: Setting, stage: Stage) -> None:
    setting(**{"dataset": "custom", "download.path": str(archive("bccd.zip"))})
    succeeds(stage, "download")
    fails(stage, "convert", "BloodImage_00343.xml: object 4: ", "is at most 1 px wide or high")
    setting(**{"convert.issues": "repair"})
    said = succeeds(stage, "convert")
    assert (
        "; splits not used: trainval; repaired: 2 tiny_box (data/unified/report.json); noted: 1 near_duplicate_leak ("
        in said
    )
    found = report(home)
    assert [(entry["code"], entry["source"].rsplit("/", 1)[1]) for entry in found["entries"]] == [
        ("near_duplicate_leak", "BloodImage_00038.xml"),  # 00037, of val, but for its compression
        ("tiny_box", "BloodImage_00343.xml: object 4"),
        ("tiny_box", "BloodImage_00338.xml: object 13"),
    ]
    assert counts(home) == {"test": (72, 945, 0), "train": (205, 2804, 0), "val": (87, 1137, 0)}
    setting(**{"convert.train": "trainval", "convert.val": "test"})
    succeeds(stage, "convert")
    assert counts(home) == {"train": (292, 3941, 0), "val": (72, 945, 0)}
    classes = [split["classes"] for split in report(home)["splits"].values()]
    assert {name: sum(split[name] for split in classes) for name in classes[0]} == {
        "Platelets": 361,
        "RBC": 4155 - 2,
        "WBC": 372,
    }


def test_raccoon(home: Path, archive: Callable[[str], Path], setting: Setting, stage: Stage) -> None:
    setting(**{"dataset": "custom", "download.path": str(archive("raccoon.zip"))})
    succeeds(stage, "download")
    said = succeeds(stage, "convert")
    assert f"val held out by -S convert.split_seed={report(home)['hold_out']['split_seed']}" in said
    found = counts(home)
    assert found["train"][0] + found["val"][0] == 200
    assert found["train"][1] + found["val"][1] == 217
    assert found["val"][0] == pytest.approx(40, abs=15)


def test_whole_voc2007(home: Path, archive: Callable[[str], Path], setting: Setting, stage: Stage) -> None:
    path = str(archive("voc2007-trainval-400.tar"))
    setting(**{"dataset": "custom", "download.path": path, "convert.image_check": "header"})
    succeeds(stage, "download")
    succeeds(stage, "convert")
    found = counts(home)
    assert (found["train"][0], found["val"][0]) == (2500, 2508)
    assert (sum(found["train"][1:]), sum(found["val"][1:])) == (7843, 7812)
    assert (found["train"][1] + found["val"][1], found["train"][2] + found["val"][2]) == (12601, 3054)
    splits = report(home)["splits"]
    assert sum(split["classes"]["person"] for split in splits.values()) == 4687 + 757
    assert sum(split["classes"]["diningtable"] for split in splits.values()) == 215 + 95
    assert list(splits["train"]["classes"])[:2] == ["aeroplane", "bicycle"]
    assert (len(splits["train"]["classes"]), report(home)["entries"]) == (20, [])


def test_links_out_of_a_custom_folder(home: Path, own: Path, setting: Setting, stage: Stage) -> None:
    (home / "private.txt").write_text("secret")
    (own / "notes.txt").symlink_to(home / "private.txt")
    (own / "again").symlink_to("images")
    setting(**{"dataset": "custom", "download.path": str(own)})
    fails(stage, "download", "notes.txt: is a link to ", "outside of the data set", "-S download.follow_links=true")
    assert not (home / "data/raw/custom").exists()
    setting(**{"download.follow_links": True})
    succeeds(stage, "download")
    copied = home / "data/raw/custom"
    assert (copied / "notes.txt").read_text() == "secret"
    assert [path for path in copied.rglob("*") if path.is_symlink()] == []
    assert (copied / "again/0.png").read_bytes() == (own / "images/0.png").read_bytes()


def test_an_archive_in_the_custom_folder_that_is_a_link(home: Path, own: Path, setting: Setting, stage: Stage) -> None:
    shutil.make_archive(str(home / "own"), "gztar", own)
    (home / "data/custom").mkdir(parents=True)
    (home / "data/custom/own.tar.gz").symlink_to(home / "own.tar.gz")
    setting(dataset="custom")
    fails(stage, "download", "own.tar.gz: is a link to ", "-S download.follow_links=true")
    setting(**{"download.follow_links": True})
    succeeds(stage, "download")
    assert (home / "data/raw/custom/images/0.png").is_file()
