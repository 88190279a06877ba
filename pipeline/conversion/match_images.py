"""Records together with their images: which of them can be used."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pipeline.conversion.exif import drawn_on_turned, turned_back
from pipeline.conversion.images import UPRIGHT, Look, Mode, looks, trusted
from pipeline.conversion.issues import Ledger
from pipeline.formats.records import Fault, RawImage, RawSplit


@dataclass(frozen=True, slots=True)
class Seen:
    """A record with its image, looked at."""

    raw: RawImage
    look: Look


def seen_splits(
    folder: Path, splits: Mapping[str, Sequence[RawSplit]], mode: Mode, ledger: Ledger
) -> dict[str, list[Seen]]:
    """The records of each split whose images can be used, by file name; each of the others is a problem.

    A file is looked at once, in however many splits it is.
    """
    owners: dict[str, list[tuple[str, RawImage]]] = defaultdict(list)
    for split, parts in splits.items():
        for record in _usable(split, parts, ledger):
            owners[record.file].append((split, record))
    seen: dict[str, list[Seen]] = {split: [] for split in splits}
    for record, split, look in _looked(folder, owners, mode):
        if isinstance(look, Fault):
            ledger.act(look, split, record.where)
        elif (fitted := _fitted(split, record, look, ledger)) is not None:
            seen[split].append(Seen(fitted, look))
    return seen


def _usable(split: str, parts: Sequence[RawSplit], ledger: Ledger) -> Iterable[RawImage]:
    for stray in (stray for part in parts for stray in part.orphans):
        ledger.act(stray.fault or Fault("missing_image_id", "its image does not exist"), split, stray.where)
    usable: dict[str, RawImage] = {}
    for image in (image for part in parts for image in part.images):
        if image.fault is not None:
            ledger.act(image.fault, split, image.where)
        elif image.file in usable:
            fault = Fault("duplicate_record", f"{image.file} is already in this split, by {usable[image.file].where}")
            ledger.act(fault, split, image.where)
        else:
            usable[image.file] = image
    return usable.values()


def _looked(
    folder: Path, owners: Mapping[str, Sequence[tuple[str, RawImage]]], mode: Mode
) -> Iterable[tuple[RawImage, str, Look | Fault]]:
    files = sorted(owners)
    if mode == "trust":
        yield from ((record, split, trusted(record)) for file in files for split, record in owners[file])
        return
    with closing(looks(folder, files, mode)) as looked:  # ends the bar before an error's line
        for file, look in zip(files, looked, strict=True):
            yield from ((record, split, look) for split, record in owners[file])


def _fitted(split: str, record: RawImage, look: Look, ledger: Ledger) -> RawImage | None:
    """The record as it fits its image; None: it is skipped."""
    if drawn_on_turned(record, look):
        fault = Fault("exif_rotated", f"its size and boxes are those of {record.file} as EXIF asks viewers to turn it")
        return turned_back(record, look) if ledger.act(fault, split, record.where) == "repair" else None
    if look.orientation != UPRIGHT:
        fault = Fault("exif_orientation", f"EXIF asks viewers to turn its image {record.file}")
        if ledger.act(fault, split, record.where) == "skip":
            return None
    if record.declared and record.declared != (look.width, look.height):
        declared = f"{record.declared[0]}×{record.declared[1]}"
        fault = Fault("size_mismatch", f"it says that its image is {declared}, which is {look.width}×{look.height}")
        return record if ledger.act(fault, split, record.where) != "skip" else None
    return record
