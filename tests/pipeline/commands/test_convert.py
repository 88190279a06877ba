"""`fcos convert`: what it writes, and what it refuses."""

import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from click.testing import CliRunner
from PIL import Image
from pycocotools.coco import COCO

from pipeline.cli import main

Write = Callable[..., Path]


@pytest.fixture
def raw(tmp_path: Path, voc_xml: Write, picture: Write) -> Path:
    """VOC's layout: train, val and trainval, which contains both."""
    folder = tmp_path / "raw"
    voc_xml(folder / "Annotations" / "a.xml", [("dog", 1, 1, 40, 30), ("cat", 5, 6, 10, 12, 1)])
    voc_xml(folder / "Annotations" / "b.xml", [])
    voc_xml(folder / "Annotations" / "c.xml", [("cat", 3.5, 3, 9, 9.25)])
    for seed, stem in enumerate("abc"):
        picture(folder / "JPEGImages" / f"{stem}.png", (40, 30), seed)
    lists = folder / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for name, stems in {"train": "ab", "val": "c", "trainval": "abc"}.items():
        (lists / f"{name}.txt").write_text("\n".join(stems))
    return folder


@pytest.fixture
def coco(tmp_path: Path, picture: Write) -> Path:
    """COCO with what other formats can't hold: ids, a crowd, a mask's area, equal file names, an unused class."""
    folder = tmp_path / "coco"
    for seed, name in enumerate(("one/x.png", "two/x.png", "y.png")):
        picture(folder / name, (40, 30), seed)
    images = [{"id": n, "file_name": f, "width": 40, "height": 30} for n, f in [(7, "one/x.png"), (8, "two/x.png")]]
    annotations = [
        {"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, 10, 10], "area": 55.5, "iscrowd": 0},
        {"id": 2, "image_id": 7, "category_id": 3, "bbox": [4, 2, 30, 20], "area": 600, "iscrowd": 1},
        {"id": 3, "image_id": 8, "category_id": 3, "bbox": [0, 0, 8, 8], "area": 64, "iscrowd": 0, "difficult": 1},
    ]
    categories = [{"id": 3, "name": "no"}, {"id": 5, "name": "<b> & 'c'"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "train2017.json").write_text(json.dumps(content))
    return folder


def convert(*arguments: object) -> tuple[int, str]:
    answer = CliRunner().invoke(main, ["convert", *map(str, arguments)])
    assert answer.exception is None or isinstance(answer.exception, SystemExit), answer.exception
    return answer.exit_code, answer.output


def contents(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_to_coco(raw: Path, tmp_path: Path) -> None:
    code, said = convert(raw, "--to", "coco", "--out", tmp_path / "out")
    assert code == 0
    splits = "train 2 images, 2 objects; trainval 3 images, 3 objects; val 1 image, 1 object"
    assert said == f"{tmp_path / 'out'}: voc → coco: {splits}\n"  # and nothing is lost
    with redirect_stdout(io.StringIO()):
        truth = COCO(tmp_path / "out" / "annotations" / "trainval.json")
    assert [truth.imgs[number]["file_name"] for number in truth.getImgIds()] == ["a.png", "b.png", "c.png"]
    assert [truth.anns[number]["bbox"] for number in truth.getAnnIds()] == [
        [0, 0, 40, 30], [4, 5, 6, 7], [2.5, 2, 6.5, 7.25],
    ]  # fmt: skip
    assert sorted(contents(tmp_path / "out" / "images")) == [
        "train/a.png", "train/b.png", "trainval/a.png", "trainval/b.png", "trainval/c.png", "val/c.png",
    ]  # fmt: skip


def test_to_voc(raw: Path, tmp_path: Path) -> None:
    """The lists, images and coordinates are those of the input."""
    assert convert(raw, "--to", "voc", "--out", tmp_path / "out")[0] == 0
    out = tmp_path / "out"
    assert contents(out / "JPEGImages") == contents(raw / "JPEGImages")
    lists = {path.name: path.read_text().split() for path in (out / "ImageSets/Main").iterdir()}
    assert lists == {"train.txt": ["a", "b"], "val.txt": ["c"], "trainval.txt": ["a", "b", "c"]}
    for stem in "abc":
        found, own = (ElementTree.parse(root / f"Annotations/{stem}.xml") for root in (out, raw))
        assert [float(side.text or "") for side in found.iterfind(".//bndbox/*")] == [
            float(side.text or "") for side in own.iterfind(".//bndbox/*")
        ]
    assert [side.text for side in found.iterfind(".//bndbox/*")] == ["3.5", "3", "9", "9.25"]
    assert [found.findtext(f"size/{side}") for side in ("width", "height", "depth")] == ["40", "30", "3"]
    cat = ElementTree.parse(out / "Annotations/a.xml").findall("object")[1]
    assert [cat.findtext(field) for field in ("name", "pose", "truncated", "difficult")] == [
        "cat",
        "Unspecified",
        "0",
        "1",
    ]


def test_to_yolo(coco: Path, tmp_path: Path) -> None:
    code, said = convert(coco, "--to", "yolo", "--out", tmp_path / "out")
    assert code == 0
    assert said.splitlines()[2] == (
        "not preserved: 2 category ids; 2 image ids; 1 mask area; 1 crowd, left out; 1 difficult flag; 2 image names"
    )
    out = tmp_path / "out"
    assert sorted(contents(out)) == [
        "data.yaml",
        "images/train2017/one_x.png", "images/train2017/two_x.png",
        "labels/train2017/one_x.txt", "labels/train2017/two_x.txt",
    ]  # fmt: skip
    assert (out / "labels/train2017/one_x.txt").read_text() == "0 0.15 0.23333333333333334 0.25 0.3333333333333333\n"
    assert yaml.safe_load((out / "data.yaml").read_text()) == {
        "train": "images/train2017", "nc": 2, "names": {0: "no", 1: "<b> & 'c'"},
    }  # fmt: skip


def test_what_voc_loses(coco: Path, tmp_path: Path) -> None:
    code, said = convert(coco, "--to", "voc", "--out", tmp_path / "out")
    assert code == 0
    assert said.splitlines()[2] == (
        "not preserved: 1 class without objects; 2 category ids; 2 image ids; 1 mask area; "
        "1 crowd, now difficult; 2 image names"
    )


@pytest.mark.parametrize(
    ("to", "lost"), [("yolo", "2 category ids; 1 crowd, left out"), ("voc", "1 crowd, now difficult")]
)
def test_a_region_to_ignore_is_lost_once(tmp_path: Path, picture: Write, to: str, lost: str) -> None:
    """KITTI's DontCare is a crowd of each class, here of two."""
    picture(tmp_path / "kitti/training/image_2/000001.png", (200, 100))
    objects = {"Car": "10 10 60 50", "Cyclist": "70 10 90 60", "DontCare": "100 20 150 40"}
    lines = [f"{name} -1 -1 -10 {box} -1 -1 -1 -1000 -1000 -1000 -10\n" for name, box in objects.items()]
    (tmp_path / "kitti/training/label_2").mkdir()
    (tmp_path / "kitti/training/label_2/000001.txt").write_text("".join(lines))
    code, said = convert(tmp_path / "kitti", "--to", to, "--out", tmp_path / "out")
    assert (code, said.splitlines()[1]) == (0, f"not preserved: {lost}")


@pytest.mark.parametrize("to", ["coco", "voc", "yolo"])
def test_same_input_same_bytes(raw: Path, tmp_path: Path, to: str) -> None:
    """From a folder or an archive, at any path; no other files are left behind."""
    copied = shutil.copytree(raw, tmp_path / "elsewhere" / "raw", copy_function=shutil.copyfile)
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", raw)
    (tmp_path / "three").mkdir()  # an empty folder is as good as none
    for source, out in ((raw, "one"), (copied, "two"), (Path(archive), "three")):
        assert convert(source, "--to", to, "--out", tmp_path / out)[0] == 0
    assert contents(tmp_path / "one") == contents(tmp_path / "two") == contents(tmp_path / "three")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "one", "packed.zip", "raw", "three", "two"]


def test_folder_with_only_an_archive_stands_for_it(raw: Path, tmp_path: Path) -> None:
    shutil.make_archive(str(tmp_path / "drop/packed"), "zip", raw)
    for source in (raw, tmp_path / "drop"):
        assert convert(source, "--to", "coco", "--out", tmp_path / f"{source.name}-out")[0] == 0
    assert contents(tmp_path / "raw-out") == contents(tmp_path / "drop-out")


def test_links_and_no_images(raw: Path, tmp_path: Path) -> None:
    assert convert(raw, "--to", "voc", "--out", tmp_path / "linked", "--images", "link")[0] == 0
    assert (tmp_path / "linked/JPEGImages/a.png").samefile(raw / "JPEGImages/a.png")
    assert convert(raw, "--to", "yolo", "--out", tmp_path / "none", "--images", "none")[0] == 0
    assert not contents(tmp_path / "none" / "images")
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", raw)
    assert convert(archive, "--to", "coco", "--out", tmp_path / "unpacked", "--images", "link")[0] == 0
    assert (tmp_path / "unpacked/images/val/c.png").read_bytes() == (raw / "JPEGImages/c.png").read_bytes()


def test_unused_files_are_reported(raw: Path, tmp_path: Path, voc_xml: Write, picture: Write) -> None:
    picture(raw / "JPEGImages/stray.png")
    voc_xml(raw / "Annotations/c.xml", [("cat", 0.5, 3, 9, 9)])  # half a pixel beyond the edge
    code, said = convert(raw, "--to", "coco", "--out", tmp_path / "out")
    assert code == 0
    assert said.splitlines()[1:] == ["2 boxes up to 1 px outside their image, clipped; 1 image file not used"]


def test_issues_stop_the_export_unless_repaired(raw: Path, tmp_path: Path) -> None:
    """The message is that of the stage. Its advice works as printed, and --repair is short for one of its options."""
    path = raw / "Annotations" / "a.xml"
    path.write_text(path.read_text().replace("<xmax>40<", "<xmax>1<"))
    code, said = convert(raw, "--to", "yolo", "--out", tmp_path / "out")
    assert code == 1
    assert said.startswith(
        "fcos: Annotations/a.xml: object 1: box [x 0, y 0, width 1, height 30] is at most 1 px wide or"
    )
    assert said.endswith(
        "correct the data, or run with -S convert.checks.tiny_box=skip (dropped), or for all checks "
        "-S convert.issues=repair\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]  # nothing half written
    options = (["--repair"], ["-S", "convert.checks.tiny_box=skip"], ["-S", "convert.issues=repair"])
    for number, option in enumerate(options):
        code, said = convert(raw, "--to", "yolo", "--out", tmp_path / f"out{number}", *option)
        assert (code, said.splitlines()[1]) == (0, "repaired: 1 tiny_box")  # though trainval has it too
    assert contents(tmp_path / "out0") == contents(tmp_path / "out1") == contents(tmp_path / "out2")


def test_classes_are_merged_and_renamed(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, said = convert(raw, "--to", "coco", "--out", out, "-S", "convert.classes={pet: [cat, dog]}")
    assert code == 0
    assert "trainval 3 images, 3 objects" in said
    train = json.loads((out / "annotations/train.json").read_text())
    assert [category["name"] for category in train["categories"]] == ["pet"]
    code, said = convert(raw, "--to", "coco", "--out", tmp_path / "dogs", "-S", "convert.classes={hund: [dog]}")
    assert code == 1
    assert (
        "class 'cat' is not in convert.classes (hund); correct the data, or run with -S convert.checks.unknown" in said
    )
    options = ("-S", "convert.classes={hund: [dog]}", "-S", "convert.checks.unknown_class=skip")
    assert convert(raw, "--to", "coco", "--out", tmp_path / "dogs", *options)[0] == 0
    assert len(json.loads((tmp_path / "dogs/annotations/trainval.json").read_text())["annotations"]) == 1


def test_splits_are_not_chosen(raw: Path, tmp_path: Path) -> None:
    code, said = convert(raw, "--to", "coco", "--out", tmp_path / "out", "-S", "convert.train=trainval")
    assert (code, said) == (
        1, "fcos: -S convert.train: fcos convert keeps the data set's own splits; leave it out\n"
    )  # fmt: skip


def test_refusals(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("precious")
    (tmp_path / "notes.txt").write_text("no archive")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as archive:
        archive.writestr("readme.txt", "nothing")
    for source, to, out, line in (
        (raw, "voc", "taken", f"{tmp_path / 'taken'}: already exists"),
        (raw, "voc", "notes.txt", f"{tmp_path / 'notes.txt'}: already exists"),
        (raw, "voc", "raw/out", f"{raw / 'out'}: is inside the data set"),
        (raw, "voc", "notes.txt/out", f"{tmp_path / 'notes.txt/out'}: can't be written: File exists"),
        (raw, "labelme", "out", "--to: format 'labelme' can't be written; choose one of coco, voc, yolo"),
        (tmp_path / "nowhere", "voc", "out", f"{tmp_path / 'nowhere'}: no such file or folder"),
        (tmp_path / "notes.txt", "voc", "out", f"{tmp_path / 'notes.txt'}: neither a folder nor an archive"),
        (tmp_path / "empty.zip", "voc", "out", f"{tmp_path / 'empty.zip'}: no annotations recognized"),
    ):
        code, said = convert(source, "--to", to, "--out", tmp_path / out)
        assert (code, said.count("\n")) == (1, 1)
        assert said.startswith(f"fcos: {line}")
    assert (tmp_path / "taken" / "mine.txt").read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.zip", "notes.txt", "raw", "taken"]


def test_class_that_xml_cannot_hold(coco: Path, tmp_path: Path) -> None:
    file = coco / "train2017.json"
    file.write_text(file.read_text().replace('"no"', '"a\\u0001"'))
    code, said = convert(coco, "--to", "voc", "--out", tmp_path / "out")
    assert (code, said) == (1, "fcos: class name 'a\\x01': a character can't be represented in XML; rename the class\n")
    assert convert(coco, "--to", "yolo", "--out", tmp_path / "out")[0] == 0
    assert yaml.safe_load((tmp_path / "out" / "data.yaml").read_text())["names"][0] == "a\x01"


@pytest.mark.parametrize("to", ["voc", "yolo"])
def test_white_space_around_a_class(coco: Path, tmp_path: Path, to: str) -> None:
    """Readers strip it, so it is reported, and refused if two classes would become one."""
    file = coco / "train2017.json"
    text = file.read_text()
    file.write_text(text.replace('"no"', '"no "'))
    code, said = convert(coco, "--to", to, "--out", tmp_path / "out")
    assert code == 0
    assert "1 class name with surrounding spaces" in said
    file.write_text(text.replace('"no"', '"no "').replace("<b> & 'c'", "no"))
    code, said = convert(coco, "--to", to, "--out", tmp_path / "other")
    assert (code, said) == (
        1,
        "fcos: class name 'no ': empty or used twice without the surrounding white space; rename it\n",
    )


def test_class_name_that_is_not_utf8(coco: Path, tmp_path: Path) -> None:
    """An unpaired surrogate, which JSON can represent and UTF-8 can't."""
    file = coco / "train2017.json"
    file.write_text(file.read_text().replace('"no"', '"a\\ud800"'))
    code, said = convert(coco, "--to", "coco", "--out", tmp_path / "out")
    assert code == 1
    assert "train2017.json: category 1 needs an id and a name, has id 3, name a\\ud800" in said


def test_depth_is_that_of_the_image(raw: Path, tmp_path: Path) -> None:
    Image.new("L", (40, 30)).save(raw / "JPEGImages" / "b.png")
    assert convert(raw, "--to", "voc", "--out", tmp_path / "out")[0] == 0
    assert ElementTree.parse(tmp_path / "out/Annotations/b.xml").findtext("size/depth") == "1"


def test_corrections_are_applied(raw: Path, tmp_path: Path) -> None:
    file = tmp_path / "fixed.json"
    records = [
        {"file_name": "JPEGImages/a.png", "action": "remove", "category": "dog", "bbox": [0, 0, 40, 30]},
        {"file_name": "JPEGImages/c.png", "action": "exclude"},
    ]
    file.write_text(json.dumps(records))
    status, output = convert(raw, "--to", "coco", "--out", tmp_path / "out", "--corrections", file)
    assert (status, output.splitlines()[1]) == (0, "2 corrections applied")
    assert "train 2 images, 1 object; trainval 2 images, 1 object; val 0 images, 0 objects" in output
    written = json.loads((tmp_path / "out/annotations/trainval.json").read_text())
    assert [image["file_name"] for image in written["images"]] == ["a.png", "b.png"]
    assert [(item["bbox"], item["difficult"]) for item in written["annotations"]] == [([4.0, 5.0, 6.0, 7.0], 1)]
    records[0]["category"] = "cow"
    file.write_text(json.dumps(records))
    status, output = convert(raw, "--to", "coco", "--out", tmp_path / "other", "--corrections", file)
    assert status == 1
    assert f"{file}: JPEGImages/a.png: remove cow [0.0, 0.0, 40.0, 30.0]: the image has no such box" in output
