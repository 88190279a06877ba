import json
import math
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.annotations import Category
from pipeline.errors import PipelineError
from pipeline.formats import coco, recognize
from pipeline.formats.dataset_files import list_files
from pipeline.formats.records import Issue

Write = Callable[..., Path]
CATEGORIES = [{"id": 18, "name": "dog", "supercategory": "animal"}, {"id": 3, "name": "car"}]


def written(path: Path, images: list[Any], annotations: list[Any], categories: list[Any] = CATEGORIES) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"info": {}, "images": images, "annotations": annotations, "categories": categories}))
    return path


def image(number: Any, name: str, **more: Any) -> dict[str, Any]:
    return {"id": number, "file_name": name, "width": 40, "height": 30, **more}


def box(number: Any, of: Any, category: Any = 18, bbox: Any = (1, 2, 3, 4), **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": of, "category_id": category, "bbox": bbox, **more}


def test_official_layout(tmp_path: Path, picture: Write) -> None:
    """Same file names in two splits; keypoints and captions of the same images beside the instances."""
    notes = tmp_path / "annotations"
    for split in ("train2017", "val2017"):
        picture(tmp_path / split / "000000000009.jpg")
        written(notes / f"instances_{split}.json", [image(9, "000000000009.jpg")], [box(4, 9, area=5.5)])
        written(notes / f"person_keypoints_{split}.json", [image(9, "000000000009.jpg")], [])
        (notes / f"captions_{split}.json").write_text('{"images": [], "annotations": []}')
    dataset = coco.read(tmp_path)
    assert dataset.categories == (Category(18, "dog"), Category(3, "car"))
    assert {name: split.images[0].file for name, split in dataset.splits.items()} == {
        "train2017": "train2017/000000000009.jpg",
        "val2017": "val2017/000000000009.jpg",
    }
    [only] = dataset.splits["val2017"].images[0].objects
    assert (only.class_name, only.box, only.area, only.id) == ("dog", (1, 2, 3, 4), 5.5, 4)
    assert only.source == "annotations/instances_val2017.json: annotation 4"
    assert dataset.num_image_files == 2


def test_roboflow_layout(tmp_path: Path, picture: Write) -> None:
    for split in ("train", "valid", "test"):
        picture(tmp_path / split / "a.jpg")
        written(tmp_path / split / "_annotations.coco.json", [image(0, "a.jpg")], [])
    dataset = coco.read(tmp_path)
    assert {name: split.images[0].file for name, split in dataset.splits.items()} == {
        "test": "test/a.jpg",
        "train": "train/a.jpg",
        "valid": "valid/a.jpg",
    }


def test_single_file_and_folders_of_another_machine(tmp_path: Path, picture: Write) -> None:
    picture(tmp_path / "images" / "a.jpg")
    picture(tmp_path / "images" / "deep" / "b.jpg")
    images = [image(1, "/home/me/project/a.jpg"), image(2, "images\\deep\\b.jpg"), image(3, "./deep/b.jpg")]
    written(tmp_path / "annotations.json", images, [])
    [split] = coco.read(tmp_path).splits.items()
    assert split[0] == "all"
    assert [found.file for found in split[1].images] == ["images/a.jpg", "images/deep/b.jpg", "images/deep/b.jpg"]


def test_ids_as_text(tmp_path: Path, picture: Write) -> None:
    picture(tmp_path / "a.jpg")
    categories = [{"id": "7", "name": "x"}, {"id": "8", "name": "y"}]
    written(tmp_path / "train.json", [image("img-a", "a.jpg")], [box("u1", "img-a", 8)], categories)
    dataset = coco.read(tmp_path)
    [found] = dataset.splits["train"].images
    assert found.id is None
    assert (found.objects[0].class_name, found.objects[0].id) == ("y", None)
    assert dataset.categories == (Category(7, "x"), Category(8, "y"))
    written(tmp_path / "train.json", [], [], [{"id": "kg3", "name": "x"}, {"id": "kg1", "name": "y"}])
    assert coco.read(tmp_path).categories == (Category(1, "x"), Category(2, "y"))


def test_crowds_and_missing_fields(tmp_path: Path, picture: Write) -> None:
    picture(tmp_path / "a.jpg")
    rle = {"counts": [0, 5, 1195], "size": [30, 40]}
    crowd = box(1, 1, iscrowd=1, segmentation=rle, area=5)
    written(
        tmp_path / "train.json", [{"id": 1, "file_name": "a.jpg"}], [crowd, box(2, 1, area=None), box(3, 1, area=-1)]
    )
    [found] = coco.read(tmp_path).splits["train"].images
    assert [(item.iscrowd, item.area) for item in found.objects] == [(1, 5), (0, None), (0, None)]
    assert found.declared_size is None


@pytest.mark.parametrize(
    ("record", "code", "message"),
    [
        (box(5, 1, 99), "unknown_class", "category 99 is not in the file's list"),
        (box(5, 1, bbox=[1, 2, 3]), "invalid_record", r"bbox is \[1, 2, 3\]"),
        (box(5, 1, bbox=[1, 2, 3, "x"]), "invalid_record", "bbox is"),
        (box(5, 1, bbox=None), "invalid_record", "bbox is None"),
    ],
)
def test_invalid_objects(tmp_path: Path, picture: Write, record: Any, code: str, message: str) -> None:
    picture(tmp_path / "a.jpg")
    written(tmp_path / "train.json", [image(1, "a.jpg")], [record])
    [item] = coco.read(tmp_path).splits["train"].images[0].objects
    assert item.source == "train.json: annotation 5"
    assert item.issue
    assert item.issue.code == code
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(item.issue.message)


def test_invalid_images_and_orphan_objects(tmp_path: Path, picture: Write) -> None:
    picture(tmp_path / "one" / "twin.jpg")
    picture(tmp_path / "two" / "twin.jpg")
    images = [image(1, "lost.jpg"), image(2, "twin.jpg"), {"id": 3}]
    written(tmp_path / "train.json", images, [box(8, 77)])
    split = coco.read(tmp_path).splits["train"]
    assert [found.issue and found.issue.code for found in split.images] == [
        "missing_image",
        "ambiguous_image",
        "invalid_record",
    ]
    [orphan] = split.orphan_objects
    assert orphan.issue
    assert orphan.issue.message == "image 77 does not exist"


def test_images_that_share_an_id(tmp_path: Path, picture: Write) -> None:
    """Objects of two files with one id can't be assigned; the same file twice is a duplicate record."""
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        picture(tmp_path / name)
    images = [image(1, "a.jpg"), image("1", "b.jpg"), image(2, "c.jpg"), image(2, "c.jpg")]
    written(tmp_path / "train.json", images, [box(8, 1), box(9, 2)])
    one, other, whole, again = coco.read(tmp_path).splits["train"].images
    assert one.issue == other.issue
    assert one.issue == Issue(
        "invalid_record", "the id is shared by a.jpg and b.jpg, so their annotations can't be told apart"
    )
    assert (whole.file, [item.id for item in whole.objects]) == ("c.jpg", [9])
    assert (again.file, again.objects) == ("c.jpg", ())


@pytest.mark.parametrize(
    ("images", "categories", "message"),
    [
        (["a.jpg"], CATEGORIES, "images record 1 is a.jpg, not an object"),
        ([], [{"id": 1}], "category 1 needs an id and a name"),
        ([], [{"id": 1, "name": "a"}, {"id": "1", "name": "b"}], "category id '1' is used 2 times"),
        ([], [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}], "category name 'a' is used 2 times"),
    ],
)
def test_invalid_files(tmp_path: Path, images: list[Any], categories: list[Any], message: str) -> None:
    written(tmp_path / "train.json", images, [], categories)
    with pytest.raises(PipelineError, match=message) as caught:
        coco.read(tmp_path)
    assert str(caught.value).startswith("train.json: ")


def test_splits_with_different_classes_are_joined_by_name(tmp_path: Path, picture: Write) -> None:
    """Ids are kept where they are free: 3 is the first file's car, 4 the second file's truck."""
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        picture(tmp_path / name)
    lists = {
        "train": [{"id": 3, "name": "car"}, {"id": 18, "name": "dog"}],
        "val": [{"id": 18, "name": "cat"}, {"id": 3, "name": "dog"}],
        "test": [{"id": 4, "name": "truck"}],
    }
    for (split, categories), name in zip(lists.items(), ("a.jpg", "b.jpg", "c.jpg"), strict=True):
        boxes = [box(number, 1, category["id"]) for number, category in enumerate(categories, 1)]
        written(tmp_path / f"{split}.json", [image(1, name)], boxes, categories)
    dataset = coco.read(tmp_path)
    assert {category.name: category.id for category in dataset.categories} == {
        "car": 3, "dog": 18, "truck": 4, "cat": 19,
    }  # fmt: skip
    found = {name: [item.class_name for item in split.images[0].objects] for name, split in dataset.splits.items()}
    assert found == {"train": ["car", "dog"], "val": ["cat", "dog"], "test": ["truck"]}
    assert {source: issue.message for source, issue in dataset.issues} == {
        "test.json": "its class 'truck' is not in train.json; objects of it in the images there would be background",
        "val.json": "its class 'cat' is not in train.json; objects of it in the images there would be background",
    }
    assert {issue.code for _, issue in dataset.issues} == {"different_class_lists"}


def test_files_with_other_class_numbers_or_fewer_classes(tmp_path: Path, picture: Write) -> None:
    picture(tmp_path / "a.jpg")
    written(tmp_path / "val.json", [image(1, "a.jpg")], [box(1, 1, 5)], [{"id": 5, "name": "car"}])
    written(tmp_path / "train.json", [], [])
    dataset = coco.read(tmp_path)
    assert dataset.categories == (Category(18, "dog"), Category(3, "car"))
    assert dataset.splits["val"].images[0].objects[0].class_name == "car"


def test_files_of_one_name_keep_their_folders(tmp_path: Path) -> None:
    for folder in ("one", "two/annotations"):
        written(tmp_path / folder / "train.json", [], [])
    written(tmp_path / "three" / "annotations" / "instances.json", [], [])
    assert list(coco.read(tmp_path).splits) == ["one/train", "three", "two/annotations/train"]


def test_detections_beside_annotations_are_ignored(tmp_path: Path) -> None:
    written(tmp_path / "gt.json", [], [box(1, 1)])
    written(tmp_path / "dets.json", [], [box(1, 1, score=0.5)])
    assert list(coco.read(tmp_path).splits) == ["gt"]
    (tmp_path / "gt.json").unlink()
    assert list(coco.read(tmp_path).splits) == ["dets"]  # boxes that a detector proposed and nobody drew


PANOPTIC = [{"image_id": 1, "file_name": "1.png", "segments_info": [{"id": 3, "category_id": 1, "bbox": [1, 1, 9, 9]}]}]
CAPTIONS = [{"id": 1, "image_id": 1, "caption": "A cat on a mat."}]
KEYPOINTS = [{"id": 1, "image_id": 1, "category_id": 1, "keypoints": [3, 4, 2], "num_keypoints": 1}]


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        (PANOPTIC, "panoptic annotations: segments of whole images.*instances_.*panoptic2detection"),
        (CAPTIONS, "captions of whole images, without objects; detection needs instances"),
        (KEYPOINTS, "keypoints without a bbox; detection needs instances.*; export them with boxes"),
    ],
)
def test_annotations_of_other_kinds(tmp_path: Path, annotations: list[Any], message: str) -> None:
    written(tmp_path / "train_other.json", [{"id": 1, "file_name": "1.jpg"}], annotations)
    assert recognize(tmp_path) == "coco"
    with pytest.raises(PipelineError, match=r"^train_other\.json: " + message):
        coco.read(tmp_path)
    written(tmp_path / "train.json", [], [box(1, 1)])
    written(tmp_path / "image_info_test.json", [], [])
    assert list(coco.read(tmp_path).splits) == ["train"]


def test_captions_have_no_list_of_categories(tmp_path: Path) -> None:
    (tmp_path / "captions_val2017.json").write_text(json.dumps({"images": [], "annotations": CAPTIONS}))
    with pytest.raises(PipelineError, match=r"^captions_val2017\.json: captions of whole images"):
        coco.read(tmp_path)


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "val.json", [], [box(1, 1)])
    (tmp_path / "notes.json").touch()
    assert list(coco.read(tmp_path).splits) == ["val"]
    (tmp_path / "train.json").write_text(" \n")
    with pytest.raises(PipelineError, match=r"^train\.json: the file is empty; export or download it again"):
        coco.read(tmp_path)


def test_json_of_other_tools_with_some_of_the_lists(tmp_path: Path) -> None:
    (tmp_path / "notes.json").write_text('{"categories": [{"id": 0, "name": "red"}], "info": {}}')  # Label Studio
    (tmp_path / "package.json").write_text('{"name": "x", "images": ["a.png"]}')
    (tmp_path / "items.json").write_text('{"categories": {"label": {}}, "items": [{"annotations": [{"id": 1}]}]}')
    assert coco.find_evidence(tmp_path, list_files(tmp_path)) is None


def test_byte_order_mark_and_ids_as_floats_and_text(tmp_path: Path, picture: Write) -> None:
    picture(tmp_path / "a.jpg")
    file = written(tmp_path / "train.json", [image(1.0, "a.jpg", width="40")], [box("5", 1, "18", iscrowd=True)])
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    [found] = coco.read(tmp_path).splits["train"].images
    assert (found.id, found.declared_size) == (1, (40, 30))
    [item] = found.objects
    assert (item.id, item.class_name, item.iscrowd, item.issue) == (5, "dog", 1, None)


@pytest.mark.parametrize("counts", [[0, 5, 1195], "l0d0j1"])
def test_segmentations_are_ignored(tmp_path: Path, picture: Write, counts: Any) -> None:
    picture(tmp_path / "a.jpg")
    crowd = box(1, 1, iscrowd=1, segmentation={"counts": counts, "size": [30, 40]})
    written(tmp_path / "train.json", [image(1, "a.jpg")], [crowd, box(2, 1, segmentation=[[1, 2, 3, 4, 5, 6]])])
    objects = coco.read(tmp_path).splits["train"].images[0].objects
    assert [(item.box, item.iscrowd) for item in objects] == [((1, 2, 3, 4), 1), ((1, 2, 3, 4), 0)]


def test_nan_falls_back_to_the_standard_json_reader(tmp_path: Path, picture: Write) -> None:
    picture(tmp_path / "a.jpg")
    written(tmp_path / "train.json", [image(1, "a.jpg")], [box(1, 1, bbox=[1, float("nan"), 3, 4]), box(2, 1)])
    first, second = coco.read(tmp_path).splits["train"].images[0].objects
    assert math.isnan(first.box[1])
    assert second.box == (1, 2, 3, 4)


def test_unpaired_surrogates_in_names(tmp_path: Path, picture: Write) -> None:
    picture(tmp_path / "a.jpg")
    half = "\ud800"
    written(tmp_path / "train.json", [image(1, "a.jpg"), image(2, half)], [box(half, 1, half, **{half: half})])
    known, lost = coco.read(tmp_path).splits["train"].images
    assert lost.issue
    assert lost.issue.message == r"image '\ud800' not found"
    assert known.objects[0].source == r"train.json: annotation \ud800"
    assert known.objects[0].issue


# fmt: off
ODD = [
    None, True, 0, -1, 7, 2**63, -(2**70), 10**25, 0.5, -0.0, 1.0, 1e308, "", "7", "007", "é€", "\0", [],
    [1, 2.5, 3, "4"], [[[1]]], {}, {"id": 1},
]
# fmt: on
FIELDS = ["id", "image_id", "category_id", "bbox", "area", "iscrowd", "file_name", "width", "name", "segmentation"]
records = st.lists(st.dictionaries(st.sampled_from(FIELDS), st.sampled_from(ODD), max_size=6), max_size=4)


@settings(max_examples=60, deadline=None)
@given(images=records, annotations=records, categories=records)
def test_fast_reader_agrees_with_the_standard_json_reader(images: Any, annotations: Any, categories: Any) -> None:
    content = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    written = json.dumps(content).encode()
    file = PurePosixPath("train.json")
    assert coco.decode(file, written) == coco.decode_with_json(file, written)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [' + "[" * 100_000, "nested too deeply"),
        ('{"images": [' + "9" * 5000 + "]}", "not read: Exceeds the limit"),
        ('{"images": [\n\n' + "\udcff" + "]}", "not JSON: it is not UTF-8 text"),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "\\ud800"}]}',
            "category 1 needs an id and",
        ),
    ],
)
def test_invalid_json(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "train.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(PipelineError, match=r"^train\.json: .*" + message):
        coco.read(tmp_path)


def test_missing_list(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text('{"images": [], "categories": {}}')
    with pytest.raises(PipelineError, match=r"train\.json: no list 'annotations'"):
        coco.read(tmp_path)
