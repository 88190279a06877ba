from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.formats import read, recognize, yolo
from pipeline.formats.records import Issue
from tests.support.paths import SHARED
from tests.support.yolo_files import BOX, LINE, Write, files, texts, yaml


def test_data_yaml_with_folders(coco8: Path) -> None:
    assert recognize(coco8) == "yolo"
    dataset = yolo.read(coco8)
    assert files(dataset) == {split: [f"images/{split}/{stem}.png" for stem in "abc"] for split in ("train", "val")}
    assert [(category.id, category.name) for category in dataset.categories] == [(0, "ant"), (1, "cat")]
    images = dataset.splits["train"].images
    assert [len(image.objects) for image in images] == [1, 0, 0]
    assert images[0].objects[0].class_name == "cat"
    assert images[0].objects[0].box == pytest.approx(BOX)
    assert images[0].objects[0].source == "labels/train/a.txt: object 1"


@pytest.mark.parametrize(
    ("entry", "root"),
    [
        ("train/images", ""),
        ("../train/images", ""),
        ("/content/mine/train/images", ""),
        ("C:\\mine\\train\\images", ""),
        ("./train/images/", "path: .\n"),
        ("train", "path: /data/mine\n"),
        ("[train/images]", ""),
    ],
)
def test_roboflows_layout_and_paths_of_other_machines(tmp_path: Path, picture: Write, entry: str, root: str) -> None:
    picture(tmp_path / "top" / "train" / "images" / "a.png")
    texts(tmp_path, top__train__labels__a=LINE, top__README="Exported on\n")
    yaml(tmp_path / "top", f"{root}train: {entry}\ntest: ../test/images\nnc: 2\nnames: ['ant', 'cat']\n")
    dataset = yolo.read(tmp_path)
    assert files(dataset) == {"train": ["top/train/images/a.png"]}
    assert len(dataset.splits["train"].images[0].objects) == 1


def test_lists_of_images_and_of_folders(tmp_path: Path, picture: Write) -> None:
    for part in ("one", "two"):
        picture(tmp_path / "images" / part / f"{part}.png")
        texts(tmp_path, **{f"labels__{part}__{part}": LINE})
    texts(tmp_path, listed="./images/two/two.png\n/home/me/images/one/one.png\n\n../images/one/lost.png\n/\n")
    yaml(tmp_path, "train: [images/one, images/two]\nval: listed.txt\nnames: [ant, cat]\n")
    dataset = yolo.read(tmp_path)
    assert files(dataset) == {
        "train": ["images/one/one.png", "images/two/two.png"],
        "val": ["images/two/two.png", "images/one/one.png", "", ""],
    }
    lost, unnamed = dataset.splits["val"].images[2:]
    assert unnamed.issue
    assert unnamed.issue.message == "/ has no file name"
    assert [len(image.objects) for image in dataset.splits["val"].images[:2]] == [1, 1]
    assert lost.issue
    assert (lost.issue.code, lost.source) == ("missing_image", "listed.txt: line 4")


def test_names_in_two_normal_forms_and_cases(tmp_path: Path, picture: Write) -> None:
    """macOS writes é as two characters, Windows and macOS ignore case."""
    one, two = "caf\u00e9", "cafe\u0301"
    picture(tmp_path / "Images" / two / f"{two}.JPG")
    texts(tmp_path, **{f"labels/{one}/{one}.txt": "0 .5 .5 .4 .4\n", "lists/train.txt": f"./images/{one}/{one}.jpg\n"})
    for train in ("lists/train.txt", "images", f"images/{one}"):
        yaml(tmp_path, f"train: {train}\nnames: [cat]")
        [image] = yolo.read(tmp_path).splits["train"].images
        assert (image.file, len(image.objects)) == (f"Images/{two}/{two}.JPG", 1)


def test_ambiguous_label_file(tmp_path: Path, picture: Write) -> None:
    """Two folders `set` have a label file for a listed image, which is in a third folder."""
    for stem in ("a", "b"):
        picture(tmp_path / "pictures" / f"{stem}.png")
    texts(tmp_path, one__set__a=LINE, two__set__a="", one__set__b=LINE, train="set/a.png\nset/b.png\n")
    yaml(tmp_path, "train: train.txt\nnames: [ant, cat]\n")
    either, whole = yolo.read(tmp_path).splits["train"].images
    assert either.issue == Issue("invalid_record", "the labels may be one/set/a.txt or two/set/a.txt")
    assert (whole.file, len(whole.objects)) == ("pictures/b.png", 1)


def test_darknet(tmp_path: Path, picture: Write) -> None:
    """Labels beside the listed paths, images elsewhere, as in CVAT's export without images."""
    picture(tmp_path / "pictures" / "a.png")
    texts(tmp_path, obj_train_data__a=LINE, results__a="0 0.1 0.1 0.1 0.1", train="data/obj_train_data/a.png\n")
    (tmp_path / "obj.names").write_text("ant\ncat\n\n")
    (tmp_path / "obj.data").write_text(
        "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n"
    )
    assert recognize(tmp_path) == "yolo"
    dataset = yolo.read(tmp_path)
    assert files(dataset) == {"train": ["pictures/a.png"]}
    [found] = dataset.splits["train"].images[0].objects
    assert (found.class_name, found.box) == ("cat", pytest.approx(BOX))


def test_classes_txt_beside_labels_and_images(tmp_path: Path, picture: Write) -> None:
    """LabelImg's layout, with an image without objects."""
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    texts(tmp_path, a=LINE, classes="ant\ncat\n")
    assert recognize(tmp_path) == "yolo"
    dataset = yolo.read(tmp_path)
    assert files(dataset) == {"all": ["a.png", "b.png"]}
    assert [len(image.objects) for image in dataset.splits["all"].images] == [1, 0]


def test_classes_txt_with_separate_folders(tmp_path: Path, picture: Write) -> None:
    """Splits by folder; label files without image, or a second one for an image, are reported."""
    for split in ("train", "valid"):
        picture(tmp_path / split / "images" / "a.png")
        texts(tmp_path, **{f"{split}__labels__a": LINE, f"{split}__labels__classes": "ant\ncat\n"})
    picture(tmp_path / "valid" / "previews" / "b.png")
    texts(tmp_path, valid__old__a=LINE, valid__labels__x=LINE)
    dataset = yolo.read(tmp_path)
    assert files(dataset)["train"] == ["train/images/a.png"]
    assert files(dataset)["valid"] == ["valid/images/a.png", "", "valid/images/a.png"]
    lost = dataset.splits["valid"].images[1]
    assert lost.issue
    assert (lost.issue.code, lost.source) == ("missing_image", "valid/labels/x.txt")


def test_invalid_images(coco8: Path) -> None:
    """A label file without image, one that isn't text, and an image whose size can't be read."""
    texts(coco8, labels__train__x=LINE)
    (coco8 / "labels/train/b.txt").write_bytes(b"\xff\xfe")
    (coco8 / "images/train/a.png").write_bytes(b"no image")
    images = yolo.read(coco8).splits["train"].images
    assert [(image.source, image.issue and image.issue.code) for image in images] == [
        ("labels/train/a.txt", "undecodable_image"),
        ("labels/train/b.txt", "invalid_record"),
        ("images/train/c.png", None),
        ("labels/train/x.txt", "missing_image"),
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("params.yaml", "train: {lr: 1}\nval: 3\nnames: [a]\n"),
        ("docs.yaml", "train: images\n"),
        ("stream.yml", "--- 1\n--- 2\n"),
        ("tags.yml", "model: !!python/object:os.system x\nnames: [a"),
        ("list.yaml", "- a\n- b\n"),
        ("x.data", "words = more\n"),
        ("binary.data", "\0\1"),
        ("classes.txt", "ant\ncat\n"),
        ("b.txt", LINE),
        ("a.txt", "1 900 5 25 2"),
    ],
)
def test_other_files_are_not_recognized(tmp_path: Path, picture: Write, name: str, content: str) -> None:
    picture(tmp_path / "images" / "a.png")
    yaml(tmp_path, content, name)
    with pytest.raises(PipelineError, match="no annotations recognized"):
        recognize(tmp_path)


def test_label_files_alone_beside_another_format(tmp_path: Path, picture: Write, voc_xml: Callable[..., Path]) -> None:
    """LabelImg may have written both; the text files have no names."""
    picture(tmp_path / "a.png")
    voc_xml(tmp_path / "a.xml", [("cat", 1, 1, 9, 9)])
    texts(tmp_path, a=LINE)
    assert recognize(tmp_path) == "voc"


def test_each_missing_image_of_a_list_has_its_own_source(tmp_path: Path, picture: Write) -> None:
    picture(tmp_path / "a.png")
    texts(tmp_path, a=LINE, train="a.png\n\n" + "".join(f"lost{number}.png\n" for number in range(3)))
    yaml(tmp_path, "train = train.txt\nnames = obj.names\n", "obj.data")
    yaml(tmp_path, "ant\ncat\n", "obj.names")
    images = yolo.read(tmp_path).splits["train"].images
    assert [image.source for image in images] == [
        "a.txt",
        "train.txt: line 3",
        "train.txt: line 4",
        "train.txt: line 5",
    ]


@pytest.mark.parametrize(
    ("name", "objects", "class_names"),
    [
        ("j_aerial_names", {"train": [6, 150], "test": [2, 60]}, ["car", "truck", "bus", "minibus", "cyclist"]),
        ("m_roboflow_darknet", {"train": [34, 34], "valid": [3, 3], "test": [3, 3]}, ["ZePretty"]),
        ("pose_nokpt", {"train": [10, 20]}, ["red", "blue"]),
    ],
)
def test_cases(name: str, objects: dict[str, list[int]], class_names: list[str]) -> None:
    folder = SHARED / "cases" / name
    if not folder.is_dir():
        pytest.skip(f"../shared/cases/{name} is not there")
    dataset = read(folder)
    assert [category.name for category in dataset.categories] == class_names
    found = {split: [len(raw.images), sum(len(i.objects) for i in raw.images)] for split, raw in dataset.splits.items()}
    assert found == objects
