import gzip
import io
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tfrecord import TFRecordWriter

from pipeline.conversion.export import export, load_params
from pipeline.datasets.staging import open_dataset
from pipeline.errors import PipelineError
from pipeline.formats import extract_images, has_embedded_images, read, recognize, tfrecord
from tests.support.tfrecords import examples, framed

Write = Callable[..., Path]
MAP = "item {{\n  id: {}\n  name: '{}'\n  display_name: \"{}\"\n}}\n"


def record(name: str, objects: list[tuple[float, float, float, float, str]], **more: Any) -> dict[str, Any]:
    sides = dict(zip(("xmin", "ymin", "xmax", "ymax"), zip(*(one[:4] for one in objects), strict=True), strict=False))
    boxes = {f"image/object/bbox/{side}": (list(values), "float") for side, values in sides.items()}
    texts = {"image/object/class/text": ([one[4].encode() for one in objects], "byte")} if objects else {}
    named = {"image/filename": (name.encode(), "byte"), "image/width": (40, "int"), "image/height": (30, "int")}
    return {**named, **boxes, **texts, **{f"image/{key.replace('__', '/')}": value for key, value in more.items()}}


def written(path: Path, *records: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = TFRecordWriter(str(path))
    for one in records:
        writer.write(one)
    writer.close()
    return path


BOX = (0.25, 0.5, 0.75, 1.0, "cat")


def test_records(tmp_path: Path, picture: Write) -> None:
    picture(tmp_path / "images" / "a.png")
    picture(tmp_path / "images" / "b.png")
    flags = {"object__difficult": ([0, 1], "int"), "object__is_crowd": ([1, 0], "int")}
    written(
        tmp_path / "default.tfrecord", record("b.png", []), record("a.png", [BOX, (0, 0, 0.5, 0.5, "ant")], **flags)
    )
    assert recognize(tmp_path) == "tfrecord"
    dataset = tfrecord.read(tmp_path)
    empty, image = dataset.splits["all"].images
    assert (empty.file, empty.objects) == ("images/b.png", ())
    assert (image.file, image.declared_size) == ("images/a.png", (40, 30))
    assert [(item.class_name, item.box, item.iscrowd, item.difficult) for item in image.objects] == [
        ("cat", (10, 15, 20, 15), 1, 0),
        ("ant", (0, 0, 20, 15), 0, 1),
    ]
    assert image.objects[1].source == "default.tfrecord: record 2 (a.png): object 2"
    assert [(category.id, category.name) for category in dataset.categories] == [(1, "ant"), (2, "cat")]


def test_label_map(tmp_path: Path, picture: Write) -> None:
    """Ids, order and display names; classes by name or by id."""
    picture(tmp_path / "a.png")
    (tmp_path / "label_map.pbtxt").write_text(MAP.format(7, "/m/01yrx", "Cat") + MAP.format(3, "/m/0_k2", "Ant"))
    numbers = {"object__class__label": ([3, 3, 9], "int")}
    one = record("a.png", [(*BOX[:4], "/m/01yrx"), (*BOX[:4], "?"), (*BOX[:4], "??")], **numbers)
    written(tmp_path / "default.record", one)
    dataset = tfrecord.read(tmp_path)
    assert [(category.id, category.name) for category in dataset.categories] == [(3, "Ant"), (7, "Cat")]
    objects = dataset.splits["all"].images[0].objects
    assert [item.class_name for item in objects] == ["Cat", "Ant", ""]
    assert objects[2].issue
    assert objects[2].issue.code == "unknown_class"
    (tmp_path / "other.pbtxt").write_text(MAP.format(1, "dog", "dog"))
    with pytest.raises(PipelineError, match=r"^other\.pbtxt: its classes differ from those of label_map\.pbtxt"):
        tfrecord.read(tmp_path)


def test_shards_and_folders_are_splits(tmp_path: Path, picture: Write) -> None:
    picture(tmp_path / "a.png")
    for name in ("train.record-00000-of-00002", "train.record-00001-of-00002", "val.tfrecord-00000-of-00001"):
        written(tmp_path / name, record("a.png", [BOX]))
    splits = tfrecord.read(tmp_path).splits
    assert {name: len(split.images) for name, split in splits.items()} == {"train": 2, "val": 1}
    for split in ("train", "valid"):
        written(tmp_path / "export" / split / "Animals.tfrecord", record("a.png", [BOX]))
    assert {"train", "valid"} < set(tfrecord.read(tmp_path).splits)


def encoded(size: tuple[int, int], format: str = "PNG") -> bytes:
    content = io.BytesIO()
    Image.new("RGB", size, "red").save(content, format)
    return content.getvalue()


def test_images_inside_the_record_only_are_extracted(tmp_path: Path, picture: Write) -> None:
    """Equal names in two records, a record without name, one whose image is a file."""
    picture(tmp_path / "there.png")
    pictures = [encoded((20, 10)), encoded((40, 20), "JPEG"), encoded((30, 30))]
    names = ("x/a.png", "")
    named = [record(name, [BOX], encoded=(pictures[index], "byte")) for index, name in enumerate(names)]
    beside = record("there.png", [BOX], encoded=(pictures[0], "byte"))
    written(tmp_path / "train.tfrecord", *named, beside)
    written(tmp_path / "val.tfrecord", record("a.png", [BOX], encoded=(pictures[2], "byte")))
    assert has_embedded_images(tmp_path)
    assert extract_images(tmp_path) == 3
    assert not has_embedded_images(tmp_path)
    splits = tfrecord.read(tmp_path).splits
    found = [(image.file, image.objects[0].box) for split in splits.values() for image in split.images]
    assert found == [
        ("train.tfrecord.images/000001_a.png", (5, 5, 10, 5)),
        ("train.tfrecord.images/000002.jpg", (10, 10, 20, 10)),
        ("there.png", (10, 15, 20, 15)),
        ("val.tfrecord.images/000001_a.png", (7.5, 15, 15, 15)),
    ]
    assert [(tmp_path / file).read_bytes() for file, _ in found if file != "there.png"] == pictures


def test_images_that_are_not_extracted_or_empty(tmp_path: Path) -> None:
    inside, empty = (record("a.png", [BOX], encoded=(content, "byte")) for content in (encoded((2, 2)), b""))
    written(tmp_path / "default.tfrecord", inside, empty, record("b.png", [BOX]), record("", [BOX]))
    issues = [image.issue for image in tfrecord.read(tmp_path).splits["all"].images]
    assert [(issue.code, issue.message) for issue in issues if issue] == [
        ("missing_image", "its image exists only inside the record and is not extracted"),
        ("missing_image", "its image is empty (image/encoded), and there is no file a.png"),
        ("missing_image", "image 'b.png' not found"),
        ("invalid_record", "needs an image/filename or an image"),
    ]


@pytest.mark.parametrize("name", ["../../up.png", "/etc/up.png", "C:\\up.png", ".", "..", "\0", "a" * 300, "ü/…?.png"])
def test_names_of_extracted_images_stay_in_the_folder(tmp_path: Path, name: str) -> None:
    written(tmp_path / "data" / "default.tfrecord", record(name, [BOX], encoded=(encoded((20, 10)), "byte")))
    extract_images(tmp_path / "data")
    [image] = tfrecord.read(tmp_path / "data").splits["all"].images
    assert image.objects[0].box == (5, 5, 10, 5)
    assert [path.parent.parent for path in tmp_path.rglob("*.images/*")] == [tmp_path / "data"]


def test_damaged_record_at_extraction(tmp_path: Path) -> None:
    path = written(tmp_path / "default.tfrecord", record("a.png", [BOX], encoded=(encoded((20, 10)), "byte")))
    path.write_bytes(path.read_bytes() + b"cut")
    with pytest.raises(PipelineError, match=r"^default\.tfrecord: record 2 is damaged"):
        extract_images(tmp_path)


def test_a_set_with_pictures_inside_goes_all_the_way(tmp_path: Path, archive: Callable[[str], Path]) -> None:
    """The records of the multi-format set with their pictures: all commands see what they see with files beside."""
    shutil.unpack_archive(archive("multiformat-voc2012-100.zip"), tmp_path / "all")
    source = tmp_path / "all/multiformat-voc2012-100"
    given = next(source.glob("gts/tfrecord_format/**/*.tfrecord"))
    files = {path.name: path for path in (source / "images").iterdir()}
    (tmp_path / "inside").mkdir()
    with (tmp_path / "inside/default.tfrecord").open("wb") as records:
        for example in examples(given):
            feature = example.features.feature
            picture = files[feature["image/filename"].bytes_list.value[0].decode()]
            feature["image/encoded"].bytes_list.value[:] = [picture.read_bytes()]
            records.write(framed(example.SerializeToString()))
    (tmp_path / "beside").mkdir()
    shutil.copy(given, tmp_path / "beside/default.tfrecord")
    (tmp_path / "beside/images").symlink_to(source / "images")
    with open_dataset(tmp_path / "inside") as folder:
        inside = read(folder).splits["all"].images
    beside = read(tmp_path / "beside").splits["all"].images
    assert len(inside) == 100
    assert [image.objects[0].box for image in inside] == [image.objects[0].box for image in beside]
    assert [path.name for path in (tmp_path / "inside").iterdir()] == ["default.tfrecord"]  # nothing beside it
    result = export(tmp_path / "inside", "coco", tmp_path / "out", load_params(repair=True), images="copy")
    assert sum(len(split.objects) for split in result.survey.splits.values()) == sum(len(i.objects) for i in beside)


@pytest.mark.parametrize(
    "wrong",
    [
        {"object__bbox__xmin": ([0.25, 0.5], "float")},
        {"object__bbox__ymax": ([b"x"], "byte")},
        {"object__class__text": ([b"a", b"b"], "byte")},
        {"filename": (b"", "byte")},
    ],
)
def test_invalid_records(tmp_path: Path, picture: Write, wrong: dict[str, Any]) -> None:
    picture(tmp_path / "a.png")
    written(tmp_path / "default.tfrecord", {**record("a.png", [BOX]), **record("a.png", [BOX], **wrong)})
    [image] = tfrecord.read(tmp_path).splits["all"].images
    assert image.issue
    assert image.issue.code == "invalid_record"


@pytest.mark.parametrize(
    ("position", "message"), [(-1, "record 2 is damaged: wrong checksum"), (-20, "record 2 is damaged: wrong checksum")]
)
def test_flipped_bit(tmp_path: Path, picture: Write, position: int, message: str) -> None:
    """The reader of the package `tfrecord` verifies no checksum."""
    picture(tmp_path / "a.png")
    file = written(tmp_path / "default.tfrecord", *[record("a.png", [BOX])] * 2)
    content = np.fromfile(file, np.uint8)
    content[position] ^= 1
    content.tofile(file)
    with pytest.raises(PipelineError, match=rf"^default\.tfrecord: {message}"):
        tfrecord.read(tmp_path)


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_truncated_file(tmp_path: Path, picture: Write, cut: int) -> None:
    picture(tmp_path / "a.png")
    file = written(tmp_path / "default.tfrecord", *[record("a.png", [BOX])] * 60)
    file.write_bytes(file.read_bytes()[:-cut])
    with pytest.raises(PipelineError, match=r"^default\.tfrecord: record 60 is truncated"):
        tfrecord.read(tmp_path)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_gzip(tmp_path: Path, picture: Write, suffix: str) -> None:
    """With images inside; damage and a record that would fill the memory are one line."""
    content = picture(tmp_path / "pictures/a.png").read_bytes()
    record_of_image = record("a.png", [BOX], encoded=(content, "byte"))
    plain = written(tmp_path / "plain", *[record_of_image] * 3).read_bytes()
    shutil.rmtree(tmp_path / "pictures")
    for shard in range(2):
        name = f"train.tfrecord-0000{shard}-of-00002{suffix}"
        (tmp_path / "data" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "data" / name).write_bytes(gzip.compress(plain))
    assert recognize(tmp_path / "data") == "tfrecord"
    assert extract_images(tmp_path / "data") == 6
    images = tfrecord.read(tmp_path / "data").splits["train"].images
    assert [(item.class_name, item.box) for image in images for item in image.objects] == [
        ("cat", (10, 15, 20, 15))
    ] * 6
    assert images[5].file == f"train.tfrecord-00001-of-00002{suffix}.images/000003_a.png"
    flipped = bytearray(gzip.compress(plain))
    flipped[len(flipped) // 2] ^= 255
    huge = struct.pack("<Q", 2**40)
    huge += framed(huge)[-4:]  # with the checksum of these eight bytes
    for broken, problem in (
        (gzip.compress(plain)[:-20], "record 3 is truncated"),
        (bytes(flipped), "record [1-3] is damaged: "),
        (gzip.compress(plain[:-1]), "record 3 is truncated"),
        (gzip.compress(plain + huge), "record 4 is too long for a compressed file: 1,099,511,627,776 bytes$"),
    ):
        (tmp_path / "data" / name).write_bytes(broken)
        with pytest.raises(PipelineError, match=rf"^{name}: {problem}"):
            tfrecord.read(tmp_path / "data")


def test_other_records_are_not_recognized(tmp_path: Path) -> None:
    written(tmp_path / "default.tfrecord", {"image/filename": (b"a.png", "byte"), "image/class/label": (1, "int")})
    (tmp_path / "y.record").write_bytes(b"words, words, words, and no checksum at all")
    (tmp_path / "z.record").write_bytes(b"")
    with pytest.raises(PipelineError, match="no annotations recognized"):
        recognize(tmp_path)
