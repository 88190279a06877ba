"""Pascal VOC's devkit: `Annotations/`, `JPEGImages/`, and `ImageSets/Main/SPLIT.txt`.

Format: http://host.robots.ox.ac.uk/pascal/VOC/voc2007/devkit_doc_07-Jun-2007.pdf. Coordinates there are 1-based and
inclusive: xmin = x + 1, xmax = x + width. Whole ones are written as such, others as decimals with all their digits.
Images keep their own format. A crowd becomes `difficult`, which VOC's metric ignores as COCO's does a crowd.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path, PurePosixPath
from xml.sax.saxutils import escape

from pipeline.data.annotations import Annotation, AnnotationSet
from pipeline.errors import PipelineError
from pipeline.formats.writers.class_names import trim_class_names
from pipeline.formats.writers.image_files import ImageSource, count_renamed, image_names, split_names, write_text
from pipeline.formats.writers.unsupported import category_ids, marks, unused_classes

_RESERVED = re.compile(r"(?!)")
# All of Unicode but what XML 1.0 has no way to write (its production 2, Char).
_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

Object = tuple[str, tuple[float, float, float, float], int]  # class, x, y, width, height, and whether it is difficult


@dataclass(frozen=True, slots=True)
class _Record:
    """What one annotation file says. Splits share it; where two differ about an image, each has its own."""

    file: str
    width: int
    height: int
    objects: tuple[Object, ...]


def write(splits: dict[str, AnnotationSet], out: Path, pictures: ImageSource) -> Counter[str]:
    """Writes every split as a list; an image of several is written once.

    Raises:
        PipelineError: a class has a name that XML, or its readers, can't hold.
    """
    splits, spaced = trim_class_names(splits)
    records = {own: list(_records(split)) for own, split in splits.items()}
    distinct = list(dict.fromkeys(record for found in records.values() for record in found))
    files = [record.file for record in distinct]
    names = dict(zip(distinct, image_names(files, lambda path: path.stem), strict=True))
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (out / folder).mkdir(parents=True)
    called = split_names(splits, _RESERVED)
    for own, found in records.items():
        lines = "".join(f"{PurePosixPath(names[record]).stem}\n" for record in found)
        write_text(out / "ImageSets/Main" / f"{called[own]}.txt", lines)
    for record, name in names.items():
        write_text(
            out / "Annotations" / f"{PurePosixPath(name).stem}.xml", _xml(record, name, pictures.depth(record.file))
        )
    pictures.place((record.file, out / "JPEGImages" / name) for record, name in names.items())
    return _lost(splits.values()) + Counter(
        {
            "spaces around class names": spaced,
            "image names": count_renamed(files, names.values()),
            "split names": sum(own != name for own, name in called.items()),
        }
    )


def _lost(splits: Iterable[AnnotationSet]) -> Counter[str]:
    splits = list(splits)
    lost = Counter({"classes without objects": unused_classes(splits), "category ids": category_ids(splits, first=1)})
    for split in splits:
        lost += marks(split)
        lost["crowds, now difficult"] += sum(item.iscrowd and not item.difficult for item in split.annotations)
    return lost


def _records(split: AnnotationSet) -> Iterator[_Record]:
    names = {category.id: category.name for category in split.categories}
    groups = split.by_image()
    for image in split.images:
        objects = tuple(_object(names[item.category_id], item) for item in groups[image.id])
        yield _Record(image.file_name, image.width, image.height, objects)


def _object(name: str, item: Annotation) -> Object:
    if _NOT_XML.search(name):
        raise PipelineError(f"class name {name!r}: XML can't hold one of its characters; rename the class")
    return name, item.bbox, int(item.difficult or item.iscrowd)


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


def _object_xml(item: Object) -> str:
    name, box, difficult = item
    xmin, ymin, xmax, ymax = edges(box)
    # The devkit's readers want pose and truncated, which the unified format doesn't know.
    return f"""\t<object>
\t\t<name>{_text(name)}</name>
\t\t<pose>Unspecified</pose>
\t\t<truncated>0</truncated>
\t\t<difficult>{difficult}</difficult>
\t\t<bndbox>
\t\t\t<xmin>{xmin}</xmin>
\t\t\t<ymin>{ymin}</ymin>
\t\t\t<xmax>{xmax}</xmax>
\t\t\t<ymax>{ymax}</ymax>
\t\t</bndbox>
\t</object>
"""


def _text(text: str) -> str:
    return escape(text, {"\r": "&#13;"})  # a bare one is read as a line feed


def edges(box: tuple[float, float, float, float]) -> tuple[str, str, str, str]:
    """xmin, ymin, xmax, ymax of x, y, width, height: in decimals, in which 0.1 + 1 is 1.1 and nothing else."""
    x, y, width, height = (Decimal(repr(float(side))) for side in box)
    return _number(x + 1), _number(y + 1), _number(x + width), _number(y + height)


def _number(value: Decimal) -> str:
    return str(int(value)) if value == value.to_integral_value() else f"{value:f}"
