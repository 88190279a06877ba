"""Writer of COCO: `annotations/SPLIT.json` and `images/SPLIT/`. The unified format is COCO's, so nothing is lost.

Format: https://cocodataset.org/#format-data. `file_name` is the name of a file in `images/SPLIT`.
"""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

from pipeline.data import annotations
from pipeline.data.annotations import AnnotationSet
from pipeline.formats.writers.image_files import SourceImages, count_renamed, name_images, name_splits

# Readers take these for generic names, or for a prefix of the split's name.
_RESERVED = re.compile(r"instances_.*|_annotations\.coco|annotations?|instances|coco|default|labels|result", re.I)


def write(splits: dict[str, AnnotationSet], out: Path, source: SourceImages) -> Counter[str]:
    """Writes all splits with their ids; `difficult` is an additional field."""
    lost: Counter[str] = Counter()
    names = name_splits(splits, _RESERVED)
    for split, annotation_set in splits.items():
        files = [image.file_name for image in annotation_set.images]
        new_files = name_images(files, lambda path: path.name)
        images = tuple(
            replace(image, file_name=file) for image, file in zip(annotation_set.images, new_files, strict=True)
        )
        annotations.write(replace(annotation_set, images=images), out / "annotations" / f"{names[split]}.json")
        folder = out / "images" / names[split]
        source.transfer((file, folder / new_file) for file, new_file in zip(files, new_files, strict=True))
        lost["image names"] += count_renamed(files, new_files)
    lost["split names"] = count_renamed(names.keys(), names.values())
    return lost
