"""The choice of which published splits become train, val and test."""

import re
from collections.abc import Collection
from dataclasses import dataclass

from pipeline.errors import PipelineError

# By split: the splits that must not share an image with it. Hyperparameters are tuned on val, so test excludes val.
LATER_SPLITS = {"val": ("test",), "train": ("val", "test")}


@dataclass(frozen=True)
class SplitChoice:
    """The published names of the splits. `A+B` means the images of both."""

    train: str
    val: str | None  # None: a share of `train` is held out
    test: str | None  # None: there is none


def choose_splits(
    names: Collection[str], train: str | None, val: str | None, test: str | None, *, folds: bool = False
) -> SplitChoice:
    """Returns the splits given by name, with the obvious one for each that is None.

    Obvious are: train with val (or valid), trainval with test, train with test. If there is only one split, a share of
    it is held out. A split called test becomes test unless it is already val. With `folds`, val is always a share of
    train, which is trainval if the data set has one.

    Raises:
        PipelineError: The data set doesn't have a split, a split is used twice, or no choice is obvious.
    """
    for key, value in (("train", train), ("val", val), ("test", test)):
        _check_exists(names, key, value)
    by_kind = {_kind(name): name for name in sorted(names, reverse=True)}
    free = {kind: name for kind, name in by_kind.items() if name not in (train, val, test)}
    train = train or _obvious_train(names, free, val, folds)
    free.pop(_kind(train), None)
    if folds:
        val = None
    elif val is None and _kind(train) == "trainval":
        val = free.get("test")
    elif val is None:
        val = free.get("val") or free.get("test")
    if val is None and not folds and len(set(names) - {train, test}) > 0 and _kind(train) not in ("train", "trainval"):
        raise PipelineError(_not_obvious(names, "val"))
    test = test or (free.get("test") if free.get("test") != val else None)
    used = [name for choice in (train, val, test) if choice for name in choice.split("+")]
    if repeated := next((name for name in used if used.count(name) > 1), None):
        raise PipelineError(f"convert: the split {repeated!r} is used twice: train {train}, val {val}, test {test}")
    return SplitChoice(train, val, test)


def _obvious_train(names: Collection[str], free: dict[str, str], val: str | None, folds: bool) -> str:
    prefer_trainval = folds or (_kind(val) == "test" if val is not None else "val" not in free)
    kinds = ("trainval", "train") if prefer_trainval else ("train", "trainval")
    train = next((free[kind] for kind in kinds if kind in free), None)
    if train is None and len(free) == 1:
        train = next(iter(free.values()))
    if train is None:
        raise PipelineError(_not_obvious(names, "train"))
    return train


def _kind(name: str) -> str:
    """The purpose that a split's name implies: `instances_val2017`, `valid` and `VOC2007/val` are all val."""
    plain = re.sub(r"[-_ ]?(19|20)\d\d$", "", name.rsplit("/", 1)[-1].lower())
    return {"valid": "val", "validation": "val", "minival": "val", "dev": "val", "training": "train"}.get(plain, plain)


def _check_exists(names: Collection[str], key: str, value: str | None) -> None:
    for name in value.split("+") if value else []:
        if name not in names:
            known = ", ".join(sorted(names)) or "none"
            raise PipelineError(f"convert.{key}: the data set has no split {name!r}; it has {known}")


def _not_obvious(names: Collection[str], key: str) -> str:
    known = ", ".join(sorted(names)) or "none"
    return (
        f"convert.{key}: no obvious choice among the data set's splits ({known}); choose one with -S convert.{key}=NAME"
    )
