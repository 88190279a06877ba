from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.formats import voc
from pipeline.formats.records import Issue, RawDataset

Write = Callable[..., Path]


def files(dataset: RawDataset) -> dict[str, list[str]]:
    return {name: [image.file for image in split.images] for name, split in dataset.splits.items()}


def names(dataset: RawDataset) -> list[str]:
    return [category.name for category in dataset.categories]


def devkit(root: Path, voc_xml: Write, picture: Write) -> None:
    for stem in ("000001", "000002", "000003"):
        voc_xml(root / "Annotations" / f"{stem}.xml", [("person", 1, 1, 40, 30)])
        picture(root / "JPEGImages" / f"{stem}.png")
        picture(root / "SegmentationClass" / f"{stem}.png")
    main = root / "ImageSets" / "Main"
    main.mkdir(parents=True)
    (main / "train.txt").write_text("000002\n000001\n\n")
    (main / "val.txt").write_text("000003\n")
    (main / "trainval.txt").write_text("000001\n000002\n000003")
    (main / "person_train.txt").write_text("000001  1\n000002 -1\n")
    (main / "my_test.txt").write_text("000003\n")
    (root / "ImageSets" / "Layout").mkdir()
    (root / "ImageSets" / "Layout" / "layout.txt").write_text("000001\n")


def test_devkit(tmp_path: Path, voc_xml: Write, picture: Write) -> None:
    devkit(tmp_path / "VOCdevkit" / "VOC2007", voc_xml, picture)
    dataset = voc.read(tmp_path)
    images = [f"VOCdevkit/VOC2007/JPEGImages/00000{n}.png" for n in (1, 2, 3)]
    assert files(dataset) == {
        "my_test": [images[2]],
        "train": [images[1], images[0]],
        "trainval": images,
        "val": [images[2]],
    }
    assert names(dataset) == list(voc.CLASS_NAMES)  # the devkit's classes are twenty, whatever a part of it shows
    assert [category.id for category in dataset.categories] == list(range(1, 21))
    assert dataset.num_image_files == 6


def test_lists_of_two_devkits_are_separate(tmp_path: Path, voc_xml: Write, picture: Write) -> None:
    devkit(tmp_path / "VOC2007", voc_xml, picture)
    devkit(tmp_path / "VOC2012", voc_xml, picture)
    found = files(voc.read(tmp_path))
    assert found["VOC2012/val"] == ["VOC2012/JPEGImages/000003.png"]
    assert found["VOC2007/val"] == ["VOC2007/JPEGImages/000003.png"]


def test_plain_folders_without_lists(tmp_path: Path, voc_xml: Write, picture: Write) -> None:
    for stem in ("b", "a"):
        voc_xml(tmp_path / "x" / "y" / "Annotations" / f"{stem}.xml", [("sofa", 1, 1, 2, 2), ("cat", 1, 1, 2, 2)])
        picture(tmp_path / "x" / "y" / "JPEGImages" / f"{stem}.png")
    dataset = voc.read(tmp_path)
    assert files(dataset) == {"all": ["x/y/JPEGImages/a.png", "x/y/JPEGImages/b.png"]}
    assert names(dataset) == ["cat", "sofa"]


def test_raccoon_layout(tmp_path: Path, voc_xml: Write, picture: Write) -> None:
    voc_xml(tmp_path / "raccoon-master" / "annotations" / "raccoon-1.xml", [("raccoon", 1, 1, 2, 2)])
    picture(tmp_path / "raccoon-master" / "images" / "raccoon-1.png")
    dataset = voc.read(tmp_path)
    assert files(dataset) == {"all": ["raccoon-master/images/raccoon-1.png"]}
    assert names(dataset) == ["raccoon"]


def test_annotations_beside_images_by_split(tmp_path: Path, voc_xml: Write, picture: Write) -> None:
    for split in ("train", "valid"):
        voc_xml(tmp_path / split / "a.xml", [("Zebra", 1, 1, 2, 2), ("ant", 1, 1, 2, 2)])
        picture(tmp_path / split / "a.png")
    dataset = voc.read(tmp_path)
    assert files(dataset) == {"train": ["train/a.png"], "valid": ["valid/a.png"]}
    assert names(dataset) == ["Zebra", "ant"]


def test_coordinates_are_one_based_and_inclusive(tmp_path: Path, voc_xml: Write, picture: Write) -> None:
    picture(tmp_path / "a.png")
    voc_xml(tmp_path / "a.xml", [("cat", 1, 1, 40, 30, 0), ("cat", 5, 7, 5, 9, 1), ("cat", 2.5, "1e1", 3.0, 12.25)])
    [image] = voc.read(tmp_path).splits["all"].images
    assert [item.box for item in image.objects] == [(0, 0, 40, 30), (4, 6, 1, 3), (1.5, 9, 1.5, 3.25)]
    assert [item.difficult for item in image.objects] == [0, 1, 0]
    assert [item.source for item in image.objects] == [f"a.xml: object {n}" for n in (1, 2, 3)]
    assert image.declared_size == (40, 30)


def test_image_by_annotation_name_then_by_filename_element(tmp_path: Path, voc_xml: Write, picture: Write) -> None:
    voc_xml(tmp_path / "a.xml", [])
    renamed = voc_xml(tmp_path / "b.xml", [], size=(0, 0))
    renamed.write_text(renamed.read_text().replace("b.png", "C:\\photos\\original.png"))
    picture(tmp_path / "a.png")
    picture(tmp_path / "original.png")
    images = voc.read(tmp_path).splits["all"].images
    assert [image.file for image in images] == ["a.png", "original.png"]
    assert images[1].declared_size is None


def test_issues_name_their_record(tmp_path: Path, voc_xml: Write, picture: Write) -> None:
    for stem in ("0", "1", "2", "3"):
        picture(tmp_path / f"{stem}.png")
    voc_xml(tmp_path / "0.xml", [("cat", 1, 1, "x", 4), ("", 1, 1, 4, 4), ("cat", 1, 1, "nan", 4)])
    (tmp_path / "1.xml").write_text("<annotation>\n <object></annotation>")
    entity = '<!DOCTYPE a [<!ENTITY b "ha">]><annotation>&b;</annotation>'
    (tmp_path / "2.xml").write_text(entity)
    voc_xml(tmp_path / "4.xml", [("cat", 1, 1, 4, 4)])
    good, broken, hostile, lost = voc.read(tmp_path).splits["all"].images
    assert [item.issue and item.issue.code for item in good.objects] == ["invalid_record", "invalid_record", None]
    assert broken.issue
    assert "line 2 column 12" in broken.issue.message
    assert hostile.issue
    assert "unsafe XML declarations" in hostile.issue.message
    assert lost.issue
    assert lost.issue.code == "missing_image"
    assert lost.source == "4.xml"


def test_list_with_a_missing_annotation(tmp_path: Path, voc_xml: Write, picture: Write) -> None:
    devkit(tmp_path, voc_xml, picture)
    (tmp_path / "ImageSets" / "Main" / "val.txt").write_text("000009\n")
    [image] = voc.read(tmp_path).splits["val"].images
    assert image.issue
    assert image.issue.code == "missing_annotation"
    assert "000009" in image.source
    (tmp_path / "ImageSets" / "Main" / "val.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(PipelineError, match=r"ImageSets/Main/val\.txt: not UTF-8 text"):
        voc.read(tmp_path)


def test_ambiguous_list_entry(tmp_path: Path, voc_xml: Write, picture: Write) -> None:
    for folder in ("one", "two"):
        picture(tmp_path / "JPEGImages" / folder / "1.jpg")
        voc_xml(tmp_path / "Annotations" / folder / "1.xml", [("cat", 1, 1, 9, 9)])
    lists = tmp_path / "ImageSets/Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("1\n")
    (lists / "val.txt").write_text("two/1\n")
    splits = voc.read(tmp_path).splits
    message = "a list has 1, which matches both Annotations/one/1.xml and Annotations/two/1.xml"
    assert [image.issue for image in splits["train"].images] == [Issue("invalid_record", message)]
    assert [image.file for image in splits["val"].images] == ["JPEGImages/two/1.jpg"]


def test_folders_within_folders(tmp_path: Path, voc_xml: Write, picture: Write) -> None:
    """Video frames: files of the same names in one folder per video."""
    for video in ("one", "two"):
        voc_xml(tmp_path / "Annotations" / video / "0001.xml", [("cat", 1, 1, 2, 2)])
        picture(tmp_path / "JPEGImages" / video / "0001.png")
    assert files(voc.read(tmp_path)) == {"all": ["JPEGImages/one/0001.png", "JPEGImages/two/0001.png"]}
    (tmp_path / "ImageSets").mkdir()
    (tmp_path / "ImageSets" / "train.txt").write_text("two/0001\n")
    assert files(voc.read(tmp_path)) == {"train": ["JPEGImages/two/0001.png"]}


def test_folders_of_splits_within_annotations(tmp_path: Path, voc_xml: Write, picture: Write) -> None:
    for split in ("train", "val"):
        voc_xml(tmp_path / "Annotations" / split / "deep" / f"{split}.xml", [])
        picture(tmp_path / "images" / split / f"{split}.png")
    assert files(voc.read(tmp_path)) == {"train": ["images/train/train.png"], "val": ["images/val/val.png"]}


def test_folders_of_one_name_are_both_read(tmp_path: Path, voc_xml: Write, picture: Write) -> None:
    for folder in ("p/x", "q/x"):
        voc_xml(tmp_path / folder / "a.xml", [])
        picture(tmp_path / folder / "a.png")
    assert files(voc.read(tmp_path)) == {"p/x": ["p/x/a.png"], "q/x": ["q/x/a.png"]}


def test_lists_of_single_classes_are_a_fallback(tmp_path: Path, voc_xml: Write, picture: Write) -> None:
    devkit(tmp_path, voc_xml, picture)
    main = tmp_path / "ImageSets" / "Main"
    for name in ("train", "val", "trainval", "my_test"):
        (main / f"{name}.txt").unlink()
    (main / "cat_train.txt").write_text("000001 -1\n000003  0\n")
    assert files(voc.read(tmp_path)) == {"train": [f"JPEGImages/00000{n}.png" for n in (1, 3, 2)]}


def test_parts_and_missing_fields_are_ignored(tmp_path: Path, picture: Write) -> None:
    picture(tmp_path / "a.png")
    box = "<bndbox><xmax>8</xmax><xmin>2.5</xmin><ymin> 3 </ymin><ymax>9</ymax></bndbox>"
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    (tmp_path / "a.xml").write_text(f"<annotation><object>{part}<name> cat </name>{box}</object></annotation>")
    [image] = voc.read(tmp_path).splits["all"].images
    assert image.declared_size is None
    assert [(item.class_name, item.box, item.difficult) for item in image.objects] == [("cat", (1.5, 2, 6.5, 7), 0)]


HOSTILE = '<!DOCTYPE a [<!ENTITY b "ha">]><annotation>&b;</annotation>'


@pytest.mark.parametrize(
    "content",
    [
        HOSTILE.encode(),
        HOSTILE.encode("utf-16"),
        b"\xef\xbb\xbf" + HOSTILE.encode(),
        b'<?xml version="1.0" encoding="cp037"?>' + HOSTILE.encode("cp037"),
        b"<!-- <annotation> -->" + HOSTILE.encode(),
    ],
    ids=["utf-8", "utf-16", "mark", "ebcdic", "comment"],
)
def test_entities_in_any_encoding_are_refused(tmp_path: Path, voc_xml: Write, content: bytes) -> None:
    voc_xml(tmp_path / "a.xml", [])
    (tmp_path / "b.xml").write_bytes(content)
    fault = voc.read(tmp_path).splits["all"].images[1].issue
    assert fault
    assert fault.code == "invalid_xml"
    assert "ha" not in fault.message.split()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_encodings(tmp_path: Path, picture: Write, encoding: str) -> None:
    picture(tmp_path / "a.png")
    declared = encoding.removesuffix("-sig").replace("latin-1", "iso-8859-1")
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox>"
    text = f"<annotation><object><name>chaîne</name>{box}</object></annotation>"
    (tmp_path / "a.xml").write_bytes(f'<?xml version="1.0" encoding="{declared}"?>{text}'.encode(encoding))
    (tmp_path / "b.xml").write_text("<annotation/>")
    assert names(voc.read(tmp_path)) == ["chaîne"]


def test_names_of_elements_in_upper_case(tmp_path: Path, picture: Write) -> None:
    picture(tmp_path / "a.png")
    box = "<BndBox><Xmin>3</Xmin><Ymin>2</Ymin><Xmax>12</Xmax><Ymax>6</Ymax></BndBox>"
    size = "<Size><Width>40</Width><Height>30</Height></Size>"
    text = f"<annotation>{size}<Object><Name>Cat</Name><Difficult>1</Difficult>{box}</Object></annotation>"
    (tmp_path / "a.xml").write_text(text)
    [image] = voc.read(tmp_path).splits["all"].images
    [item] = image.objects
    assert (item.class_name, item.box, item.difficult) == ("Cat", (2, 1, 10, 5), 1)
    assert image.declared_size == (40, 30)
