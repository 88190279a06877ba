"""Records together with their images: which of them can be used."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pipeline.conversion.exif import is_annotated_rotated, to_stored_pixels
from pipeline.conversion.image_info import UPRIGHT, ImageInfo, Mode, read_images, trust_record
from pipeline.conversion.issues import IssueLog
from pipeline.formats.records import Issue, RawImage, RawSplit


@dataclass(frozen=True, slots=True)
class MatchedRecord:
    """A record with its image, looked at."""

    raw: RawImage
    image_info: ImageInfo


def match_splits(
    folder: Path, splits: Mapping[str, Sequence[RawSplit]], mode: Mode, issue_log: IssueLog
) -> dict[str, list[MatchedRecord]]:
    """The records of each split whose images can be used, by file name; each of the others is a problem.

    A file is looked at once, in however many splits it is.
    """
    owners: dict[str, list[tuple[str, RawImage]]] = defaultdict(list)
    for split, parts in splits.items():
        for record in _usable(split, parts, issue_log):
            owners[record.file].append((split, record))
    seen: dict[str, list[MatchedRecord]] = {split: [] for split in splits}
    for record, split, image_info in _looked(folder, owners, mode):
        if isinstance(image_info, Issue):
            issue_log.act(image_info, split, record.source)
        elif (fitted := _fitted(split, record, image_info, issue_log)) is not None:
            seen[split].append(MatchedRecord(fitted, image_info))
    return seen


def _usable(split: str, parts: Sequence[RawSplit], issue_log: IssueLog) -> Iterable[RawImage]:
    for stray in (stray for part in parts for stray in part.orphan_objects):
        issue_log.act(stray.issue or Issue("missing_image_id", "its image does not exist"), split, stray.source)
    usable: dict[str, RawImage] = {}
    for image in (image for part in parts for image in part.images):
        if image.issue is not None:
            issue_log.act(image.issue, split, image.source)
        elif image.file in usable:
            issue = Issue("duplicate_record", f"{image.file} is already in this split, by {usable[image.file].source}")
            issue_log.act(issue, split, image.source)
        else:
            usable[image.file] = image
    return usable.values()


def _looked(
    folder: Path, owners: Mapping[str, Sequence[tuple[str, RawImage]]], mode: Mode
) -> Iterable[tuple[RawImage, str, ImageInfo | Issue]]:
    files = sorted(owners)
    if mode == "trust":
        yield from ((record, split, trust_record(record)) for file in files for split, record in owners[file])
        return
    with closing(read_images(folder, files, mode)) as looked:  # ends the bar before an error's line
        for file, image_info in zip(files, looked, strict=True):
            yield from ((record, split, image_info) for split, record in owners[file])


def _fitted(split: str, record: RawImage, image_info: ImageInfo, issue_log: IssueLog) -> RawImage | None:
    """The record as it fits its image; None: it is skipped."""
    if is_annotated_rotated(record, image_info):
        issue = Issue("exif_rotated", f"its size and boxes are those of {record.file} as EXIF asks viewers to turn it")
        return to_stored_pixels(record, image_info) if issue_log.act(issue, split, record.source) == "repair" else None
    if image_info.orientation != UPRIGHT:
        issue = Issue("exif_orientation", f"EXIF asks viewers to turn its image {record.file}")
        if issue_log.act(issue, split, record.source) == "skip":
            return None
    if record.declared_size and record.declared_size != (image_info.width, image_info.height):
        declared_size = f"{record.declared_size[0]}×{record.declared_size[1]}"
        issue = Issue(
            "size_mismatch",
            f"it says that its image is {declared_size}, which is {image_info.width}×{image_info.height}",
        )
        return record if issue_log.act(issue, split, record.source) != "skip" else None
    return record
