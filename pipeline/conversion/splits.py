"""Which of a data set's lists are learned from, and which are judged on."""

import re
from collections.abc import Collection
from dataclasses import dataclass

from pipeline.errors import PipelineError

# Where else an image of a split must not be: what is in val and in test was tuned on before the test.
LATER_SPLITS = {"val": ("test",), "train": ("val", "test")}


@dataclass(frozen=True)
class SplitChoice:
    """The data set's own names of its splits. `A+B` means the images of both."""

    train: str
    val: str | None  # None: a share of `train`, by image content
    test: str | None  # None: there is none


def choose_splits(
    names: Collection[str], train: str | None, val: str | None, test: str | None, *, folds: bool = False
) -> SplitChoice:
    """Chooses splits: those asked for by name, and the obvious one for each that is None.

    The obvious pair is train with val (or valid); trainval with test; train with test. A single list is
    learned from and a share of it held out. A test list that isn't judged on already is kept as test.
    With `folds`, val is always a share of train: trainval where there is one, else train.

    Raises:
        PipelineError: a name that the data set doesn't have, one used twice, or no obvious choice.
    """
    for key, asked in (("train", train), ("val", val), ("test", test)):
        _check(names, key, asked)
    kinds = {_kind(name): name for name in sorted(names, reverse=True)}
    free = {kind: name for kind, name in kinds.items() if name not in (train, val, test)}
    train = train or _obvious_train(names, free, val, folds)
    free.pop(_kind(train), None)
    if folds:
        val = None
    elif val is None and _kind(train) == "trainval":
        val = free.get("test")
    elif val is None:
        val = free.get("val") or free.get("test")
    if val is None and not folds and len(set(names) - {train, test}) > 0 and _kind(train) not in ("train", "trainval"):
        raise PipelineError(_unclear(names, "val"))
    test = test or (free.get("test") if free.get("test") != val else None)
    taken = [name for asked in (train, val, test) if asked for name in asked.split("+")]
    if twice := next((name for name in taken if taken.count(name) > 1), None):
        raise PipelineError(f"convert: the split {twice!r} is used twice: train {train}, val {val}, test {test}")
    return SplitChoice(train, val, test)


def _obvious_train(names: Collection[str], free: dict[str, str], val: str | None, folds: bool) -> str:
    judged = folds or (val is not None and _kind(val) == "test")
    order = ("trainval", "train") if judged or ("val" not in free and val is None) else ("train", "trainval")
    found = next((free[kind] for kind in order if kind in free), None)
    if found is None and len(free) == 1:
        found = next(iter(free.values()))
    if found is None:
        raise PipelineError(_unclear(names, "train"))
    return found


def _kind(name: str) -> str:
    """What a list's name says that it is for: `instances_val2017`, `valid` and `VOC2007/val` are all val."""
    plain = re.sub(r"[-_ ]?(19|20)\d\d$", "", name.rsplit("/", 1)[-1].lower())
    return {"valid": "val", "validation": "val", "minival": "val", "dev": "val", "training": "train"}.get(plain, plain)


def _check(names: Collection[str], key: str, asked: str | None) -> None:
    for name in asked.split("+") if asked else []:
        if name not in names:
            raise PipelineError(
                f"convert.{key}: the data set has no split {name!r}; it has {', '.join(sorted(names)) or 'none'}"
            )


def _unclear(names: Collection[str], key: str) -> str:
    shown = ", ".join(sorted(names)) or "none"
    return f"convert.{key}: the data set's splits are {shown}, and none is obvious; name one with -S convert.{key}=NAME"
