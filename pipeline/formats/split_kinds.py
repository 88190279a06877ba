"""What a split's name says about its purpose."""

import re
from typing import Literal

Kind = Literal["train", "val", "trainval", "test"]

_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[^\W\d_]+")  # customTrain, TRAIN, train2017
_NOUN = re.compile(r"(?<=...)(set|data|images|imgs)$")  # trainset
_KINDS: dict[str, Kind] = {
    "train": "train", "training": "train", "trn": "train",
    "val": "val", "valid": "val", "validation": "val", "minival": "val", "eval": "val", "evaluation": "val",
    "trainval": "trainval",
    "test": "test", "testing": "test", "tst": "test",
}  # fmt: skip
_WEAK_KINDS: dict[str, Kind] = {"dev": "val"}  # COCO's test-dev is a test split


def split_kind(name: str) -> Kind | None:
    """The purpose that a split's name implies, by its last part that implies any; None if none does.

    `instances_val2017`, `valid`, `customVal` and `VOC2007/val` are all val.
    """
    return next((kind for part in reversed(name.split("/")) if (kind := _part_kind(part))), None)


def has_plain_name(name: str) -> bool:
    """Whether a split is called by its purpose alone, such as `train`, `valid` or `val2017`."""
    return name.rsplit("/", 1)[-1].lower().rstrip("0123456789_- ") in _KINDS


def _part_kind(part: str) -> Kind | None:
    words = [_NOUN.sub("", word.lower()) for word in _WORD.findall(part)]
    kinds = {_KINDS[word] for word in words if word in _KINDS} or {
        _WEAK_KINDS[word] for word in words if word in _WEAK_KINDS
    }
    if kinds == {"train", "val"}:
        return "trainval"
    return kinds.pop() if len(kinds) == 1 else None
