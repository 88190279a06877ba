"""YOLO's data.yaml, obj.data and lists of class names."""

import re
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.formats import recognize, yolo
from pipeline.formats.split_kinds import split_kind
from tests.support.yolo_files import BOX, LINE, Write, files, texts, yaml


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("train: images/training\nnames: [a]\n", "train: images/training not found"),
        ("train: images/train\nnc: 3\nnames: [a, b]\n", "nc is 3, but there are 2 names"),
        ("train: images/train\nnames: [a, a]\n", "classes 0 and 1 are both called 'a'"),
        ("train: images/train\nnames: {x: a}\n", "names must be a list of class names"),
        ('train: images/train\nnames: ["\\ud800"]\n', "names must be a list of class names"),
        ("train: images/train\nnames: cat, dog\n", "names is cat, dog, neither a list of class names nor a file"),
        ("train:images/train\nnames:[cat]\n", "not YAML: .*put a space after each colon"),
        ("train: images/train\nnames: []\n", "names must be a list of class names"),
        ("train: images/train\nnames: [a, b\nnc: 2\n", "not YAML: line 3: .*; correct it$"),
        ("train: images/train\nnames: [a]\nnames: [b]\n", "not YAML: line 3: .*duplicate key"),
        ("names: [a]\ntrain: x\n- y\n", "not YAML: line 3: "),
    ],
)
def test_invalid_manifests(coco8: Path, content: str, message: str) -> None:
    yaml(coco8, content)
    with pytest.raises(PipelineError, match=r"^data\.yaml: " + message):
        yolo.read(coco8)


@pytest.mark.parametrize(
    ("content", "remark"),
    [
        (
            'path: "C:\\Users\\me\\data"\ntrain: images/train\nnames: [ant, cat]\n',
            r"^data\.yaml: line 1: .*; read with ",
        ),
        ('train: "images\\train"\nnames: [ant, cat]\n', None),  # YAML's tab
        ('path: "C:\\new"\ntrain: "images\\train"\nnames: [ant, cat]\n', None),
        ("train: images/train\nnames:\n\t- ant\n\t- cat\n", r"^data\.yaml: line 3: .*; read with spaces for tabs"),
        ("train: images/train\nnames:\n\t0: ant\n\t1: cat\n", r"^data\.yaml: line 3: .*; read with "),
        ("path: images\ntrain: train\nnames: [ant, cat]\n", None),  # joined first
        ("path: ../datasets/images\ntrain: train\nnames: [ant, cat]\n", None),
    ],
)
def test_manifests_with_mistakes_that_do_not_hide_their_meaning(coco8: Path, content: str, remark: str | None) -> None:
    yaml(coco8, content)
    assert recognize(coco8) == "yolo"
    found = yolo.read(coco8)
    assert len(found.splits["train"].images) == 3
    assert [category.name for category in found.categories] == ["ant", "cat"]
    assert [re.search(remark or "", line) is not None for line in found.remarks] == ([True] if remark else [])


def test_a_manifest_in_utf16(coco8: Path) -> None:
    (coco8 / "data.yaml").write_text("train: images/train\nnames: [ant, caf\u00e9]\n", encoding="utf-16")
    assert [category.name for category in yolo.read(coco8).categories] == ["ant", "caf\u00e9"]


def test_missing_validation_and_test_folders_are_left_out(coco8: Path) -> None:
    yaml(coco8, "train: images/train\nval: images/valid\ntest: ../test/images\nnames: [a, b]\n")
    found = yolo.read(coco8)
    assert list(found.splits) == ["train"]
    assert found.remarks == (
        "data.yaml: val: images/valid not found, so it is left out; there are images in val: [images/val]",
        "data.yaml: test: ../test/images not found, so it is left out",
    )
    (coco8 / "notes").mkdir()
    (coco8 / "notes" / "a.md").touch()
    yaml(coco8, "train: notes\nval: images/val\nnames: [a, b]\n")
    with pytest.raises(PipelineError, match=r"^data\.yaml: train: no images in notes; correct or remove it"):
        yolo.read(coco8)


def test_an_empty_manifest_is_named(coco8: Path) -> None:
    (coco8 / "data.yaml").write_text("")
    assert yolo.read(coco8).remarks[0] == "data.yaml: the file is empty"


@pytest.mark.parametrize("content", ["- ant\n- cat\n", "ant\n", "{}\n"])
def test_a_data_yaml_without_keys_is_named(coco8: Path, content: str) -> None:
    (coco8 / "data.yaml").write_text(content)
    assert yolo.read(coco8).remarks[0] == "data.yaml: left out, since it has no keys, such as names, train and val"


@pytest.mark.parametrize(
    "content", ["names: [ant, cat]\n", "names: {0: ant, 1: cat}\nnc: 2\nroboflow: {license: MIT}\n"]
)
def test_a_data_yaml_of_names_alone(coco8: Path, content: str) -> None:
    (coco8 / "data.yaml").write_text(content)
    assert recognize(coco8) == "yolo"
    dataset = yolo.read(coco8)
    assert [category.name for category in dataset.categories] == ["ant", "cat"]
    assert files(dataset) == {split: [f"images/{split}/{stem}.png" for stem in "abc"] for split in ("train", "val")}
    assert not any("no file names the classes" in remark for remark in dataset.remarks)
    (coco8 / "classes.txt").write_text("bee\nfly\n")  # made for nothing but this
    assert [category.name for category in yolo.read(coco8).categories] == ["bee", "fly"]


def test_similar_folders_are_named(coco8: Path) -> None:
    yaml(coco8, "train: images/train2017\nval: images/val\nnames: [a, b]\n")
    with pytest.raises(PipelineError, match=r"correct or remove it; there are images in train: \[images/train\]$"):
        yolo.read(coco8)


def test_a_manifest_for_each_site(tmp_path: Path, picture: Write) -> None:
    for site in ("north", "south"):
        picture(tmp_path / site / "images/train/a.png")
        texts(tmp_path / site, labels__train__a=LINE)
        yaml(tmp_path / site, "train: images/train\nval: images/val\nnames: [ant, cat]\n")
    assert files(yolo.read(tmp_path)) == {
        "north/train": ["north/images/train/a.png"],
        "south/train": ["south/images/train/a.png"],
    }
    yaml(tmp_path / "south", "train: images/train\nnames: [cat, ant]\n")
    splits = yolo.read(tmp_path).splits
    assert {name: split.images[0].objects[0].class_name for name, split in splits.items()} == {
        "north/train": "cat",
        "south/train": "ant",
    }
    yaml(tmp_path / "south", "train: images/train\nnames: [cat, bee]\n")
    dataset = yolo.read(tmp_path)
    assert [category.name for category in dataset.categories] == ["ant", "cat", "bee"]
    ((source, issue),) = dataset.issues
    assert (source, issue.code) == ("south/data.yaml", "different_class_lists")
    assert issue.message.startswith("its class 'bee' is not in north/data.yaml; ")


@pytest.mark.parametrize("labels", ["{}", "{}/labels"])
def test_a_list_of_classes_for_each_split(tmp_path: Path, picture: Write, labels: str) -> None:
    """LabelImg writes classes.txt into each folder, in the order in which the classes were drawn."""
    for split, names in {"train": "ant\ncat\n", "val": "cat\n"}.items():
        picture(tmp_path / split / ("images" if "labels" in labels else "") / "a.png")
        folder = tmp_path / labels.format(split)
        texts(folder, a=LINE if split == "train" else "0" + LINE[1:])
        (folder / "classes.txt").write_text(names)
    found = yolo.read(tmp_path)
    objects = [item for split in found.splits.values() for image in split.images for item in image.objects]
    assert [(item.class_name, item.box) for item in objects] == [("cat", BOX), ("cat", BOX)]
    assert [split_kind(name) for name in found.splits] == ["train", "val"]
    assert [category.name for category in found.categories] == ["ant", "cat"]
    assert found.num_image_files == 2


def test_a_manifest_that_is_not_utf8(coco8: Path) -> None:
    (coco8 / "data.yaml").write_bytes("train: images/train\nnames: [caf\u00e9]\n".encode("latin-1"))
    with pytest.raises(PipelineError, match=r"^data\.yaml: not read: not UTF-8 text"):
        recognize(coco8)


def test_two_manifests_are_refused(coco8: Path) -> None:
    yaml(coco8, "train: images/train\nnames: [a, b]\n", "other.yaml")
    with pytest.raises(PipelineError, match=r"^other\.yaml: a second list of classes, besides data\.yaml"):
        yolo.read(coco8)


def test_class_names_that_yaml_reads_as_other_types(coco8: Path) -> None:
    yaml(coco8, "train: images/train\nnames: [no, 1e3, null, 007]\n")
    assert [category.name for category in yolo.read(coco8).categories] == ["no", "1e3", "null", "007"]


def test_class_list_in_a_data_set_of_another_format(tmp_path: Path, picture: Write, voc_xml: Write) -> None:
    """Lists of images and repeated class names don't prevent recognition."""
    picture(tmp_path / "JPEGImages" / "a.png")
    voc_xml(tmp_path / "Annotations" / "a.xml", [("cat", 1, 1, 5, 5)])
    texts(tmp_path, ImageSets__Main__train="a\n", ImageSets__Main__cat_train="a 1\n", classes="cat\ncat\n")
    assert recognize(tmp_path) == "voc"


@pytest.mark.parametrize("name", ["aerial.names", "_darknet.labels", "names.txt"])
def test_class_lists_beside_labels_and_lists_of_another_folder(tmp_path: Path, picture: Write, name: str) -> None:
    """The paths in lists are those of the machine that trained the detector."""
    for stem in ("a", "b", "c"):
        picture(tmp_path / f"{stem}.png")
        texts(tmp_path, **{stem: LINE})
    yaml(tmp_path, "ant\ncat\n", name)
    texts(tmp_path, train="aerial/a.png\naerial/c.png\naerial/lost.png\n", test="C:\\aerial\\b.png\n")
    assert recognize(tmp_path) == "yolo"
    dataset = yolo.read(tmp_path)
    assert files(dataset) == {"train": ["a.png", "c.png", ""], "test": ["b.png"]}
    assert [(category.id, category.name) for category in dataset.categories] == [(0, "ant"), (1, "cat")]
    assert dataset.splits["train"].images[2].source == "train.txt: line 3"
    assert dataset.splits["test"].images[0].objects[0].box == pytest.approx(BOX)


def test_class_list_in_each_split(tmp_path: Path, picture: Write) -> None:
    for split in ("train", "valid"):
        picture(tmp_path / split / "a.png")
        texts(tmp_path, **{f"{split}__a": LINE})
        yaml(tmp_path / split, "ant\ncat\n", "_darknet.labels")
    assert files(yolo.read(tmp_path)) == {"train": ["train/a.png"], "valid": ["valid/a.png"]}


def test_classes_without_names_are_called_by_their_numbers(tmp_path: Path, picture: Write) -> None:
    picture(tmp_path / "images" / "a.png")
    picture(tmp_path / "images" / "b.png")
    texts(tmp_path, labels__a="3 0.5 0.5 0.25 0.2\n0 0.5 0.5 0.25 0.2\n-1 0.5 0.5 0.1 0.1\n")
    assert recognize(tmp_path) == "yolo"
    dataset = yolo.read(tmp_path)
    assert [(category.id, category.name) for category in dataset.categories] == [(0, "0"), (3, "3")]
    assert dataset.remarks == (
        "no file names the classes, so they are called 0, 3; add a classes.txt with one name on each line",
    )
    first, second = dataset.splits["all"].images
    assert [(item.class_name, item.issue and item.issue.code) for item in first.objects] == [
        ("3", None),
        ("0", None),
        ("", "unknown_class"),
    ]
    assert (second.file, second.objects) == ("images/b.png", ())
    texts(tmp_path, classes="ant\nbee\ncat\ndog\n")  # the remark's advice
    assert [item.class_name for item in yolo.read(tmp_path).splits["all"].images[0].objects] == ["dog", "ant", ""]


@pytest.mark.parametrize(
    ("names", "files_of_names", "expected"),
    [
        ("nc: 2", {}, [(1, "1")]),
        ("nc: 2", {"classes.txt": "ant\ncat\n"}, [(0, "ant"), (1, "cat")]),
        ("names: coco.names", {"coco.names": "ant\ncat\n"}, [(0, "ant"), (1, "cat")]),
        ("nc: 2\nnames:", {}, [(1, "1")]),
    ],
)
def test_data_yaml_without_class_names(
    coco8: Path, names: str, files_of_names: dict[str, str], expected: list[tuple[int, str]]
) -> None:
    yaml(coco8, f"path: ../datasets/coco8\ntrain: images/train\nval: images/val\n{names}\n")
    for name, content in files_of_names.items():
        yaml(coco8, content, name)
    assert recognize(coco8) == "yolo"
    dataset = yolo.read(coco8)
    assert sorted(dataset.splits) == ["train", "val"]
    assert [(category.id, category.name) for category in dataset.categories] == expected


def test_obj_data_without_class_names(tmp_path: Path, picture: Write) -> None:
    picture(tmp_path / "a.png")
    texts(tmp_path, a=LINE, train="a.png\n")
    yaml(tmp_path, "classes = 2\ntrain = train.txt\n", "obj.data")
    dataset = yolo.read(tmp_path)
    assert files(dataset) == {"train": ["a.png"]}
    assert [category.name for category in dataset.categories] == ["1"]
