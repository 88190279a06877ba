"""A whole data set, its own splits as they are, in the unified format: for handing on, not for learning from."""

from dataclasses import dataclass
from pathlib import Path

from pipeline import formats
from pipeline.annotations import AnnotationSet
from pipeline.conversion import _add, _annotations, _seen
from pipeline.conversion.problems import Ledger
from pipeline.params import ConvertParams


@dataclass(frozen=True)
class Whole:
    format: str
    splits: dict[str, AnnotationSet]  # by the data set's own names
    ledger: Ledger


def own_splits(raw: Path, options: ConvertParams, format: str = "auto") -> Whole:
    """Reads the data set in the folder `raw`, and checks all but its splits: trainval may hold what train does.

    Raises:
        PipelineError: the data set can't be read or has a problem that is an error.
    """
    name = formats.recognise(raw) if format == "auto" else format
    dataset = formats.read(raw, name)
    ledger = Ledger(strict=options.problems == "error")
    splits = {}
    for split, found in dataset.splits.items():
        for stray in found.orphans:
            _add(ledger, stray.fault, split, stray.where, "dropped")
        seen = list(_seen(raw, split, found.images, ledger))
        splits[split] = _annotations(split, seen, dataset.categories, ledger)
    return Whole(name, splits, ledger)
