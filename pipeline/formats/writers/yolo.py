"""YOLO as Ultralytics has it: `data.yaml`, `images/SPLIT/`, `labels/SPLIT/`, a line an object.

Format: https://docs.ultralytics.com/datasets/detect/: class, x and y of the center, width, height, as shares of the
image, with all digits of a double. Boxes end at the image's edge, since readers refuse shares above 1. A crowd is
left out, as by Ultralytics' own converter: its box would be learned as one object.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import yaml

from pipeline.data.annotations import AnnotationSet, Image
from pipeline.formats.writers.class_names import trim_class_names
from pipeline.formats.writers.image_files import ImageSource, count_renamed, image_names, split_names, write_text
from pipeline.formats.writers.unsupported import category_ids, marks

# Other keys of data.yaml; and folders whose names readers exchange to come from an image to its labels.
_RESERVED = re.compile(
    r"path|names|nc|channels|download|yaml_file|kpt_shape|flip_idx|roboflow|(jpeg)?images?|imgs?|labels", re.I
)
_YEARLY = re.compile(r"(train|val|test)(19|20)\d\d")
_PLAIN = re.compile(r"train|trainval|val|valid|test")


def write(splits: dict[str, AnnotationSet], out: Path, pictures: ImageSource) -> Counter[str]:
    """Writes every split that has images; an image without objects has an empty label file.

    Raises:
        PipelineError: a class has a name that readers can't hold.
    """
    splits, spaced = trim_class_names(splits)
    empty = sum(not split.images for split in splits.values())
    splits = {own: split for own, split in splits.items() if split.images}  # readers refuse an empty folder
    called = split_names(splits, _RESERVED)
    lost = Counter({"empty splits": empty, "split names": sum(own != name for own, name in called.items())})
    lost["spaces around class names"] = spaced
    lost["category ids"] = category_ids(splits.values(), first=0)
    for own, split in splits.items():
        files = [image.file_name for image in split.images]
        names = image_names(files, lambda path: path.stem)
        images, labels = (out / kind / called[own] for kind in ("images", "labels"))
        for folder in (images, labels):
            folder.mkdir(parents=True)
        for name, lines in zip(names, _label_files(split), strict=True):
            write_text(labels / f"{PurePosixPath(name).stem}.txt", lines)
        pictures.place((file, images / name) for file, name in zip(files, names, strict=True))
        lost += _lost(split) + Counter({"image names": count_renamed(files, names)})
    write_text(out / "data.yaml", _data_yaml(splits, called))
    return lost


def _lost(split: AnnotationSet) -> Counter[str]:
    crowds = sum(item.iscrowd for item in split.annotations)
    difficult = sum(item.difficult and not item.iscrowd for item in split.annotations)
    return marks(split) + Counter({"crowds, left out": crowds, "marks of difficult objects": difficult})


def _label_files(split: AnnotationSet) -> Iterator[str]:
    labels, groups = split.label_of(), split.by_image()
    for image in split.images:
        objects = (item for item in groups[image.id] if not item.iscrowd)
        yield "".join(f"{labels[item.category_id]} {_shares(item.bbox, image)}\n" for item in objects)


def _shares(box: tuple[float, float, float, float], image: Image) -> str:
    x, y, width, height = box
    left, right = max(x, 0.0), min(x + width, float(image.width))
    top, bottom = max(y, 0.0), min(y + height, float(image.height))
    across = ((left + right) / 2 / image.width, (right - left) / image.width)
    down = ((top + bottom) / 2 / image.height, (bottom - top) / image.height)
    return " ".join(repr(share) for pair in zip(across, down, strict=True) for share in pair)


def _data_yaml(splits: dict[str, AnnotationSet], called: dict[str, str]) -> str:
    """Paths are relative to the file: without a `path`, readers take its own folder."""
    paths = "".join(f"{key}: {_quoted(f'images/{name}')}\n" for key, name in _keys(called.values()).items())
    categories = next(iter(splits.values())).categories
    names = "".join(f"  {label}: {_quoted(category.name)}\n" for label, category in enumerate(categories))
    return f"{paths}nc: {len(categories)}\nnames:\n{names}"


def _keys(names: Iterable[str]) -> dict[str, str]:
    """Each split's folder by its own name; but train2017 is `train`, which trainers want, where no other split is."""
    names = list(names)
    kinds = [(_YEARLY.fullmatch(name), name) for name in names]
    plain = Counter(kind[1] if kind else name for kind, name in kinds)
    return {_key(kind[1] if kind and plain[kind[1]] == 1 else name): name for kind, name in kinds}


def _key(name: str) -> str:
    return name if _PLAIN.fullmatch(name) else _quoted(name)


def _quoted(text: str) -> str:
    """In double quotes: plain, `no`, `1e5` and `0o7` are no words to one version of YAML or another."""
    quoted: str = yaml.safe_dump(text, default_style='"', allow_unicode=True, width=float("inf"))
    return quoted.strip()
