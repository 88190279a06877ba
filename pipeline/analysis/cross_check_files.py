"""What `fcos cross-check` keeps beside its candidates: the detections of its folds, and which labels it has judged.

The ids of images and annotations in reports/ are those of data/unified at that time. A conversion with corrections
gives out others, so what reads these files asks first whether the labels are still the same.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.data import detections as results
from pipeline.data.detections import Detection
from pipeline.files import atomic_replace, digest, read_json, write_json

FOLDER = "reports/cross_check"  # in it, a file of detections for each split that was judged
_LABELS = "labels.json"  # digest of each split's file in data/unified


def write(home: Path, detections: Mapping[str, Sequence[Detection]]) -> None:
    """Keeps the detections in each split that was judged, for the labels that lie in data/unified of a project."""
    with atomic_replace(home / FOLDER) as folder:
        folder.mkdir()
        for split, found in detections.items():
            results.write(found, folder / f"{split}.json")
        write_json(folder / _LABELS, {split: digest(_labels(home, split)) for split in detections})


def detections_file(home: Path, split: str) -> Path:
    return home / FOLDER / f"{split}.json"


def are_current(home: Path) -> bool:
    """Whether the labels in data/unified are those that were judged; true if nothing is known about them."""
    file = home / FOLDER / _LABELS
    judged: dict[str, str] = read_json(file) if file.is_file() else {}
    return all(_labels(home, split).is_file() and digest(_labels(home, split)) == of for split, of in judged.items())


def _labels(home: Path, split: str) -> Path:
    return home / f"data/unified/{split}.json"
