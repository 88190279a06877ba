import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image, problems, read, write
from pipeline.errors import PipelineError

CATEGORIES = (Category(3, "cat"), Category(1, "dog"))
IMAGES = (Image(7, "a/ü.jpg", 40, 30), Image(2, "b.png", 10, 10))
GOOD = AnnotationSet(CATEGORIES, IMAGES, (Annotation(5, 7, 1, (0.0, 1.5, 40.0, 28.5), 12.0, 0, 1),))


def test_written_as_plain_coco(tmp_path: Path) -> None:
    write(GOOD, tmp_path / "train.json")
    content = json.loads((tmp_path / "train.json").read_text(encoding="utf-8"))
    assert content["categories"] == [{"id": 3, "name": "cat"}, {"id": 1, "name": "dog"}]
    assert content["images"][0] == {"id": 7, "file_name": "a/ü.jpg", "width": 40, "height": 30}
    assert content["annotations"] == [
        {"id": 5, "image_id": 7, "category_id": 1, "bbox": [0, 1.5, 40, 28.5], "area": 12, "iscrowd": 0, "difficult": 1}
    ]


def test_a_subset_has_the_images_in_the_order_given_and_their_annotations() -> None:
    other = Annotation(6, 2, 3, (0.0, 0.0, 5.0, 5.0), 25.0)
    whole = AnnotationSet(CATEGORIES, IMAGES, (other, *GOOD.annotations))
    assert whole.subset(reversed(IMAGES)) == AnnotationSet(CATEGORIES, IMAGES[::-1], (other, *GOOD.annotations))
    assert whole.subset(IMAGES[:1]) == AnnotationSet(CATEGORIES, IMAGES[:1], GOOD.annotations)
    assert whole.subset([]) == AnnotationSet(CATEGORIES, (), ())


def test_labels_follow_the_category_order_and_empty_images_are_kept() -> None:
    assert GOOD.label_of() == {3: 0, 1: 1}
    assert GOOD.by_image() == {7: [GOOD.annotations[0]], 2: []}


@st.composite
def sets(draw: st.DrawFn) -> AnnotationSet:
    sizes = draw(st.lists(st.tuples(st.integers(1, 500), st.integers(1, 500)), max_size=4))
    images = tuple(Image(n, f"{n}.jpg", *size) for n, size in enumerate(sizes, draw(st.integers(0, 9))))
    names = draw(st.lists(st.text(min_size=1), min_size=1, max_size=4, unique=True))
    categories = tuple(Category(n, name) for n, name in enumerate(names))
    annotations = []
    for image in images:
        share = draw(st.tuples(*[st.floats(0, 0.49)] * 2, *[st.floats(0.01, 0.5)] * 2))
        x, y, w, h = (part * side for part, side in zip(share, [image.width, image.height] * 2, strict=True))
        category = draw(st.sampled_from(categories)).id
        flags = draw(st.tuples(st.integers(0, 1), st.integers(0, 1)))
        annotations.append(Annotation(len(annotations) + 1, image.id, category, (x, y, w, h), w * h, *flags))
    return AnnotationSet(categories, images, tuple(annotations))


@given(sets())
def test_reading_returns_what_was_written(tmp_path_factory: pytest.TempPathFactory, annotations: AnnotationSet) -> None:
    path = tmp_path_factory.mktemp("round") / "train.json"
    write(annotations, path)
    assert read(path) == annotations
    first = path.read_bytes()
    write(read(path), path)
    assert path.read_bytes() == first


def changed(**values: object) -> Annotation:
    return Annotation(**({f: getattr(GOOD.annotations[0], f) for f in Annotation.__slots__} | values))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("invalid", "message"),
    [
        (AnnotationSet((), IMAGES, ()), "no categories"),
        (AnnotationSet((*CATEGORIES, Category(1, "x")), (), ()), "category id 1 is used 2 times"),
        (AnnotationSet((*CATEGORIES, Category(9, "cat")), (), ()), "category name 'cat' is used 2 times"),
        (AnnotationSet(CATEGORIES, (*IMAGES, Image(7, "c", 1, 1)), ()), "image id 7 is used 2 times"),
        (AnnotationSet(CATEGORIES, (Image(1, "/etc/a", 1, 1),), ()), "not a relative POSIX path"),
        (AnnotationSet(CATEGORIES, (Image(1, "a/../../b", 1, 1),), ()), "not a relative POSIX path"),
        (AnnotationSet(CATEGORIES, (Image(1, "a\\b", 1, 1),), ()), "not a relative POSIX path"),
        (AnnotationSet(CATEGORIES, (Image(1, "a", 0, 1),), ()), "size 0×1"),
        (AnnotationSet(CATEGORIES, IMAGES, (changed(image_id=8),)), "image 8 does not exist"),
        (AnnotationSet(CATEGORIES, IMAGES, (changed(category_id=2),)), "category 2 does not exist"),
        (AnnotationSet(CATEGORIES, IMAGES, (changed(bbox=(0, 0, 0, 5)),)), "no positive width"),
        (AnnotationSet(CATEGORIES, IMAGES, (changed(bbox=(0, 0, float("nan"), 5)),)), "no positive width"),
        (AnnotationSet(CATEGORIES, IMAGES, (changed(bbox=(0.5, 0, 40, 5)),)), "outside its image of 40×30"),
        (AnnotationSet(CATEGORIES, IMAGES, (changed(area=float("inf")),)), "area inf is not a finite number"),
        (AnnotationSet(CATEGORIES, IMAGES, (changed(area=-0.5),)), "area -0.5 is not a finite number of at least 0"),
        (AnnotationSet(CATEGORIES, IMAGES, (changed(iscrowd=2),)), "annotation 5: iscrowd is 2, but should be 0 or 1"),
        (AnnotationSet(CATEGORIES, IMAGES, (changed(difficult=-1),)), "difficult is -1, but should be 0 or 1"),
        (AnnotationSet(CATEGORIES, (Image(1, "a\0b", 1, 1),), ()), "not a relative POSIX path"),
        (AnnotationSet(CATEGORIES, (Image(1, "a/" * 3000 + "b", 1, 1),), ()), "not a relative POSIX path"),
        (AnnotationSet(CATEGORIES, (Image(1, "./.", 1, 1),), ()), "not a relative POSIX path"),
        (AnnotationSet(CATEGORIES, (Image(1, "", 1, 1),), ()), "not a relative POSIX path"),
    ],
)
def test_invalid_records_are_not_written(tmp_path: Path, invalid: AnnotationSet, message: str) -> None:
    assert any(message in line for line in problems(invalid))
    with pytest.raises(PipelineError, match=r"train\.json"):
        write(invalid, tmp_path / "train.json")
    assert not (tmp_path / "train.json").exists()


def test_a_valid_set_has_no_problems() -> None:
    assert list(problems(GOOD)) == []


def test_a_wrong_type_is_reported_with_its_position(tmp_path: Path) -> None:
    write(GOOD, tmp_path / "train.json")
    text = (tmp_path / "train.json").read_text().replace('"width": 40', '"width": "40"')
    (tmp_path / "train.json").write_text(text)
    with pytest.raises(PipelineError, match="images: record 0: width is '40', but should be a valid integer"):
        read(tmp_path / "train.json")


areas = st.floats(min_value=0, allow_infinity=False)


@given(st.text(min_size=1, max_size=9), st.floats(1e-9, 1e6), st.floats(1e-9, 1e6), areas)
def test_bytes_equal_those_of_a_json_writer(
    tmp_path_factory: pytest.TempPathFactory, name: str, w: float, h: float, area: float
) -> None:
    path = tmp_path_factory.mktemp("bytes") / "train.json"
    item = Annotation(1, 2, 3, (0.1, 1, w, h), area)
    write(AnnotationSet((Category(3, name),), (Image(2, "a/ü\n.jpg", 2**30, 2**30),), (item,)), path)
    text = path.read_text(encoding="utf-8")
    record = {"id": 1, "image_id": 2, "category_id": 3, "bbox": [0.1, 1.0, w, h], "area": area}
    assert f"  {json.dumps(record | {'iscrowd': 0, 'difficult': 0})}\n" in text
    assert f"  {json.dumps({'id': 3, 'name': name}, ensure_ascii=False)}\n" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not JSON: .* at line 1 column 2"),
        (b'{"categories": "\xff"}', "not JSON: it is not UTF-8 text"),
        (b"[]", r"train\.json: "),
        (b"{}", "categories is missing"),
    ],
)
def test_other_content_is_a_one_line_error(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "train.json").write_bytes(content)
    with pytest.raises(PipelineError, match=message) as caught:
        read(tmp_path / "train.json")
    assert "\n" not in str(caught.value)
    with pytest.raises(PipelineError, match="no such file"):
        read(tmp_path / "val.json")
