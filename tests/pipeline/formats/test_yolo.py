import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.formats import read, recognize, yolo
from pipeline.formats.records import Issue, RawDataset
from pipeline.formats.split_kinds import split_kind
from tests.support.paths import SHARED

Write = Callable[..., Path]
LINE = "1 0.5 0.5 0.25 0.2\n"
BOX = (15.0, 12.0, 10.0, 6.0)


def texts(folder: Path, **files: str) -> None:
    """Writes files; in their names `__` stands for a folder."""
    for name, content in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(path.name + (".txt" if "." not in path.name else "")).write_text(content)


def yaml(folder: Path, content: str, name: str = "data.yaml") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content)


def files(dataset: RawDataset) -> dict[str, list[str]]:
    return {name: [image.file for image in split.images] for name, split in dataset.splits.items()}


@pytest.fixture
def coco8(tmp_path: Path, picture: Write) -> Path:
    """Ultralytics' layout: an image with a label file, one with an empty label file, one without."""
    for split in ("train", "val"):
        for stem in ("a", "b", "c"):
            picture(tmp_path / "images" / split / f"{stem}.png")
        texts(tmp_path, **{f"labels__{split}__a": LINE, f"labels__{split}__b": ""})
    yaml(tmp_path, "path: ../datasets/coco8\ntrain: images/train\nval: images/val\ntest:\nnames: {0: ant, 1: cat}\n")
    return tmp_path


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


@pytest.mark.parametrize(
    ("line", "box"),
    [
        ("0 0.25 0.2 0.5 0.2 0.5 0.6", (10, 6, 10, 12)),
        ("0 0.25 0.2 0.5 0.2 0.5 0.6 0.25 0.6", (10, 6, 10, 12)),
        ("0.0 5e-1 .5 1 1", (0, 0, 40, 30)),
    ],
)
def test_polygons_and_numbers(coco8: Path, line: str, box: tuple[float, ...]) -> None:
    texts(coco8, labels__train__a=line)
    [found] = yolo.read(coco8).splits["train"].images[0].objects
    assert (found.class_name, found.issue) == ("ant", None)
    assert found.box == pytest.approx(box)


def test_keypoints_are_not_a_polygon(coco8: Path) -> None:
    yaml(coco8, "train: images/train\nnames: [ant, cat]\nkpt_shape: [2, 3]\n")
    texts(coco8, labels__train__a="1 0.5 0.5 0.25 0.2 0.1 0.1 2 0.9 0.9 1\n1 0.1 0.1 0.2 0.2 0.3 0.3\n")
    good, bad = yolo.read(coco8).splits["train"].images[0].objects
    assert good.box == pytest.approx(BOX)
    assert bad.issue


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("0 0.5 0.5 0.2", "invalid_record"),
        ("0 0.5 0.5 0.2 0.2 0.97", "invalid_record"),  # a detection with its score
        ("ant 0.5 0.5 0.2 0.2", "invalid_record"),
        ("0 0.5 0.5 0.2 0,2", "invalid_record"),
        ("2 0.5 0.5 0.2 0.2", "unknown_class"),
        ("-1 0.5 0.5 0.2 0.2", "unknown_class"),
        ("0.5 0.5 0.5 0.2 0.2", "unknown_class"),
        ("nan 0.5 0.5 0.2 0.2", "unknown_class"),
    ],
)
def test_invalid_lines(coco8: Path, line: str, code: str) -> None:
    texts(coco8, labels__train__a=f"{LINE}{line}\n")
    good, bad = yolo.read(coco8).splits["train"].images[0].objects
    assert good.issue is None
    assert bad.issue
    assert bad.issue.code == code


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


def test_label_files_alone_beside_another_format(tmp_path: Path, picture: Write, voc_xml: Callable[..., Path]) -> None:
    """LabelImg may have written both; the text files have no names."""
    picture(tmp_path / "a.png")
    voc_xml(tmp_path / "a.xml", [("cat", 1, 1, 9, 9)])
    texts(tmp_path, a=LINE)
    assert recognize(tmp_path) == "voc"


KEYPOINTS = "0.4 0.45 0.6 0.55 0 0"  # in the box, and one that isn't labeled
FLAGGED = "0.4 0.45 2 0.6 0.55 1"
DIAMOND = "0.5 0.3 0.75 0.5 0.5 0.7 0.25 0.5"


@pytest.mark.parametrize(
    ("line", "box", "remark"),
    [
        (f"1 0.5 0.5 0.25 0.2 {KEYPOINTS}", BOX, "a box and 6 numbers of keypoints"),
        (f"1 0.5 0.5 0.25 0.2 {FLAGGED}", BOX, "a box and 6 numbers of keypoints"),
        ("1 0.5 0.5 0.25 0.2 0.4 0.45 2", BOX, "a box and 3 numbers of keypoints"),
        ("1 0.5 0.5 0.25 0.2 0.45 0.55 0.55 0.45", BOX, "a box and 4 numbers of keypoints"),
        ("1 0.5 0.5 0.5 0.8 0.4 0.2 0.6 0.2 0.4 0.8 0.6 0.8", (10, 3, 20, 24), "a box and 8 numbers of keypoints"),
        (f"1 {DIAMOND}", (10, 9, 20, 12), "read as the upright boxes around them"),
        ("1 0.1 0.1 0.2 0.1 0.2 0.2 0.1 0.2", (4, 3, 4, 3), "read as the upright boxes around them"),
        (
            "1 0.5 0.4 0.6 0.4 0.5 0.5 0.6 0.5",
            (20, 12, 4, 3),
            "read as the upright boxes around them",
        ),  # rows of corners
        ("1 0.5 0.4 0.6 0.5 0.55 0.6 0.5 0.7 0.4 0.6", (16, 12, 8, 9), None),  # a polygon of five corners
    ],
)
def test_keypoints_and_polygons_without_kpt_shape(
    tmp_path: Path, picture: Write, line: str, box: tuple[float, ...], remark: str | None
) -> None:
    picture(tmp_path / "images" / "a.png")
    yaml(tmp_path, "train: images\nnames: [ant, cat]\n")
    texts(tmp_path, labels__a=f"{line}\n" * 3)
    dataset = yolo.read(tmp_path)
    assert [item.box for item in dataset.splits["train"].images[0].objects] == [pytest.approx(box)] * 3
    assert [remark in found for found in dataset.remarks] == ([True] if remark else [])


def test_advice_for_polygons_taken_for_keypoints(tmp_path: Path, picture: Write) -> None:
    picture(tmp_path / "images" / "a.png")
    texts(tmp_path, labels__a=f"1 0.5 0.5 0.25 0.2 {KEYPOINTS}\n")
    yaml(tmp_path, "train: images\nnames: [ant, cat]\n")
    assert "add kpt_shape: [0, 2] to data.yaml" in yolo.read(tmp_path).remarks[0]
    yaml(tmp_path, "train: images\nnames: [ant, cat]\nkpt_shape: [0, 2]\n")
    dataset = yolo.read(tmp_path)
    assert dataset.splits["train"].images[0].objects[0].box == pytest.approx((0, 0, 24, 16.5))
    assert dataset.remarks == ()


@pytest.mark.parametrize(
    ("line", "box"),
    [
        (LINE, BOX),  # a box alone is among lines with keypoints
        ("1 0.1 0.1 0.2 0.1 0.2 0.2 0.1 0.2\n", (0, 0, 24, 16.5)),  # another number of points: all are polygons
    ],
)
def test_lines_of_two_lengths(tmp_path: Path, picture: Write, line: str, box: tuple[float, ...]) -> None:
    picture(tmp_path / "images" / "a.png")
    yaml(tmp_path, "train: images\nnames: [ant, cat]\n")
    texts(tmp_path, labels__a=f"1 0.5 0.5 0.25 0.2 {KEYPOINTS}\n{line}")
    dataset = yolo.read(tmp_path)
    assert dataset.splits["train"].images[0].objects[0].box == pytest.approx(box)
    assert len(dataset.remarks) == int(box == BOX)


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


def test_a_few_polygons_among_boxes_are_polygons(tmp_path: Path, picture: Write) -> None:
    """Roboflow writes a polygon that was drawn as such, even if its numbers could be a box and keypoints."""
    picture(tmp_path / "images" / "a.png")
    yaml(tmp_path, "train: images\nnames: [ant, cat]\n")
    texts(tmp_path, labels__a=f"1 0.5 0.5 0.25 0.2 {KEYPOINTS}\n" + LINE * 2)
    dataset = yolo.read(tmp_path)
    assert dataset.splits["train"].images[0].objects[0].box == pytest.approx((0, 0, 24, 16.5))
    assert dataset.remarks == ()


def test_a_damaged_line_among_lines_with_keypoints(tmp_path: Path, picture: Write) -> None:
    picture(tmp_path / "images" / "a.png")
    yaml(tmp_path, "train: images\nnames: [ant, cat]\n")
    texts(tmp_path, labels__a=f"1 0.5 0.5 0.25 0.2 {KEYPOINTS}\n" * 30 + "1 0.5 0.5 0.25 0.2 0.1 0.1\n")
    *objects, damaged = yolo.read(tmp_path).splits["train"].images[0].objects
    assert [item.box for item in objects] == [pytest.approx(BOX)] * 30
    assert damaged.issue
    assert damaged.issue.code == "invalid_record"


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
