"""The conversion of a data set in memory: its splits in the unified format, with all issues. No file is written."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline import formats
from pipeline.conversion import classes
from pipeline.conversion.apply_corrections import apply_corrections
from pipeline.conversion.build_annotations import build_annotation_set
from pipeline.conversion.duplicates import remove_duplicates
from pipeline.conversion.holdout import HoldOut, check_groups, hold_out_images
from pipeline.conversion.issues import SKIPPED_OBJECTS, IssueLog
from pipeline.conversion.match_images import MatchedRecord, match_splits
from pipeline.conversion.splits import LATER_SPLITS, choose_splits, set_option
from pipeline.data.annotations import AnnotationSet
from pipeline.errors import PipelineError, count_noun
from pipeline.formats.records import RawDataset, RawSplit
from pipeline.params import ConvertParams

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Survey:
    """A data set in the unified format, before it is written, with its issues."""

    format: str
    sources: dict[str, str]  # by split: the published split, or the share of one, that it comes from
    splits: dict[str, AnnotationSet]
    issue_log: IssueLog
    hold_out: HoldOut | None  # None: the published splits are used
    unused_splits: tuple[str, ...]
    unused_image_files: int
    copies: tuple[str, ...] = ()  # a line for each split whose images are all in later splits as well
    corrections: dict[str, Any] | None = None  # what was corrected; None: there is no file of corrections

    def obstacles(self) -> Iterator[str]:
        """One line for each split that can't be used for training or evaluation."""
        yield from self.copies
        for name, split in self.splits.items():
            if not split.images and self.copies:
                continue
            if not split.images:
                yield f"{name} has no images{self._remedy(name)}"
            elif name != "test" and not split.objects:
                yield f"{name} has {count_noun(len(split.images), 'image')} and no objects"

    def _remedy(self, split: str) -> str:
        leaks = ("leak", "near_duplicate_leak")
        if any(issue.split == split and issue.code in leaks for issue in self.issue_log.issues):
            return " left: all of them are or look like images of a later split (convert.checks.near_duplicate_leak)"
        if self.hold_out is None or split == "test":
            other = ", or -S convert.val=null to hold out a share of train" if split == "val" else ""
            return f"; choose another split with -S convert.{split}=NAME{other}"
        if self.hold_out.better_seed is not None:
            return f"; -S convert.split_seed={self.hold_out.better_seed} is more balanced"
        parameter = "reduce convert.folds" if self.hold_out.folds else "change convert.val_fraction"
        return f"; {parameter}, or add images"

    def report(self) -> dict[str, Any]:
        """The content of report.json."""
        return {
            "format": self.format,
            "image_check": self.issue_log.options.image_check,
            "splits": {name: _summary(self.sources[name], split) for name, split in self.splits.items()},
            "hold_out": self.hold_out and asdict(self.hold_out),
            "unused_splits": list(self.unused_splits),
            "unused_image_files": self.unused_image_files,
            "corrections": self.corrections,
            **self.issue_log.report(),
        }


def survey(
    raw: Path, options: ConvertParams, format: str = "auto", *, stops: bool = True, corrections: Path | None = None
) -> Survey:
    """Reads the data set in the folder `raw`, handles each issue as `options` say, and applies a file of corrections.

    With `stops` false, errors are logged like other issues and their mildest fix is applied, so that one run finds all
    issues.

    Raises:
        PipelineError: The data set can't be read, or (if `stops`) has an issue that counts as an error.
    """
    return survey_records(raw, formats.read(raw, format), options, stops=stops, corrections=corrections)


def survey_records(
    raw: Path,
    dataset: RawDataset,
    options: ConvertParams,
    *,
    stops: bool = True,
    corrections: Path | None = None,
) -> Survey:
    """Like `survey`, for records that have already been read."""
    issue_log = IssueLog(options, stops, remarks=list(dataset.remarks))
    if options.classes is None:  # else a person has decided
        for source, issue in dataset.issues:
            issue_log.handle(issue, None, source)
    dataset = classes.select_classes(dataset, options.classes)
    images = {name: {record.file or record.source for record in split.images} for name, split in dataset.splits.items()}
    choice = choose_splits(images, options.train, options.val, options.test, folds=bool(options.folds))
    issue_log.remarks += choice.remarks
    names = {split: name for split in SPLITS if (name := getattr(choice, split)) is not None}
    parts = {split: [dataset.splits[part] for part in name.split("+")] for split, name in names.items()}
    matched = _match(raw, parts, issue_log)
    for split in ("val", "test"):
        if split in names and not matched[split] and not getattr(options, split):
            issue_log.remarks.append(f"{split}: split {names.pop(split)} has no usable images and is left out")
            del matched[split]
    unused_image_files = dataset.num_image_files - _count_files(matched)
    categories = dataset.categories
    hold_out = None
    if "val" not in names:
        hold_out, matched["train"], matched["val"] = hold_out_images(matched["train"], categories, options, issue_log)
    matched = {split: matched[split] for split in SPLITS if split in matched}
    copies = list(_describe_copies(matched, names, issue_log))
    if stops and copies:
        raise PipelineError(copies[0])
    matched = remove_duplicates(matched, options.image_check, issue_log)
    if options.group_pattern:
        check_groups(matched, options.group_pattern, issue_log)
    splits = {split: build_annotation_set(split, items, categories, issue_log) for split, items in matched.items()}
    splits, applied = _apply(corrections, splits, dataset, issue_log)
    classes.check_classes(categories, splits.values(), issue_log)
    share = f"fold {options.fold} of {options.folds}" if options.folds else "a share"
    sources = {split: names.get(split) or f"{share} of {choice.train}" for split in splits}
    unused_splits = _unused_splits(dataset.splits, names.values())
    return Survey(
        dataset.format, sources, splits, issue_log, hold_out, unused_splits, unused_image_files, tuple(copies), applied
    )


def survey_original_splits(
    raw: Path, options: ConvertParams, format: str = "auto", *, stops: bool = True, corrections: Path | None = None
) -> Survey:
    """Like `survey`, with all published splits under their own names, no hold-out, and no search for duplicates.

    Raises:
        PipelineError: As `survey` does.
    """
    dataset = classes.select_classes(formats.read(raw, format), options.classes)
    issue_log = IssueLog(options, stops, remarks=list(dataset.remarks))
    matched = _match(raw, {split: [part] for split, part in dataset.splits.items()}, issue_log)
    categories = dataset.categories
    splits = {split: build_annotation_set(split, items, categories, issue_log) for split, items in matched.items()}
    splits, applied = _apply(corrections, splits, dataset, issue_log)
    classes.check_classes(categories, splits.values(), issue_log)
    unused_image_files = dataset.num_image_files - _count_files(matched)
    sources = {split: split for split in splits}
    return Survey(dataset.format, sources, splits, issue_log, None, (), unused_image_files, corrections=applied)


def _apply(
    corrections: Path | None, splits: dict[str, AnnotationSet], dataset: RawDataset, issue_log: IssueLog
) -> tuple[dict[str, AnnotationSet], dict[str, Any] | None]:
    if corrections is None:
        return splits, None
    known_images = {record.file for split in dataset.splits.values() for record in split.images}
    return apply_corrections(splits, corrections, known_images, issue_log)


def _match(raw: Path, parts: Mapping[str, Sequence[RawSplit]], issue_log: IssueLog) -> dict[str, list[MatchedRecord]]:
    matched = match_splits(raw, parts, issue_log.options.image_check, issue_log)
    _note_skipped_objects(parts.values(), matched, issue_log)
    return matched


def _count_files(matched: Mapping[str, Sequence[MatchedRecord]]) -> int:
    return len({item.record.file for items in matched.values() for item in items})


def _note_skipped_objects(
    parts: Iterable[Sequence[RawSplit]], matched: Mapping[str, Sequence[MatchedRecord]], issue_log: IssueLog
) -> None:
    """Counts the objects of skipped images. A record counts once, even if several splits contain it."""
    kept = {item.record.source for items in matched.values() for item in items}
    records = (record for splits in parts for split in splits for record in split.images)
    skipped = {record.source: record.objects for record in records if record.source not in kept}
    count = sum(not item.iscrowd for objects in skipped.values() for item in objects)
    issue_log.add_note(SKIPPED_OBJECTS, count)


def _describe_copies(
    matched: Mapping[str, Sequence[MatchedRecord]], names: Mapping[str, str], issue_log: IssueLog
) -> Iterator[str]:
    """A line for each split whose images are all, byte for byte, in later splits: nothing of it would be left."""
    if issue_log.actions["leak"] == "note":
        return
    digests = {split: {item.image_info.digest for item in items} for split, items in matched.items()}
    for split, later_splits in LATER_SPLITS.items():
        own = digests.get(split, set())
        later = [name for name in later_splits if own & digests.get(name, set())]
        if (
            own
            and split in names
            and all(name in names for name in later)
            and own <= set().union(*(digests[name] for name in later))
        ):
            joined = "+".join(names[name] for name in (split, *later))
            reset = "".join(f" -S convert.{name}=null" for name in later if getattr(issue_log.options, name))
            yield (
                f"{split} has no images of its own: all of them are also in {' and '.join(later)}; "
                f"{set_option(f'convert.{split}', joined)}{reset} uses them as one split"
            )


def _unused_splits(published: Collection[str], choices: Collection[str]) -> tuple[str, ...]:
    used = {name for choice in choices for name in choice.split("+")}
    return tuple(name for name in published if name not in used)


def _summary(source: str, split: AnnotationSet) -> dict[str, Any]:
    names = {category.id: category.name for category in split.categories}
    objects = Counter(names[annotation.category_id] for annotation in split.objects)
    with_objects = {annotation.image_id for annotation in split.objects}
    return {
        "source": source,
        "images": len(split.images),
        "images_without_objects": len(split.images) - len(with_objects),
        "objects": len(split.objects),
        "difficult": sum(annotation.difficult for annotation in split.annotations),
        "crowds": split.num_crowds,
        "classes": {name: objects[name] for name in names.values()},
    }
