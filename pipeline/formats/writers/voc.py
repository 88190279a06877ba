"""Writer of Pascal VOC's devkit: `Annotations/`, `JPEGImages/`, and `ImageSets/Main/SPLIT.txt`.

Format: http://host.robots.ox.ac.uk/pascal/VOC/voc2007/devkit_doc_07-Jun-2007.pdf. Coordinates are 1-based and
inclusive: xmin = x + 1, xmax = x + width. Integers are written as such, other numbers as decimals with all digits.
Images keep their file format. A crowd becomes `difficult`, which VOC's metric ignores as COCO's ignores crowds.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path, PurePosixPath
from xml.sax.saxutils import escape

from pipeline.data.annotations import Annotation, AnnotationSet
from pipeline.errors import PipelineError
from pipeline.formats.records import Box
from pipeline.formats.writers.class_names import strip_class_names
from pipeline.formats.writers.image_files import SourceImages, count_renamed, name_images, name_splits, write_text
from pipeline.formats.writers.lost_fields import count_lost_category_ids, count_lost_fields, count_unused_classes

_NOTHING_RESERVED = re.compile(r"(?!)")
# The characters that XML 1.0 can't represent (its production 2, Char, negated).
_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class _Object:
    class_name: str
    box: Box
    difficult: int


@dataclass(frozen=True, slots=True)
class _Record:
    """The content of one annotation file. Splits share it unless their annotations of the image differ."""

    file: str
    width: int
    height: int
    objects: tuple[_Object, ...]


def write(splits: dict[str, AnnotationSet], out: Path, source: SourceImages) -> Counter[str]:
    """Writes each split as a list. An image of several splits is written once.

    Raises:
        PipelineError: XML, or its readers, can't represent the name of a class.
    """
    splits, stripped = strip_class_names(splits)
    records = {split: list(_records(annotation_set)) for split, annotation_set in splits.items()}
    unique_records = list(dict.fromkeys(record for of_split in records.values() for record in of_split))
    files = [record.file for record in unique_records]
    names = dict(zip(unique_records, name_images(files, lambda path: path.stem), strict=True))
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (out / folder).mkdir(parents=True)
    split_names = name_splits(splits, _NOTHING_RESERVED)
    for split, of_split in records.items():
        lines = "".join(f"{PurePosixPath(names[record]).stem}\n" for record in of_split)
        write_text(out / "ImageSets/Main" / f"{split_names[split]}.txt", lines)
    for record, name in names.items():
        path = out / "Annotations" / f"{PurePosixPath(name).stem}.xml"
        write_text(path, _xml(record, name, source.count_channels(record.file)))
    source.transfer((record.file, out / "JPEGImages" / name) for record, name in names.items())
    lost = _count_lost(splits.values())
    lost["class names with surrounding spaces"] = stripped
    lost["image names"] = count_renamed(files, names.values())
    lost["split names"] = count_renamed(split_names.keys(), split_names.values())
    return lost


def _count_lost(splits: Iterable[AnnotationSet]) -> Counter[str]:
    splits = list(splits)
    lost = Counter({"classes without objects": count_unused_classes(splits)})
    lost["category ids"] = count_lost_category_ids(splits, first=1)
    for split in splits:
        lost += count_lost_fields(split)
        crowds = tuple(item for item in split.annotations if item.iscrowd and not item.difficult)
        lost["crowds, now difficult"] += replace(split, annotations=crowds).num_crowds
    return lost


def _records(split: AnnotationSet) -> Iterator[_Record]:
    names = {category.id: category.name for category in split.categories}
    by_image = split.by_image()
    for image in split.images:
        objects = tuple(_object(names[annotation.category_id], annotation) for annotation in by_image[image.id])
        yield _Record(image.file_name, image.width, image.height, objects)


def _object(class_name: str, annotation: Annotation) -> _Object:
    if _NOT_XML.search(class_name):
        raise PipelineError(f"class name {class_name!r}: a character can't be represented in XML; rename the class")
    return _Object(class_name, annotation.bbox, int(annotation.difficult or annotation.iscrowd))


def _xml(record: _Record, name: str, depth: int) -> str:
    return f"""<annotation>
\t<folder>JPEGImages</folder>
\t<filename>{_text(name)}</filename>
\t<size>
\t\t<width>{record.width}</width>
\t\t<height>{record.height}</height>
\t\t<depth>{depth}</depth>
\t</size>
\t<segmented>0</segmented>
{"".join(map(_object_xml, record.objects))}</annotation>
"""


def _object_xml(item: _Object) -> str:
    xmin, ymin, xmax, ymax = edges(item.box)
    # The devkit's readers require pose and truncated, which the unified format doesn't have.
    return f"""\t<object>
\t\t<name>{_text(item.class_name)}</name>
\t\t<pose>Unspecified</pose>
\t\t<truncated>0</truncated>
\t\t<difficult>{item.difficult}</difficult>
\t\t<bndbox>
\t\t\t<xmin>{xmin}</xmin>
\t\t\t<ymin>{ymin}</ymin>
\t\t\t<xmax>{xmax}</xmax>
\t\t\t<ymax>{ymax}</ymax>
\t\t</bndbox>
\t</object>
"""


def _text(text: str) -> str:
    return escape(text, {"\r": "&#13;"})  # XML readers turn a bare carriage return into a line feed


def edges(box: Box) -> tuple[str, str, str, str]:
    """VOC's xmin, ymin, xmax, ymax of an xywh box, computed in decimals: 0.1 + 1 is exactly 1.1."""
    x, y, width, height = (Decimal(repr(float(value))) for value in box)
    return _number(x + 1), _number(y + 1), _number(x + width), _number(y + height)


def _number(value: Decimal) -> str:
    return str(int(value)) if value == value.to_integral_value() else f"{value:f}"
