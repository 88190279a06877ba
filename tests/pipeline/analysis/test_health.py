"""Output and exit status of `fcos validate` on small data sets, each with one problem."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from pipeline.cli import main
from pipeline.conversion.checks import CHECKS
from tests.support.large_images import enlarge_png

Write = Callable[..., Path]
Change = Callable[[Path], object]
XML = "Annotations/a.xml"
BOX = "<bndbox><xmin>5</xmin><ymin>6</ymin><xmax>10</xmax><ymax>12</ymax></bndbox></object>"
WHOLE = "3 images, 3 objects"  # of train
READY = "ready for training: nothing would stop the conversion"


def validate(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["validate", *map(str, arguments)])


def swap(raw: Path, old: str, new: str) -> None:
    path = raw / XML
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))


def cut(raw: Path) -> None:
    path = raw / "JPEGImages/a.png"
    path.write_bytes(path.read_bytes()[:-900])


def turn(raw: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    with Image.open(raw / "JPEGImages/a.png") as image:
        image.save(raw / "JPEGImages/a.png", exif=exif)


def annotate_turned(raw: Path) -> None:
    turn(raw)
    for side, stored, turned in (("width", 40, 30), ("height", 30, 40), ("xmax", 40, 30), ("ymax", 30, 40)):
        swap(raw, f"<{side}>{stored}<", f"<{side}>{turned}<")


def list_twice(raw: Path) -> None:
    path = raw / "ImageSets/Main/train.txt"
    path.write_text(path.read_text() + "a\n")


def recode(raw: Path) -> None:
    with Image.open(raw / "JPEGImages/d.png") as image:
        image.save(raw / "JPEGImages/a.png", compress_level=0)


# By check: the change to the data set; the usable part of train; the expected lines.
VOC: dict[str, tuple[Change, str, str]] = {
    "missing_image": (
        lambda raw: (raw / "JPEGImages/a.png").unlink(),
        "2 images, 1 object",
        """missing_image  1  stops the conversion: the annotated image file does not exist
    Annotations/a.xml: image 'a.png' not found
    to change: -S convert.checks.missing_image=skip (skipped)

2 objects of skipped images""",
    ),
    "ambiguous_image": (
        lambda raw: shutil.copytree(raw / "JPEGImages", raw / "images", ignore=shutil.ignore_patterns("[bcd].png")),
        "2 images, 1 object",
        """ambiguous_image  1  stops the conversion: several files match the annotated image
    Annotations/a.xml: image 'a.png' matches both JPEGImages/a.png and images/a.png
    to change: -S convert.checks.ambiguous_image=skip (skipped)

2 objects of skipped images
2 image files not used""",
    ),
    "undecodable_image": (
        lambda raw: (raw / "JPEGImages/a.png").write_text("GIF?"),
        "2 images, 1 object",
        """undecodable_image  1  stops the conversion: the image file can't be read or decoded
    Annotations/a.xml: image a.png can't be decoded: unknown image format
    to change: -S convert.checks.undecodable_image=skip (skipped)

2 objects of skipped images
1 image file not used""",
    ),
    "truncated_image": (
        cut,
        "2 images, 1 object",
        """truncated_image  1  stops the conversion: the image file is truncated
    Annotations/a.xml: image a.png is truncated: image file is truncated
    to change: -S convert.checks.truncated_image=skip (skipped)

2 objects of skipped images
1 image file not used""",
    ),
    "oversized_image": (
        lambda raw: enlarge_png(raw / "JPEGImages/a.png", 20_000, 10_000),
        "2 images, 1 object",
        """oversized_image  1  stops the conversion: the image has more megapixels than convert.max_megapixels
    Annotations/a.xml: image a.png: 20,000×10,000 is 200.0 megapixels, more than the limit of 150: cut the image into \
tiles, or raise the limit: -S convert.max_megapixels=200
    to change: -S convert.checks.oversized_image=skip (skipped)

2 objects of skipped images
1 image file not used""",
    ),
    "size_mismatch": (
        lambda raw: swap(raw, "<width>40<", "<width>80<"),
        WHOLE,
        """size_mismatch  1  stops the conversion: the annotated size differs from the image's size
    Annotations/a.xml: annotated size 80×30, but the image is 40×30
    to change: -S convert.checks.size_mismatch=repair (converted with the image's size) | skip (skipped)""",
    ),
    "exif_rotated": (
        annotate_turned,
        WHOLE,
        """exif_rotated  1  stops the conversion: \
the annotated size and boxes refer to the image after EXIF rotation
    Annotations/a.xml: size and boxes refer to JPEGImages/a.png after EXIF rotation
    to change: -S convert.checks.exif_rotated=repair (rotated back to the stored pixels) | skip (skipped)""",
    ),
    "exif_orientation": (
        turn,
        WHOLE,
        """exif_orientation  1  used as stored: \
the image has an EXIF rotation; its boxes are assumed to refer to the stored pixels
    Annotations/a.xml: image JPEGImages/a.png has an EXIF rotation
    to change: -S convert.checks.exif_orientation=skip (skipped) | error (stops the conversion)""",
    ),
    "duplicate_record": (
        list_twice,
        WHOLE,
        """duplicate_record  1  stops the conversion: an image has two records in one split
    Annotations/a.xml: JPEGImages/a.png is already in this split: Annotations/a.xml
    to change: -S convert.checks.duplicate_record=skip (second record skipped)""",
    ),
    "missing_annotation": (
        lambda raw: (raw / XML).unlink(),
        "2 images, 1 object",
        """missing_annotation  1  stops the conversion: a split lists an image that has no annotation
    …/train.txt: a: annotation not found
    to change: -S convert.checks.missing_annotation=skip (skipped)

1 image file not used""",
    ),
    "invalid_record": (
        lambda raw: swap(raw, "<ymax>12<", "<ymax>?<"),
        "3 images, 2 objects",
        """invalid_record  1  stops the conversion: a record is incomplete or does not follow its format
    Annotations/a.xml: object 2: <bndbox> has xmin, ymin, xmax, ymax ['5', '6', '10', '?'], not four numbers
    to change: -S convert.checks.invalid_record=skip (skipped)""",
    ),
    "invalid_xml": (
        lambda raw: swap(raw, "</bndbox>", "</box>"),
        "2 images, 1 object",
        """invalid_xml  1  stops the conversion: an annotation file is not XML, or contains unsafe declarations
    Annotations/a.xml: not XML: mismatched tag at line 3 column 93
    to change: -S convert.checks.invalid_xml=skip (skipped)

1 image file not used""",
    ),
    "non_finite_box": (
        lambda raw: swap(raw, "<ymax>12<", "<ymax>inf<"),
        "3 images, 2 objects",
        """non_finite_box  1  stops the conversion: a box has NaN or infinite values
    Annotations/a.xml: object 2: box [x 4, y 5, width 6, height inf] has NaN or infinite values
    to change: -S convert.checks.non_finite_box=skip (dropped)""",
    ),
    "degenerate_box": (
        lambda raw: swap(raw, "<xmin>5<", "<xmin>11<"),
        "3 images, 2 objects",
        """degenerate_box  1  stops the conversion: a box has zero width or height
    Annotations/a.xml: object 2: box [x 10, y 5, width 0, height 7] has zero width or height
    to change: -S convert.checks.degenerate_box=skip (dropped)""",
    ),
    "swapped_corners": (
        lambda raw: swap(raw, "<xmin>5<", "<xmin>20<"),
        WHOLE,
        """swapped_corners  1  stops the conversion: a box has swapped corners
    Annotations/a.xml: object 2: box [x 19, y 5, width -9, height 7] has swapped corners
    to change: -S convert.checks.swapped_corners=repair (corners swapped back) | skip (dropped)""",
    ),
    "tiny_box": (
        lambda raw: swap(raw, "<xmin>5<", "<xmin>10<"),
        "3 images, 2 objects",
        """tiny_box  1  stops the conversion: a box is at most 1 px wide or high
    Annotations/a.xml: object 2: box [x 9, y 5, width 1, height 7] is at most 1 px wide or high
    to change: -S convert.checks.tiny_box=skip (dropped)""",
    ),
    "out_of_bounds_box": (
        lambda raw: swap(raw, "<xmax>40<", "<xmax>45<"),
        WHOLE,
        """out_of_bounds_box  1  stops the conversion: a box extends more than 1 px beyond its image
    Annotations/a.xml: object 1: box [x 0, y 0, width 45, height 30] extends 5 px beyond the 40×30 image
    to change: -S convert.checks.out_of_bounds_box=repair (clipped) | skip (dropped)""",
    ),
    "duplicate_box": (
        lambda raw: swap(raw, BOX, f"{BOX}<object><name>cat</name>{BOX}"),
        "3 images, 4 objects",
        """duplicate_box  1  kept: two boxes of one class in an image are identical
    Annotations/a.xml: object 3: box and class 'cat' are identical to Annotations/a.xml: object 2
    to change: -S convert.checks.duplicate_box=skip (second box dropped) | error (stops the conversion)""",
    ),
    "duplicate_image": (
        lambda raw: shutil.copyfile(raw / "JPEGImages/b.png", raw / "JPEGImages/a.png"),
        WHOLE,
        """duplicate_image  1  kept: two images of one split are byte-for-byte identical
    Annotations/b.xml: image JPEGImages/b.png is identical to JPEGImages/a.png
    to change: -S convert.checks.duplicate_image=skip (second image skipped) | error (stops the conversion)""",
    ),
    "leak": (
        lambda raw: shutil.copyfile(raw / "JPEGImages/d.png", raw / "JPEGImages/a.png"),
        "2 images, 1 object",
        """leak  1  stops the conversion: a train or val image is byte-for-byte identical to an image of a later split
    Annotations/a.xml: image JPEGImages/a.png is identical to JPEGImages/d.png of val
    to change: -S convert.checks.leak=repair (kept in the later split only) | note (kept in both splits)""",
    ),
    "near_duplicate_leak": (
        recode,
        WHOLE,
        """near_duplicate_leak  1  kept in both splits: \
a train or val image looks like an image of a later split (perceptual hash)
    Annotations/a.xml: image JPEGImages/a.png looks like JPEGImages/d.png of val (0 of 64 bits differ)
    to change: -S convert.checks.near_duplicate_leak=repair (kept in the later split only) \
| error (stops the conversion)""",
    ),
}


@pytest.mark.parametrize("code", VOC)
def test_one_problem_in_voc(raw: Path, code: str) -> None:
    change, usable, lines = VOC[code]
    change(raw)
    warning = CHECKS[code].severity == "warning"
    answer = validate("mine")
    verdict = READY if warning else f"not ready for training: 1 problem would stop the conversion ({code})"
    first = f"format voc, 2 classes; usable: train {usable}; val 1 image, 2 objects"
    assert answer.stdout == f"{first}\n\n{lines}\n\n{verdict}\n"
    assert answer.exit_code == (0 if warning else 1)


ONE = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 9, 9]}
# By check: the changed keys of train.json; the usable part of train; the expected lines.
COCO: dict[str, tuple[dict[str, Any], str, str]] = {
    "missing_image_id": (
        {"annotations": [ONE, ONE | {"id": 2, "image_id": 9}]},
        "1 image, 1 object",
        """missing_image_id  1  stops the conversion: an annotation refers to an image that does not exist
    train.json: annotation 2: image 9 does not exist
    to change: -S convert.checks.missing_image_id=skip (dropped)""",
    ),
    "duplicate_id": (
        {"annotations": [ONE, ONE | {"id": 0, "bbox": [3, 3, 9, 9]}]},
        "1 image, 2 objects",
        """duplicate_id  1  all ids of the split renumbered: ids are missing, used twice or out of range
    train.json: annotation 0: id 0 is below 1
    to change: -S convert.checks.duplicate_id=error (stops the conversion)""",
    ),
    "unknown_class": (
        {"annotations": [ONE, ONE | {"id": 2, "category_id": 9}]},
        "1 image, 1 object",
        """unknown_class  1  stops the conversion: an object's class is not in the class list
    train.json: annotation 2: category 9 is not in the file's list of categories
    to change: -S convert.checks.unknown_class=skip (dropped)""",
    ),
    "unused_class": (
        {"categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]},
        "1 image, 1 object",
        """unused_class  1  kept: a class has no objects
    classes: 'dog' has no objects
    to change: -S convert.checks.unused_class=error (stops the conversion)""",
    ),
    "similar_class_names": (
        {
            "categories": [{"id": 1, "name": "traffic light"}, {"id": 2, "name": "Traffic_Light"}],
            "annotations": [ONE, ONE | {"id": 2, "category_id": 2}],
        },
        "1 image, 2 objects",
        """similar_class_names  1  kept: class names differ only in case, accents, spaces or one letter
    classes: 'traffic light' and 'Traffic_Light' have similar names; are they the same class?
    to change: -S convert.checks.similar_class_names=error (stops the conversion)""",
    ),
}


@pytest.fixture
def coco(home: Path, picture: Write) -> Callable[..., Path]:
    """Writes a data set with one image in train and one in val; `coco(categories=[…])` changes train.json."""

    def write(**change: Any) -> Path:
        content: dict[str, Any] = {
            "images": [{"id": 1, "file_name": "x.png", "width": 40, "height": 30}],
            "annotations": [ONE],
            "categories": change.get("categories", [{"id": 1, "name": "cat"}]),
        }
        for seed, split in enumerate(("train", "val")):
            picture(home / "theirs" / split / "x.png", seed=seed)
            text = json.dumps(content | change if split == "train" else content)
            (home / "theirs" / f"{split}.json").write_text(text)
        return home / "theirs"

    return write


@pytest.mark.parametrize("code", COCO)
def test_one_problem_in_coco(coco: Callable[..., Path], code: str) -> None:
    change, usable, lines = COCO[code]
    warning = CHECKS[code].severity == "warning"
    answer = validate(coco(**change))
    verdict = READY if warning else f"not ready for training: 1 problem would stop the conversion ({code})"
    count = "1 class" if len(change.get("categories", [ONE])) == 1 else "2 classes"
    first = f"format coco, {count}; usable: train {usable}; val 1 image, 1 object"
    assert answer.stdout == f"{first}\n\n{lines}\n\n{verdict}\n"
    assert answer.exit_code == (0 if warning else 1)


def test_a_better_seed_is_named_for_a_split_without_images(home: Path, picture: Write) -> None:
    """With this seed, none of the three images goes to val."""
    for number in range(3):
        picture(home / f"theirs/{number}.png", seed=number)
    (home / "theirs/all.csv").write_text("".join(f"{number}.png,1,2,9,9,cat\n" for number in range(3)))
    params = (home / "params.yaml").read_text()
    (home / "params.yaml").write_text(params.replace("val_fraction: 0.2", "val_fraction: 0.05"))
    answer = validate("theirs")
    found = re.search(
        r"unbalanced_split  1  kept: the held-out images lack a class, or have far too much or little of it\n"
        r"    convert.split_seed=0: val has 0 of 3 images, expected 0.2; "
        r"-S convert.split_seed=(\d+) is more balanced",
        answer.stdout,
    )
    assert found, answer.output
    assert f"val has no images; -S convert.split_seed={found[1]} is more balanced" in answer.output


def test_every_check_has_a_test() -> None:
    assert {*VOC, *COCO, "unbalanced_split", "different_class_lists", "stale_correction"} == set(CHECKS)


def test_tiles_are_proposed_for_small_objects_in_large_images(
    coco: Callable[..., Path], setting: Callable[..., None]
) -> None:
    """An object of 12 pixels in 2,400, at an input of 256: 1.3 pixels, and 24 in a tile of 128."""
    setting(**{"train.size": [256, 256]})
    folder = coco(
        images=[{"id": 1, "file_name": "x.png", "width": 2400, "height": 2400}],
        annotations=[ONE | {"bbox": [5, 5, 12, 12], "area": 144}],
    )
    Image.new("RGB", (2400, 2400)).save(folder / "train/x.png")
    answer = validate(folder)
    option = "[128, 0.1]"
    assert answer.stdout.split("\n\n")[1] == (
        "100% of the boxes are under 12 px at the input size: tiles of 128 px would show their median at 24 px "
        f"instead of 1: -S 'train.tiles={option}' -S 'evaluate.tiles={option}'"
    )
    again = validate(folder, "-S", f"train.tiles={option}", "-S", f"evaluate.tiles={option}")
    assert (again.exit_code, "tiles" in again.stdout) == (0, False)


def test_files_with_different_classes(coco: Callable[..., Path]) -> None:
    """The advice works as printed, and a person who lists the classes has decided."""
    folder = coco()
    val = json.loads((folder / "val.json").read_text()) | {"categories": [{"id": 1, "name": "dog"}]}
    (folder / "val.json").write_text(json.dumps(val))
    answer = validate(folder)
    assert answer.stdout.splitlines()[2:] == [
        "different_class_lists  1  stops the conversion: files of the data set list different classes",
        "    val.json: its class 'dog' is not in train.json; objects of it in the images there would be background",
        "    to change: -S convert.checks.different_class_lists=note (joined by name)",
        "",
        "not ready for training: 1 problem would stop the conversion (different_class_lists)",
    ]
    assert answer.exit_code == 1
    noted = validate(folder, "-S", "convert.checks.different_class_lists=note")
    assert (noted.exit_code, noted.stdout.splitlines()[0].split(";")[0]) == (0, "format coco, 2 classes")
    assert validate(folder, "-S", "convert.classes=[dog, cat]").exit_code == 0


def test_a_data_set_without_problems(raw: Path) -> None:
    answer = validate(raw)
    first = "format voc, 2 classes; usable: train 3 images, 3 objects; val 1 image, 2 objects"
    assert (answer.stdout, answer.stderr, answer.exit_code) == (f"{first}\n\n{READY}\n", "", 0)


def test_a_split_without_objects(coco: Callable[..., Path]) -> None:
    """No check fails, but there are no objects to train on."""
    answer = validate(coco(annotations=[]), "--html", "page.html")
    assert answer.exit_code == 1
    assert answer.stdout.endswith("\nnot ready for training: train has 1 image and no objects\n")
    assert "train has 1 image and no objects" in Path("page.html").read_text()


def test_three_examples_are_listed_and_stopping_problems_come_first(raw: Path) -> None:
    for stem in "efgh":
        (raw / f"Annotations/{stem}.xml").write_text((raw / XML).read_text().replace("a.png", f"{stem}.png"))
    (raw / "ImageSets/Main/train.txt").write_text("\n".join("abcefgh"))
    swap(raw, BOX, f"{BOX}<object><name>cat</name>{BOX}")
    lines = validate("mine").stdout.splitlines()
    assert lines[2] == "missing_image  4  stops the conversion: the annotated image file does not exist"
    assert lines[6] == "    and 1 more"
    assert lines[9] == "duplicate_box  1  kept: two boxes of one class in an image are identical"


def test_parameters_decide_what_stops(raw: Path, setting: Callable[..., None]) -> None:
    swap(raw, "<xmin>5<", "<xmin>10<")
    swap(raw, "<xmax>40<", "<xmax>45<")
    setting(**{"convert.issues": "repair", "convert.checks.tiny_box": "error"})
    answer = validate("mine")
    assert answer.exit_code == 1
    assert "\ntiny_box           1  stops the conversion: " in answer.stdout
    assert "\nout_of_bounds_box  1  clipped: " in answer.stdout
    assert (
        "    to change: -S convert.checks.out_of_bounds_box=skip (dropped) | error (stops the conversion)\n"
        in answer.stdout
    )
    setting(**{"convert.checks.tiny_box": "skip"})
    answer = validate("mine")
    assert (answer.exit_code, answer.stdout.splitlines()[-1]) == (0, f"{READY}; 2 problems would be fixed")


def test_a_downloaded_data_set_uses_the_splits_of_its_entry(raw: Path, home: Path) -> None:
    """As in the conversion. The entry swaps train and val."""
    downloaded = home / "data/raw/custom"
    shutil.copytree(raw, downloaded)
    entry = "files: [{urls: [http://a/b.zip]}]\nsplits: {train: val, val: train}\n"
    (downloaded / ".dataset.yaml").write_text(entry)
    (raw / ".dataset.yaml").write_text(entry)  # ignored outside data/raw
    assert "usable: train 1 image, 2 objects; val 3 images, 3 objects" in validate(downloaded).output
    assert "usable: train 3 images, 3 objects; val 1 image, 2 objects" in validate(raw).output


def test_json(raw: Path) -> None:
    swap(raw, "<xmin>5<", "<xmin>10<")
    answer = validate("mine", "--json")
    record = json.loads(answer.stdout)
    assert answer.exit_code == 1
    assert (record["usable"], record["format"], record["counts"]) == (False, "voc", {"tiny_box": 1})
    assert record["problems"] == [
        {
            "code": "tiny_box",
            "description": "a box is at most 1 px wide or high",
            "count": 1,
            "stops": True,
            "outcome": "stops the conversion",
            "choices": {"skip": "dropped"},
        }
    ]
    assert record["splits"]["train"]["images"] == 3
    assert record["entries"][0]["source"] == "Annotations/a.xml: object 2"


def test_an_archive_and_a_folder_with_an_archive(raw: Path, home: Path) -> None:
    expected = validate("mine").stdout
    archive = shutil.make_archive(str(home / "drop/mine"), "zip", raw)
    shutil.rmtree(raw)
    for path in (archive, "drop"):
        answer = validate(path)
        assert (answer.stdout, answer.exit_code) == (expected, 0)


def test_outside_a_project(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    swap(raw, "<xmin>5<", "<xmin>10<")
    answer = validate(raw, "--html", "page.html")
    assert answer.stdout.splitlines()[-1] == "not ready for training: 1 problem would stop the conversion (tiny_box)"
    assert "Training at an input size of 800×1333 px" in (tmp_path / "page.html").read_text()


def test_errors_are_one_line(raw: Path, home: Path) -> None:
    (home / "notes.txt").write_text("hello")
    (home / "empty").mkdir()
    (home / "bare").mkdir()
    (home / "bare/notes.md").write_text("hello")
    archive = shutil.make_archive("bare", "zip", home / "bare")
    assert raw.name == "mine"
    looked_for = "no annotations recognized in"
    for arguments, line in {
        ("nosuch",): "nosuch: no such file or folder; give the folder or the archive of a data set",
        ("notes.txt",): "notes.txt: not a complete .zip, .tar or .tar.gz archive; fetch it again or pack it again",
        ("empty",): f"empty: {looked_for} no files; known formats: ",
        (archive,): f"{archive}: {looked_for} 1 ",
        ("mine", "--format", "nosuch"): "unknown format 'nosuch'; choose one of ",
        ("mine", "--format", "coco"): "mine: ",
        ("mine", "--html", "mine/JPEGImages/a.png"): "mine/JPEGImages/a.png: the name of the page must end in .html",
        ("mine", "--html", "notes.txt/page.html"): "notes.txt/page.html: not written: ",
        ("mine", "--size", "640", "320"): "--size: the shorter side comes first",
    }.items():
        answer = validate(*arguments)
        assert answer.exit_code == 1, arguments
        assert answer.stderr.startswith(f"fcos: {line}"), answer.output
        assert answer.stderr.count("\n") == 1
        assert answer.stdout == ""
