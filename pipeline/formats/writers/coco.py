"""COCO: `annotations/SPLIT.json` and `images/SPLIT/`. The unified format is COCO's, so that nothing is lost.

Format: https://cocodataset.org/#format-data. `file_name` is the file's name in `images/SPLIT`.
"""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

from pipeline.data import annotations
from pipeline.data.annotations import AnnotationSet
from pipeline.formats.writers.image_files import ImageSource, count_renamed, image_names, split_names

# Readers take these for no split at all, or for a part of the name.
_RESERVED = re.compile(r"instances_.*|_annotations\.coco|annotations?|instances|coco|default|labels|result", re.I)


def write(splits: dict[str, AnnotationSet], out: Path, pictures: ImageSource) -> Counter[str]:
    """Writes every split; the ids stay, `difficult` is a field of its own."""
    lost: Counter[str] = Counter()
    called = split_names(splits, _RESERVED)
    for own, split in splits.items():
        files = [image.file_name for image in split.images]
        names = image_names(files, lambda path: path.name)
        images = tuple(replace(image, file_name=name) for image, name in zip(split.images, names, strict=True))
        annotations.write(replace(split, images=images), out / "annotations" / f"{called[own]}.json")
        folder = out / "images" / called[own]
        pictures.place((file, folder / name) for file, name in zip(files, names, strict=True))
        lost["image names"] += count_renamed(files, names)
    lost["split names"] = sum(own != name for own, name in called.items())
    return lost
