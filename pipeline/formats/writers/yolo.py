"""Writer of YOLO as defined by Ultralytics: `data.yaml`, `images/SPLIT/`, `labels/SPLIT/`, one line per object.

Format: https://docs.ultralytics.com/datasets/detect/. A line has the class and the box's center, width and height
relative to the image, with all digits of a double. Boxes are clipped to the image, because readers refuse values above
1. Crowds are left out, as by Ultralytics' own converter: a detector would learn the crowd's box as one object.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from ruamel.yaml import YAML
from ruamel.yaml.compat import StringIO
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from pipeline.data.annotations import AnnotationSet, Image
from pipeline.formats.records import Box
from pipeline.formats.writers.class_names import strip_class_names
from pipeline.formats.writers.image_files import SourceImages, count_renamed, name_images, name_splits, write_text
from pipeline.formats.writers.lost_fields import count_lost_category_ids, count_lost_fields

# Keys of data.yaml, and folder names that readers replace to get from an image to its labels.
_RESERVED = re.compile(
    r"path|names|nc|channels|download|yaml_file|kpt_shape|flip_idx|roboflow|(jpeg)?images?|imgs?|labels", re.I
)
_SPLIT_OF_YEAR = re.compile(r"(train|val|test)(19|20)\d\d")
_KNOWN_SPLIT = re.compile(r"train|trainval|val|valid|test")


def write(splits: dict[str, AnnotationSet], out: Path, source: SourceImages) -> Counter[str]:
    """Writes all splits that have images. An image without objects gets an empty label file.

    Raises:
        PipelineError: Readers can't represent the name of a class.
    """
    splits, stripped = strip_class_names(splits)
    num_splits = len(splits)
    splits = {name: split for name, split in splits.items() if split.images}  # readers refuse an empty folder
    names = name_splits(splits, _RESERVED)
    lost = Counter({"empty splits": num_splits - len(splits)})
    lost["split names"] = count_renamed(names.keys(), names.values())
    lost["class names with surrounding spaces"] = stripped
    lost["category ids"] = count_lost_category_ids(splits.values(), first=0)
    for name, split in splits.items():
        lost += _write_split(split, names[name], out, source)
    write_text(out / "data.yaml", _data_yaml(splits, names.values()))
    return lost


def _write_split(split: AnnotationSet, name: str, out: Path, source: SourceImages) -> Counter[str]:
    files = [image.file_name for image in split.images]
    new_files = name_images(files, lambda path: path.stem)
    images, labels = (out / kind / name for kind in ("images", "labels"))
    for folder in (images, labels):
        folder.mkdir(parents=True)
    for file, content in zip(new_files, _label_files(split), strict=True):
        write_text(labels / f"{PurePosixPath(file).stem}.txt", content)
    source.transfer((file, images / new_file) for file, new_file in zip(files, new_files, strict=True))
    lost = count_lost_fields(split)
    lost["crowds, left out"] = split.num_crowds
    lost["difficult flags"] = sum(item.difficult and not item.iscrowd for item in split.annotations)
    lost["image names"] = count_renamed(files, new_files)
    return lost


def _label_files(split: AnnotationSet) -> Iterator[str]:
    labels, by_image = split.label_of(), split.by_image()
    for image in split.images:
        objects = (item for item in by_image[image.id] if not item.iscrowd)
        yield "".join(f"{labels[item.category_id]} {_relative_box(item.bbox, image)}\n" for item in objects)


def _relative_box(box: Box, image: Image) -> str:
    x, y, width, height = box
    left, right = max(x, 0.0), min(x + width, float(image.width))
    top, bottom = max(y, 0.0), min(y + height, float(image.height))
    center_x, center_y = (left + right) / 2 / image.width, (top + bottom) / 2 / image.height
    return f"{center_x!r} {center_y!r} {(right - left) / image.width!r} {(bottom - top) / image.height!r}"


def _data_yaml(splits: dict[str, AnnotationSet], names: Iterable[str]) -> str:
    """The manifest. Its paths are relative to its own folder, because it has no key `path`.

    Texts are quoted: some version of YAML reads `no`, `1e5` or `0o7` as something else.
    """
    categories = next(iter(splits.values())).categories
    content: dict[str, object] = {key: _quoted(f"images/{name}") for key, name in _split_keys(names).items()}
    content["nc"] = len(categories)
    content["names"] = {label: _quoted(category.name) for label, category in enumerate(categories)}
    yaml = YAML()
    yaml.width = 2**31  # never wrap a line
    stream = StringIO()
    yaml.dump(content, stream)
    return stream.getvalue()


def _quoted(text: str) -> str:
    quoted: str = DoubleQuotedScalarString(text)
    return quoted


def _split_keys(names: Iterable[str]) -> dict[str, str]:
    """Each split's folder by its key: its name, but `train` for train2017 unless there is another train split.

    Trainers look for `train` and `val`.
    """
    names = list(names)
    kinds = {name: match[1] if (match := _SPLIT_OF_YEAR.fullmatch(name)) else name for name in names}
    uses = Counter(kinds.values())
    keys = {kinds[name] if uses[kinds[name]] == 1 else name: name for name in names}
    return {key if _KNOWN_SPLIT.fullmatch(key) else _quoted(key): name for key, name in keys.items()}
