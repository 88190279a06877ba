"""Fills a FiftyOne dataset with the images that `fcos suggest` has chosen, in a process of its own."""

import json
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from pipeline.analysis import suggestion_files
from pipeline.analysis.suggestion_files import SuggestedImages
from pipeline.data.annotations import Image
from pipeline.files import digest
from pipeline.integrations import fiftyone_info, mongo
from pipeline.integrations.fiftyone_labels import relative_box

_METADATA = tuple(f"metadata.{name}" for name in ("width", "height", "size_bytes", "mime_type", "num_channels"))
_VIEWS = (
    ("In order of labeling", "rank", False, "as `fcos suggest` ranks them"),
    ("Most uncertain", "uncertainty", True, "highest uncertainty of the detector first"),
    ("Most different", "distance", True, "those that differ most from labeled and higher ranked images first"),
)


def main() -> None:
    """Reads `{"name": of the dataset, "file": suggested.json}` from stdin, and writes the number of images to stdout.

    The parent process has checked the file.
    """
    spec = json.load(sys.stdin)
    mongo.shorten_fiftyone_import()
    with redirect_stdout(sys.stderr):  # FiftyOne may print
        count = refresh(spec["name"], Path(spec["file"]))
    print(json.dumps(count))  # noqa: T201


def refresh(name: str, file: Path) -> int:
    """Fills the dataset anew if the file has changed; otherwise it stays as it is, with tags and edited boxes."""
    import fiftyone as fo

    stamp = digest(file)
    if fo.dataset_exists(name):
        dataset = fo.load_dataset(name)
        if fiftyone_info.read(dataset).get("suggestions") == stamp:
            return len(dataset)
        fo.delete_dataset(name)
    suggested = suggestion_files.read(file)
    dataset = fo.Dataset(name, persistent=True)
    _declare(dataset)
    dataset.add_samples(list(_samples(suggested)), progress=False)
    for title, field, reverse, description in _VIEWS:
        dataset.save_view(title, dataset.sort_by(field, reverse=reverse), description=description)
    # The App's server gives the images of this folder. Without the stamp, an interrupted process fills it again.
    fiftyone_info.save(dataset, images=suggested.folder, suggestions=stamp)
    return len(dataset)


def _declare(dataset: Any) -> None:
    import fiftyone as fo

    dataset.add_sample_field("rank", fo.IntField, description="1: label this image first")
    dataset.add_sample_field("uncertainty", fo.FloatField, description="of the detector, 0 to 1")
    dataset.add_sample_field(
        "distance", fo.FloatField, description="0 to 2, to the most similar image that is labeled or ranks higher"
    )
    dataset.add_sample_field(
        "predictions",
        fo.EmbeddedDocumentField,
        embedded_doc_type=fo.Detections,
        description="boxes that the detector proposes",
    )
    config = dataset.app_config
    config.active_fields = fo.ActiveFields(paths=["predictions"])
    groups = {
        "tags": ["tags", "_label_tags"],
        "labels": ["predictions"],
        "suggestion": ["rank", "uncertainty", "distance"],
    }
    config.sidebar_groups = [
        *(fo.SidebarGroupDocument(name=name, paths=paths, expanded=True) for name, paths in groups.items()),
        fo.SidebarGroupDocument(name="metadata", paths=list(_METADATA), expanded=False),
        fo.SidebarGroupDocument(
            name="other", paths=["id", "filepath", "created_at", "last_modified_at"], expanded=False
        ),
    ]
    config.color_scheme = fo.ColorScheme(color_by="value")  # by class
    dataset.save()


def _samples(suggested: SuggestedImages) -> Iterator[Any]:
    import fiftyone as fo

    for rank, image in enumerate(suggested.images, start=1):
        stored = Image(rank, image.file, image.width, image.height)
        boxes = [
            fo.Detection(label=item.label, confidence=item.score, bounding_box=relative_box(item.bbox, stored))
            for item in image.detections
        ]
        yield fo.Sample(
            filepath=f"{suggested.folder}/{image.file}",
            metadata=fo.ImageMetadata(width=image.width, height=image.height),
            rank=rank,
            uncertainty=image.uncertainty,
            distance=image.distance,
            predictions=fo.Detections(detections=boxes),
        )


if __name__ == "__main__":
    main()
