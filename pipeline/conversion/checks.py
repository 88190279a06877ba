"""The checks that `convert` and `fcos validate` share: what each check reports, and which fixes it offers.

Each key of CHECKS is also a parameter in `convert.checks` and the code of an `Issue`, whether a reader or the
conversion reports it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal

from pipeline.params import ConvertParams

Action = Literal["error", "repair", "skip", "note"]
Fix = Literal["repair", "skip", "note"]


@dataclass(frozen=True)
class Check:
    """One kind of issue that a data set can have."""

    description: str
    fixes: Mapping[Fix, str]  # the alternatives to stopping, each with its outcome; the mildest one comes first
    severity: Literal["error", "warning"] = "error"  # a warning is only noted by default
    remedy: str = "correct the data"

    @property
    def mildest_fix(self) -> Fix:
        return next(iter(self.fixes))

    def describe(self, action: Action) -> str:
        """The outcome of an action, as text for people."""
        return "stops the conversion" if action == "error" else self.fixes[action]


_SKIP: Mapping[Fix, str] = {"skip": "skipped"}
_KEEP: Mapping[Fix, str] = {"note": "kept"}
_DROP: Mapping[Fix, str] = {"skip": "dropped"}

CHECKS: dict[str, Check] = {
    # Images and their records
    "missing_image": Check("the annotated image file does not exist", _SKIP),
    "ambiguous_image": Check("several files match the annotated image", _SKIP),
    "undecodable_image": Check("the image file can't be read or decoded", _SKIP),
    "truncated_image": Check("the image file is truncated", _SKIP),
    "oversized_image": Check("the image has more megapixels than convert.max_megapixels", _SKIP),
    "size_mismatch": Check(
        "the annotated size differs from the image's size",
        {"repair": "converted with the image's size", "skip": "skipped"},
    ),
    "exif_rotated": Check(
        "the annotated size and boxes refer to the image after EXIF rotation",
        {"repair": "rotated back to the stored pixels", "skip": "skipped"},
    ),
    "exif_orientation": Check(
        "the image has an EXIF rotation; its boxes are assumed to refer to the stored pixels",
        {"note": "used as stored", "skip": "skipped"},
        "warning",
    ),
    "duplicate_record": Check("an image has two records in one split", {"skip": "second record skipped"}),
    "missing_annotation": Check("a split lists an image that has no annotation", _SKIP),
    "invalid_record": Check("a record is incomplete or does not follow its format", _SKIP),
    "invalid_xml": Check("an annotation file is not XML, or contains unsafe declarations", _SKIP),
    "missing_image_id": Check("an annotation refers to an image that does not exist", _DROP),
    "duplicate_id": Check(
        "ids are missing, used twice or out of range", {"note": "all ids of the split renumbered"}, "warning"
    ),
    # Boxes
    "non_finite_box": Check("a box has NaN or infinite values", _DROP),
    "degenerate_box": Check("a box has zero width or height", _DROP),
    "swapped_corners": Check("a box has swapped corners", {"repair": "corners swapped back", "skip": "dropped"}),
    "tiny_box": Check("a box is at most 1 px wide or high", _DROP),
    "out_of_bounds_box": Check(
        "a box extends more than 1 px beyond its image", {"repair": "clipped", "skip": "dropped"}
    ),
    "duplicate_box": Check(
        "two boxes of one class in an image are identical", {"note": "kept", "skip": "second box dropped"}, "warning"
    ),
    # Classes
    "unknown_class": Check("an object's class is not in the class list", _DROP),
    "different_class_lists": Check("files of the data set list different classes", {"note": "joined by name"}),
    "unused_class": Check("a class has no objects", _KEEP, "warning"),
    "similar_class_names": Check("class names differ only in case, accents, spaces or one letter", _KEEP, "warning"),
    # Splits
    "duplicate_image": Check(
        "two images of one split are byte-for-byte identical",
        {"note": "kept", "skip": "second image skipped"},
        "warning",
    ),
    "leak": Check(
        "a train or val image is byte-for-byte identical to an image of a later split",
        {"repair": "kept in the later split only", "note": "kept in both splits"},
    ),
    "near_duplicate_leak": Check(
        "a train or val image looks like an image of a later split (perceptual hash)",
        {"note": "kept in both splits", "repair": "kept in the later split only"},
        "warning",
    ),
    "unbalanced_split": Check(
        "the held-out images lack a class, or have far too much or little of it", _KEEP, "warning"
    ),
    # Corrections
    "stale_correction": Check(
        "the image or box of a correction is not in the data set", {"skip": "not applied"}, remedy="remove the record"
    ),
}


def resolve_actions(options: ConvertParams) -> dict[str, Action]:
    """The action of each check: that of `convert.checks`, or, if it is `default`, that of `convert.issues`."""
    actions: dict[str, Action] = {}
    for field in fields(options.checks):
        chosen: Literal["default"] | Action = getattr(options.checks, field.name)
        default: Action = "error" if options.issues == "error" else CHECKS[field.name].mildest_fix
        actions[field.name] = default if chosen == "default" else chosen
    return actions
