"""Matching of records with their image files: which records can be used."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pipeline.conversion.exif import is_annotated_rotated, to_stored_pixels
from pipeline.conversion.image_info import ImageCheck, ImageInfo, read_image_infos, trust_record
from pipeline.conversion.issues import IssueLog
from pipeline.data.image_files import UPRIGHT, PixelLimit
from pipeline.formats.records import Issue, RawImage, RawSplit


@dataclass(frozen=True, slots=True)
class MatchedRecord:
    """A record whose image file can be used."""

    record: RawImage
    image_info: ImageInfo


def match_splits(
    folder: Path, splits: Mapping[str, Sequence[RawSplit]], image_check: ImageCheck, issue_log: IssueLog
) -> dict[str, list[MatchedRecord]]:
    """The usable records of each split, sorted by file name; the others are logged as issues.

    Each image file is read once, even if several splits use it.
    """
    by_file: dict[str, list[tuple[str, RawImage]]] = defaultdict(list)
    for split, parts in splits.items():
        for record in _valid_records(split, parts, issue_log):
            by_file[record.file].append((split, record))
    matched: dict[str, list[MatchedRecord]] = {split: [] for split in splits}
    for record, split, info in _read_infos(folder, by_file, image_check, issue_log):
        if isinstance(info, Issue):
            issue_log.handle(info, split, record.source)
        elif (reconciled := _reconcile(split, record, info, issue_log)) is not None:
            matched[split].append(MatchedRecord(reconciled, info))
    return matched


def _valid_records(split: str, parts: Sequence[RawSplit], issue_log: IssueLog) -> Iterable[RawImage]:
    for orphan in (orphan for part in parts for orphan in part.orphan_objects):
        issue = orphan.issue or Issue("missing_image_id", "the annotation's image does not exist")
        issue_log.handle(issue, split, orphan.source)
    valid: dict[str, RawImage] = {}
    part_of: dict[str, int] = {}
    for number, record in ((number, record) for number, part in enumerate(parts) for record in part.images):
        if record.issue is not None:
            issue_log.handle(record.issue, split, record.source)
        elif part_of.setdefault(record.file, number) != number and _has_same_objects(record, valid[record.file]):
            issue_log.add_note("images that several of the joined splits contain, used once")
        elif record.file in valid:
            message = f"{record.file} is already in this split: {valid[record.file].source}"
            issue_log.handle(Issue("duplicate_record", message), split, record.source)
        else:
            valid[record.file] = record
    return valid.values()


def _has_same_objects(record: RawImage, other: RawImage) -> bool:
    objects, others = (
        [(item.class_name, item.box, item.iscrowd, item.difficult, item.issue) for item in image.objects]
        for image in (record, other)
    )
    return objects == others


def _read_infos(
    folder: Path,
    by_file: Mapping[str, Sequence[tuple[str, RawImage]]],
    image_check: ImageCheck,
    issue_log: IssueLog,
) -> Iterable[tuple[RawImage, str, ImageInfo | Issue]]:
    """Each record with its split and the ImageInfo of its file."""
    files, limit = sorted(by_file), PixelLimit(issue_log.options.max_megapixels)
    if image_check == "trust":
        yield from ((record, split, trust_record(record, limit)) for file in files for split, record in by_file[file])
        return
    with closing(
        read_image_infos(folder, files, image_check, limit)
    ) as infos:  # ends the progress bar before an error line
        for file, info in zip(files, infos, strict=True):
            if isinstance(info, ImageInfo) and info.value_range:
                issue_log.add_note(f"images of more than 8 bits per channel, values {info.value_range} as 0…255")
            yield from ((record, split, info) for split, record in by_file[file])


def _reconcile(split: str, record: RawImage, info: ImageInfo, issue_log: IssueLog) -> RawImage | None:
    """The record with the size and orientation of its image; None if it is skipped."""
    if is_annotated_rotated(record, info):
        issue = Issue("exif_rotated", f"size and boxes refer to {record.file} after EXIF rotation")
        return to_stored_pixels(record, info) if issue_log.handle(issue, split, record.source) == "repair" else None
    if info.orientation != UPRIGHT:
        issue = Issue("exif_orientation", f"image {record.file} has an EXIF rotation")
        if issue_log.handle(issue, split, record.source) == "skip":
            return None
    if record.declared_size and record.declared_size != (info.width, info.height):
        width, height = record.declared_size
        issue = Issue("size_mismatch", f"annotated size {width}×{height}, but the image is {info.width}×{info.height}")
        return record if issue_log.handle(issue, split, record.source) != "skip" else None
    return record
