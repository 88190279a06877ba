"""Application of corrections to a data set whose images have been checked, repaired and divided into splits.

The splits don't depend on corrections: those of a data set without splits are chosen by its objects as published, so
that a corrected box moves no image from one split to another.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.conversion.build_annotations import make_annotation, usable_objects
from pipeline.conversion.corrections import Correction, Labelled, read, rounded
from pipeline.conversion.issues import IssueLog
from pipeline.data.annotations import Annotation, AnnotationSet, Image
from pipeline.formats.records import Issue, RawObject


@dataclass
class _Outcomes:
    """What became of each correction, by its position. An image may be in several splits."""

    seen: set[int] = field(default_factory=set)  # the image is in a split
    excluded: set[int] = field(default_factory=set)  # of an image that another correction excludes
    applied: set[int] = field(default_factory=set)
    already: set[int] = field(default_factory=set)  # the data set is as the correction says


def apply_corrections(
    splits: Mapping[str, AnnotationSet], path: Path, known_images: Set[str], issue_log: IssueLog
) -> tuple[dict[str, AnnotationSet], dict[str, Any] | None]:
    """The splits with the corrections in a file, and the part of report.json on them, which is None without a file.

    Args:
        known_images: file names of all images of the data set, in a split or not.

    Raises:
        PipelineError: the file is invalid, or an issue counts as an error: the image or box of a correction is gone.
    """
    if not path.exists():
        return dict(splits), None
    corrections, outcomes = read(path), _Outcomes()
    in_project = path.parts[-3:-1] == ("data", "corrections")
    source = "/".join(path.parts[-3:]) if in_project else str(path)  # the report has no path of this machine
    by_image: dict[str, list[tuple[int, Correction]]] = defaultdict(list)
    for number, correction in enumerate(corrections):
        by_image[correction.file_name].append((number, correction))
    corrected = {
        name: _correct_split(name, split, by_image, source, outcomes, issue_log) for name, split in splits.items()
    }
    unused = _handle_stale(corrections, known_images, outcomes, source, issue_log)
    counts = Counter(corrections[number].action for number in outcomes.applied)
    return corrected, {
        "file": source,
        "applied": dict(sorted(counts.items())),
        "already_in_data_set": len(outcomes.already - outcomes.applied),
        "of_excluded_images": len(outcomes.excluded),
        "of_unused_images": unused,
    }


def _handle_stale(
    corrections: Sequence[Correction],
    known_images: Set[str],
    outcomes: _Outcomes,
    source: str,
    issue_log: IssueLog,
) -> int:
    """Logs each correction whose image or box is gone; returns how many belong to images that no split uses."""
    unused = 0
    done = outcomes.applied | outcomes.already | outcomes.excluded
    for number, correction in enumerate(corrections):
        if number in done:
            continue
        if number not in outcomes.seen and correction.file_name in known_images:
            unused += 1
            continue
        what = "the image has no such box" if number in outcomes.seen else "the data set has no such image"
        issue_log.handle(Issue("stale_correction", what), None, f"{source}: {correction}")
    return unused


def _correct_split(
    name: str,
    split: AnnotationSet,
    by_image: Mapping[str, Sequence[tuple[int, Correction]]],
    source: str,
    outcomes: _Outcomes,
    issue_log: IssueLog,
) -> AnnotationSet:
    if not any(image.file_name in by_image for image in split.images):
        return split
    images, annotations, groups = [], [], split.by_image()
    next_id = 1 + max((item.id for item in split.annotations), default=0)
    for image in split.images:
        corrections = by_image.get(image.file_name, ())
        outcomes.seen |= {number for number, _ in corrections}
        if excluding := {number for number, correction in corrections if correction.action == "exclude"}:
            outcomes.applied |= excluding
            outcomes.excluded |= {number for number, _ in corrections} - excluding
            continue
        images.append(image)
        work = _ImageCorrection(name, split, image, groups[image.id], source, outcomes, issue_log)
        corrected = work.apply(corrections, next_id) if corrections else groups[image.id]
        next_id = max([next_id, *(item.id + 1 for item in corrected)])
        annotations += corrected
    return replace(split, images=tuple(images), annotations=tuple(annotations))


@dataclass
class _ImageCorrection:
    split_name: str
    split: AnnotationSet
    image: Image
    annotations: list[Annotation]
    source: str
    outcomes: _Outcomes
    issue_log: IssueLog

    def apply(self, corrections: Iterable[tuple[int, Correction]], next_id: int) -> list[Annotation]:
        """The image's annotations, corrected, and then the added ones with ids from `next_id` on."""
        pool = self._positions_by_label()
        result: list[Annotation | None] = list(self.annotations)
        for number, correction in sorted(corrections, key=lambda item: item[1].action == "add"):
            before, after = correction.before, correction.after
            positions = pool[before] if before else []
            if positions:
                # Of several equal boxes, the last is removed, and the first is changed.
                position = positions.pop(-1 if after is None else 0)
                result[position] = self._correct(correction, self.annotations[position])
            elif after is not None and pool[after]:
                self.outcomes.already.add(number)
                continue
            elif before is None:
                result.append(self._add(correction, next_id))
                next_id += 1
            else:
                continue
            self.outcomes.applied.add(number)
        return [item for item in result if item is not None]

    def _positions_by_label(self) -> dict[Labelled, list[int]]:
        names = {category.id: category.name for category in self.split.categories}
        pool: dict[Labelled, list[int]] = defaultdict(list)
        for position, item in enumerate(self.annotations):
            pool[Labelled(names[item.category_id], rounded(item.bbox))].append(position)
        return pool

    def _correct(self, correction: Correction, item: Annotation) -> Annotation | None:
        after = correction.after
        if after is None:
            return None
        moved = correction.new_bbox is not None
        raw = RawObject(
            f"{self.source}: {correction}",
            after.category,
            after.bbox if moved else item.bbox,
            area=None if moved else item.area,  # a mask's area is unknown for another box
            iscrowd=item.iscrowd,
            difficult=item.difficult,
        )
        return self._check(raw, item.id)

    def _add(self, correction: Correction, id: int) -> Annotation | None:
        assert correction.after is not None
        raw = RawObject(f"{self.source}: {correction}", correction.after.category, correction.after.bbox)
        return self._check(raw, id)

    def _check(self, raw: RawObject, id: int) -> Annotation | None:
        """The annotation with this id, whose box and class were checked as all others are."""
        ids = {category.name: category.id for category in self.split.categories}
        usable = usable_objects(self.split_name, [raw], self.image, ids, self.issue_log)
        return make_annotation(id, self.image.id, usable[0]) if usable else None
