"""A data set looked at from end to end, in the unified format, with all that was found on the way. Writes nothing."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import formats
from pipeline.conversion import classes
from pipeline.conversion.build_annotations import make_annotation_set
from pipeline.conversion.duplicates import remove_duplicates
from pipeline.conversion.holdout import HoldOut, check_groups, hold_out_images
from pipeline.conversion.issues import SKIPPED_OBJECTS, IssueLog
from pipeline.conversion.match_images import MatchedRecord, match_splits
from pipeline.conversion.splits import choose_splits
from pipeline.data.annotations import AnnotationSet
from pipeline.errors import count_noun
from pipeline.formats.records import RawDataset, RawSplit
from pipeline.params import ConvertParams

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Survey:
    """A data set in the unified format, not yet written, and all that was found on the way."""

    format: str
    source: dict[str, str]  # by split: the data set's own name of what it was made from
    splits: dict[str, AnnotationSet]
    issue_log: IssueLog
    hold_out: HoldOut | None  # None: the data set's own splits
    unused_splits: tuple[str, ...]
    unused_image_files: int

    def obstacles(self) -> Iterator[str]:
        """A line for each split that nothing can be learned from, or judged on."""
        for split, found in self.splits.items():
            if not found.images:
                yield f"{split} has no images{self._way_out(split)}"
            elif split != "test" and not found.annotations:
                yield f"{split} has {count_noun(len(found.images), 'image')} and not one object"

    def _way_out(self, split: str) -> str:
        moved = any(one.split == split and one.code in ("leak", "near_duplicate_leak") for one in self.issue_log.issues)
        if moved:
            return " of its own: all are in a later split too (convert.checks.leak)"
        if self.hold_out is None or split == "test":
            return f"; choose another one with -S convert.{split}=NAME"
        if self.hold_out.better_seed is not None:
            return f"; -S convert.split_seed={self.hold_out.better_seed} draws better"
        number = "fewer convert.folds" if self.hold_out.folds else "another convert.val_fraction"
        return f"; it takes {number} or more images"

    def report(self) -> dict[str, Any]:
        """As report.json has it."""
        return {
            "format": self.format,
            "images": self.issue_log.options.image_check,
            "splits": {split: _summary(self.source[split], found) for split, found in self.splits.items()},
            "hold_out": self.hold_out and self.hold_out.report(),
            "unused_splits": list(self.unused_splits),
            "unused_image_files": self.unused_image_files,
            **self.issue_log.report(),
        }


def survey(raw: Path, options: ConvertParams, format: str = "auto", *, stops: bool = True) -> Survey:
    """Reads the data set in the folder `raw` and does with each problem what `options` say.

    With `stops` false, what `options` call an error is listed like the rest and treated by the mildest mend there is,
    so that one look finds everything.

    Raises:
        PipelineError: the data set can't be read, or (if `stops`) has a problem that is an error.
    """
    name, dataset = _read(raw, format)
    return survey_records(raw, name, dataset, options, stops=stops)


def survey_records(raw: Path, name: str, dataset: RawDataset, options: ConvertParams, *, stops: bool = True) -> Survey:
    """The same of records that have been read already."""
    issue_log = IssueLog(options, stops)
    choice = choose_splits(dataset.splits, options.train, options.val, options.test, folds=bool(options.folds))
    names = {split: own for split in SPLITS if (own := getattr(choice, split)) is not None}
    parts = {split: [dataset.splits[own] for own in asked.split("+")] for split, asked in names.items()}
    seen = match_splits(raw, parts, options.image_check, issue_log)
    _note_lost(parts.values(), seen, issue_log)
    used = _files(seen)
    categories = classes.chosen(dataset.categories, options.classes)
    hold_out = None
    if choice.val is None:
        hold_out, seen["train"], seen["val"] = hold_out_images(seen["train"], categories, options, issue_log)
    seen = remove_duplicates({split: seen[split] for split in SPLITS if split in seen}, options.image_check, issue_log)
    if options.group_pattern:
        check_groups(seen, options.group_pattern, issue_log)
    splits = {split: make_annotation_set(split, found, categories, issue_log) for split, found in seen.items()}
    classes.check(categories, splits.values(), issue_log)
    drawn = f"fold {options.fold} of {options.folds}" if options.folds else "a share"
    source = {split: names.get(split) or f"{drawn} of {choice.train}" for split in splits}
    unused = _unused(dataset.splits, names.values())
    return Survey(name, source, splits, issue_log, hold_out, unused, dataset.files - len(used))


def survey_original_splits(raw: Path, options: ConvertParams, format: str = "auto", *, stops: bool = True) -> Survey:
    """Every split of the data set by its own name, none held out, no leak looked for or removed.

    Raises:
        PipelineError: as `survey`.
    """
    name, dataset = _read(raw, format)
    issue_log = IssueLog(options, stops)
    parts = {own: [found] for own, found in dataset.splits.items()}
    seen = match_splits(raw, parts, options.image_check, issue_log)
    _note_lost(parts.values(), seen, issue_log)
    categories = classes.chosen(dataset.categories, options.classes)
    splits = {split: make_annotation_set(split, found, categories, issue_log) for split, found in seen.items()}
    classes.check(categories, splits.values(), issue_log)
    return Survey(
        name, {split: split for split in splits}, splits, issue_log, None, (), dataset.files - len(_files(seen))
    )


def _read(raw: Path, format: str) -> tuple[str, RawDataset]:
    name = formats.recognize(raw) if format == "auto" else format
    return name, formats.read(raw, name)


def _files(seen: dict[str, list[MatchedRecord]]) -> set[str]:
    return {item.raw.file for found in seen.values() for item in found}


def _note_lost(parts: Iterable[Sequence[RawSplit]], seen: dict[str, list[MatchedRecord]], issue_log: IssueLog) -> None:
    """A record counts once, in however many of the data set's lists it is."""
    kept = {item.raw.source for found in seen.values() for item in found}
    records = (image for found in parts for part in found for image in part.images)
    lost = {image.source: len(image.objects) for image in records if image.source not in kept}
    issue_log.note(SKIPPED_OBJECTS, sum(lost.values()))


def _unused(own: Collection[str], names: Collection[str]) -> tuple[str, ...]:
    used = {name for asked in names for name in asked.split("+")}
    return tuple(name for name in own if name not in used)


def _summary(source: str, annotations: AnnotationSet) -> dict[str, Any]:
    names = {category.id: category.name for category in annotations.categories}
    objects = Counter(names[item.category_id] for item in annotations.annotations)
    with_objects = {item.image_id for item in annotations.annotations}
    return {
        "source": source,
        "images": len(annotations.images),
        "images_without_objects": len(annotations.images) - len(with_objects),
        "objects": len(annotations.annotations),
        "difficult": sum(item.difficult for item in annotations.annotations),
        "crowds": sum(item.iscrowd for item in annotations.annotations),
        "classes": {name: objects[name] for name in names.values()},
    }
