"""The checks that `convert` and `fcos validate` share: what each one looks for, and what can be done about it.

A code here is a parameter of `convert.checks` and the code of a `Fault`, whoever finds it: a reader or the conversion.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal

from pipeline.params import ConvertParams

Action = Literal["error", "repair", "skip", "note"]
Fix = Literal["repair", "skip", "note"]
STOPS = "stops the conversion"


@dataclass(frozen=True)
class Check:
    """One thing that can be wrong with a data set."""

    description: str  # what is wrong, in a few words
    fixes: Mapping[Fix, str]  # what may be done instead of stopping, the mildest first: "have it …"
    severity: Literal["error", "warning"] = "error"  # a warning is only noted, unless parameters say more

    @property
    def mildest_fix(self) -> Fix:
        return next(iter(self.fixes))

    def describe(self, action: Action) -> str:
        """What an action means here, for people."""
        return STOPS if action == "error" else self.fixes[action]


_SKIP: Mapping[Fix, str] = {"skip": "skipped"}
_NOTE: Mapping[Fix, str] = {"note": "left as it is"}
_DROP: Mapping[Fix, str] = {"skip": "dropped"}

CHECKS: dict[str, Check] = {
    # Images and their records
    "missing_image": Check("the annotated image is not there", _SKIP),
    "ambiguous_image": Check("several files could be the image", _SKIP),
    "undecodable_image": Check("the file is no image, or none that can be decoded or read", _SKIP),
    "truncated_image": Check("the image file ends too early", _SKIP),
    "size_mismatch": Check(
        "the annotation says another size than the image has",
        {"repair": "taken at the size that the image has", "skip": "skipped"},
    ),
    "exif_rotated": Check(
        "the annotation's size is the image's as EXIF turns it, and so are its boxes",
        {"repair": "turned back to the stored pixels", "skip": "skipped"},
    ),
    "exif_orientation": Check(
        "EXIF asks viewers to turn the image; boxes are taken to refer to the stored pixels",
        {"note": "taken as stored", "skip": "skipped"},
        "warning",
    ),
    "duplicate_record": Check("an image has two records in a split", {"skip": "skipped, the first counts"}),
    "missing_annotation": Check("a list names an image without annotation", _SKIP),
    "invalid_record": Check("a record lacks something, or isn't what its format asks for", _SKIP),
    "invalid_xml": Check("an annotation file is no XML, or unsafe", _SKIP),
    "missing_image_id": Check("an object's image doesn't exist", _DROP),
    "duplicate_id": Check(
        "ids are given twice, not to all, or below 1", {"note": "given a new number, like all of its split"}, "warning"
    ),
    # Boxes
    "non_finite_box": Check("a box has NaN or infinity", _DROP),
    "degenerate_box": Check("a box has no width or no height", _DROP),
    "swapped_corners": Check("a box's corners are swapped", {"repair": "put right", "skip": "dropped"}),
    "tiny_box": Check("a box is one pixel or less across", _DROP),
    "out_of_bounds_box": Check(
        "a box reaches out of its image by more than 1 px", {"repair": "clipped", "skip": "dropped"}
    ),
    "duplicate_box": Check(
        "two boxes of a class in an image are equal",
        {"note": "left as it is", "skip": "dropped, the first counts"},
        "warning",
    ),
    # Classes
    "unknown_class": Check("an object's class is not in the list", _DROP),
    "unused_class": Check("a class has not a single object", _NOTE, "warning"),
    "similar_class_names": Check("names of classes differ in case, accents, blanks or a letter only", _NOTE, "warning"),
    # Splits
    "duplicate_image": Check(
        "two images of a split are, byte for byte, one",
        {"note": "left as they are", "skip": "skipped, the first counts"},
        "warning",
    ),
    "leak": Check(
        "an image of train or val is, byte for byte, in a later split",
        {"repair": "kept in the later split alone", "note": "left in both"},
    ),
    "near_duplicate_leak": Check(
        "an image of train or val looks like one of a later split (perceptual hash)",
        {"note": "left in both", "repair": "kept in the later split alone"},
        "warning",
    ),
    "unbalanced_split": Check("what was held out lacks a class, or is far off its share of it", _NOTE, "warning"),
}


def actions(options: ConvertParams) -> dict[str, Action]:
    """What is done about each code: its own parameter, or where that is `default` what `convert.issues` says."""
    chosen: dict[str, Action] = {}
    for field in fields(options.checks):
        own: Literal["default"] | Action = getattr(options.checks, field.name)
        general: Action = "error" if options.issues == "error" else CHECKS[field.name].mildest_fix
        chosen[field.name] = general if own == "default" else own
    return chosen
