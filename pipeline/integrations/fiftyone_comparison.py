"""A FiftyOne dataset of the images that differ between experiments, for `fcos compare --app`.

As in `fiftyone`, FiftyOne is imported in a separate process: `python -m pipeline.integrations.fiftyone_comparison`.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.data.annotations import Annotation, Image
from pipeline.data.images import read_image
from pipeline.errors import PipelineError
from pipeline.evaluation.comparison_report import Report, Side
from pipeline.evaluation.error_kinds import ImageErrors
from pipeline.files import atomic_replace
from pipeline.integrations import fiftyone, mongo, servers
from pipeline.workspace import state_dir

NAME = "fcos-comparison"  # of the dataset, which each comparison replaces
_COLORS = ("#f58231", "#4363d8", "#e6194b", "#911eb4", "#42d4f4")  # of the sides' detections

FindImage = Callable[[str], Path]


@contextmanager
def app(report: Report, find_image: FindImage | None, port: int) -> Iterator[servers.Server]:
    """Runs FiftyOne's App with the images that differ: a field for each side, and a view of the better and the worse.

    Raises:
        PipelineError: the port is in use, no image differs, an image is gone, or there is no database.
    """
    spec = dataset_spec(report, find_image)
    with fiftyone.serve(NAME, port, partial(build, spec)) as server:
        yield server


def build(spec: dict[str, Any]) -> dict[str, int]:
    """Builds the dataset; returns the number of images in each saved view, by its name."""
    sizes: dict[str, int] = fiftyone.run_child("pipeline.integrations.fiftyone_comparison", NAME, spec)
    return sizes


def dataset_spec(report: Report, find_image: FindImage | None) -> dict[str, Any]:
    """What the dataset is built from, as JSON. The images are copied to where they outlive the command.

    Raises:
        PipelineError: no image differs, or an image is gone.
    """
    changed = {image.image_id for result in report.comparisons for image in (*result.better, *result.worse)}
    images = [image for image in report.truth.images if image.id in changed]
    if not images:
        raise PipelineError("no image has more or fewer errors: there is nothing to show in the App")
    if find_image is None:
        raise PipelineError("the folder with the images is unknown: give it with --images")
    folder = state_dir() / "images" / NAME
    with atomic_replace(folder) as target:
        for image in images:
            _link(find_image(image.file_name), target / image.file_name)
    names = {category.id: category.name for category in report.truth.categories}
    objects = report.truth.by_image()
    return {
        "images": str(folder),
        "classes": list(names.values()),
        "sides": [{"label": side.label, "title": side.title} for side in report.sides],
        "samples": [_sample(_with_size(image, folder), objects[image.id], report.sides, names) for image in images],
    }


def _link(source: Path, target: Path) -> None:
    """A hard link, or a copy on another disk."""
    if not source.is_file():
        raise PipelineError(f"{source}: no such file")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def _with_size(image: Image, folder: Path) -> Image:
    """The image with the size of its file if the ground truth has none."""
    if image.width and image.height:
        return image
    height, width = read_image(folder / image.file_name).shape[1:]
    return replace(image, width=width, height=height)


def _sample(
    image: Image, objects: Sequence[Annotation], sides: Sequence[Side], names: dict[int, str]
) -> dict[str, Any]:
    def box(bbox: tuple[float, float, float, float]) -> list[float]:
        x, y, width, height = bbox
        return [x / image.width, y / image.height, width / image.width, height / image.height]

    def verdicts(errors: ImageErrors) -> list[dict[str, Any]]:
        return [
            {
                "label": names[verdict.detection.category_id],
                "bounding_box": box(verdict.detection.bbox),
                "confidence": verdict.detection.score,
                "error": verdict.kind,
            }
            for verdict in errors.verdicts
        ]

    return {
        "file": image.file_name,
        "size": [image.width, image.height],
        "objects": [{"label": names[item.category_id], "bounding_box": box(item.bbox)} for item in objects],
        # Of several seeds, the detections are those of the first, and errors are means.
        "sides": {side.label: verdicts(side.evaluations[0].errors[image.id]) for side in sides},
        "errors": {
            side.label: sum(item.errors[image.id].count for item in side.evaluations) / len(side.evaluations)
            for side in sides
        },
    }


def main() -> None:
    """The child process: reads the specification from stdin, and writes the views' sizes as JSON to stdout."""
    spec = json.load(sys.stdin)
    mongo.shorten_fiftyone_import()
    with redirect_stdout(sys.stderr):  # FiftyOne may print
        sizes = _build(spec)
    print(json.dumps(sizes))  # noqa: T201


def _build(spec: dict[str, Any]) -> dict[str, int]:
    import fiftyone as fo
    from fiftyone import ViewField as F

    dataset = fo.Dataset(NAME, persistent=True, overwrite=True)
    dataset.add_samples([_fiftyone_sample(sample, Path(spec["images"])) for sample in spec["samples"]])
    dataset.default_classes = spec["classes"]
    labels = [side["label"] for side in spec["sides"]]
    colors = {"ground_truth": "#3cb44b"} | {label: _COLORS[index % len(_COLORS)] for index, label in enumerate(labels)}
    dataset.app_config.color_scheme = fo.ColorScheme(
        color_by="field", fields=[{"path": path, "fieldColor": color} for path, color in colors.items()]
    )
    first = labels[0]
    for side in spec["sides"][1:]:
        change = F(f"errors_{side['label']}") - F(f"errors_{first}")
        for word, view in (("better", dataset.match(change < 0)), ("worse", dataset.match(change > 0))):
            ordered = view.sort_by(change, reverse=word == "worse")
            name = f"{side['label']} {word} than {first}"
            dataset.save_view(name, ordered, description=f"{side['title']}, the largest change first")
    # The App serves images of the folders that datasets name.
    dataset.info = {"images": spec["images"], "sides": spec["sides"]}
    dataset.save()
    return {name: len(dataset.load_saved_view(name)) for name in dataset.list_saved_views()}


def _fiftyone_sample(sample: dict[str, Any], images: Path) -> Any:
    import fiftyone as fo

    def detections(records: list[dict[str, Any]]) -> Any:
        return fo.Detections(detections=[fo.Detection(**record) for record in records])

    width, height = sample["size"]
    return fo.Sample(
        filepath=str(images / sample["file"]),
        metadata=fo.ImageMetadata(width=width, height=height),
        ground_truth=detections(sample["objects"]),
        **{label: detections(records) for label, records in sample["sides"].items()},
        **{f"errors_{label}": errors for label, errors in sample["errors"].items()},
    )


if __name__ == "__main__":
    main()
