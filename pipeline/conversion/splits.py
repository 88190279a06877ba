"""The choice of which published splits become train, val and test."""

import re
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field

from pipeline.errors import PipelineError, count_noun
from pipeline.formats.split_kinds import Kind, has_plain_name, split_kind

# By split: the splits that must not share an image with it. Hyperparameters are tuned on val, so test excludes val.
LATER_SPLITS = {"val": ("test",), "train": ("val", "test")}
# Anything else, or a number, would be another value to the shell, to DVC or to YAML.
_UNQUOTED = re.compile(r"(?!(true|false|null|inf|nan|yes|no|on|off)$)[A-Za-z_][\w./+-]*", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class SplitChoice:
    """The published names of the splits. `A+B` means the images of both."""

    train: str
    val: str | None  # None: a share of `train` is held out
    test: str | None  # None: there is none
    remarks: tuple[str, ...] = field(default=(), compare=False)  # lines for people on choices that aren't obvious


def choose_splits(
    images: Mapping[str, Set[str]], train: str | None, val: str | None, test: str | None, *, folds: bool = False
) -> SplitChoice:
    """Returns the splits given by name, with the obvious one for each that is None.

    Obvious are: train with val (or valid), trainval with test, train with test. Several splits of one kind are joined,
    and so are those whose names imply nothing, as train. If there is only one split, a share of it is held out. A split
    called test becomes test unless it is already val. With `folds`, val is always a share of train, which is trainval
    if the data set has one. Splits without images, or with the same images as train, are no obvious choice.

    Args:
        images: The images of each split by its published name.

    Raises:
        PipelineError: The data set doesn't have a split, a split is used twice, or no choice is obvious.
    """
    _check_exist(images, {"train": train, "val": val, "test": test})
    chooser = _Chooser(images, _parts(train, val, test))
    train = train or chooser.choose_train(val, folds=folds)
    if val is not None and not folds:
        _check_differs(images, train, val)
    if folds:
        val = None
    elif val is None:
        val = chooser.choose_later("val", train, ("test",) if _kind(train) == "trainval" else ("val", "test"))
        unused = chooser.find_unused(train)
        if val is None and unused and _kind(train) not in ("train", "trainval"):
            raise PipelineError(_not_obvious("val", images, unused))
    test = test or chooser.choose_later("test", train, ("test",), val)
    _check_used_once(train, val, test)
    chooser.remark_on_unused(train, val, test)
    return SplitChoice(train, val, test, tuple(chooser.remarks))


def set_option(key: str, value: str) -> str:
    """A parameter as an option of the command line, quoted for the shell and for DVC where that is necessary."""
    if _UNQUOTED.fullmatch(value):
        return f"-S {key}={value}"
    # In Hydra's quotes, a backslash counts only before a quote.
    escaped = re.sub(r'(\\*)("|$)', lambda match: match[1] * 2 + ('\\"' if match[2] else ""), value)
    return "-S " + shlex.quote(f'{key}="{escaped}"')


class _Chooser:
    """The splits that no parameter names, by kind."""

    def __init__(self, images: Mapping[str, Set[str]], asked: Collection[str]) -> None:
        self._images = images
        self.remarks: list[str] = []
        empty = [name for name in images if not images[name] and split_kind(name) in ("val", "test")]
        if len(empty) == len(images):
            empty = []
        self._free = [name for name in images if name not in asked and name not in empty]
        self.remarks += [f"split {name} has no images and is left out" for name in empty if name not in asked]

    def find_unused(self, used: str) -> list[str]:
        """The free splits that share no image with those in use."""
        images = self._union(used)
        return [name for name in self._free if name not in _parts(used) and not self._images[name] & images]

    def choose_train(self, val: str | None, *, folds: bool) -> str:
        kinds = {split_kind(name) for name in self._free}
        prefer_trainval = folds or (_kind(val) == "test" if val is not None else "val" not in kinds)
        order: tuple[Kind | None, ...] = ("trainval", "train") if prefer_trainval else ("train", "trainval")
        for kind in (*order, None):
            if kind in kinds:
                return self._join("train", [name for name in self._free if split_kind(name) == kind])
        if len(self._free) != 1:
            raise PipelineError(_not_obvious("train", self._images, self._free))
        return self._free[0]

    def choose_later(self, key: str, train: str, kinds: Iterable[Kind], val: str | None = None) -> str | None:
        """val or test, of one of the kinds; None if there is none with images of its own."""
        earlier = [name for name in (train, val) if name is not None]
        for kind in kinds:
            names = [name for name in self._free if split_kind(name) == kind and name not in _parts(*earlier)]
            if not names:
                continue
            # Of the splits of several folds, those of other folds consist of images of train.
            own = [
                name for name in names if 2 * len(self._images[name] & self._union(train)) <= len(self._images[name])
            ]
            name = self._join(key, own or names)
            same = next((other for other in earlier if set() < self._union(other) <= self._union(name)), None)
            if same is None:
                return name
            instead = (
                "; a share of train is held out if there is no other, or -S convert.folds=5" if key == "val" else ""
            )
            self.remarks.append(f"{key}: split {name} has all images of {same} and is left out{instead}")
        return None

    def _join(self, key: str, names: Sequence[str]) -> str:
        """All splits of one kind that share no image.

        Raises:
            PipelineError: Some share images, and none of them is an obvious choice.
        """
        chosen: list[str] = []
        for name in sorted(names, key=lambda name: (not has_plain_name(name), -len(self._images[name]))):
            overlapping = [other for other in chosen if self._images[other] & self._images[name]]
            if not overlapping:
                chosen.append(name)
                continue
            self._check_obvious(key, overlapping[0], name)
            option = set_option(f"convert.{key}", name)
            self.remarks.append(f"{key}: split {name} shares images with {overlapping[0]} and is left out; {option}")
        joined = "+".join(name for name in names if name in chosen)
        if len(chosen) > 1:
            why = (
                f"{len(chosen)} splits are joined"
                if split_kind(joined)
                else f"{len(chosen)} parts without split names are joined"
            )
            self.remarks.append(f"{key}: {why}: {', '.join(name for name in names if name in chosen)}")
        return joined

    def _check_obvious(self, key: str, chosen: str, other: str) -> None:
        """A split is preferred if only it is called by its purpose, or if it contains the other one."""
        images = self._images[chosen], self._images[other]
        if has_plain_name(chosen) > has_plain_name(other) or images[0] > images[1]:
            return
        option = set_option(f"convert.{key}", chosen)
        count = count_noun(len(images[0] & images[1]), "image")
        raise PipelineError(
            f"convert.{key}: the splits {chosen} and {other} share {count}; choose one, for example {option}"
        )

    def _union(self, name: str) -> set[str]:
        return set().union(*(self._images[part] for part in name.split("+")))

    def remark_on_unused(self, train: str, val: str | None, test: str | None) -> None:
        """Splits whose names imply nothing are left out if others are obvious: says how to use them."""
        for name in self.find_unused("+".join(_parts(train, val, test))):
            if split_kind(name) is None:
                option = set_option("convert.train", f"{train}+{name}")
                self.remarks.append(f"split {name} is not used; {option} adds it")


def _parts(*choices: str | None) -> dict[str, None]:
    return dict.fromkeys(name for choice in choices if choice for name in choice.split("+"))


def _kind(choice: str) -> Kind | None:
    """The kind of joined splits: that of the first one that has any; train and val together are trainval."""
    kinds = [kind for name in choice.split("+") if (kind := split_kind(name))]
    return "trainval" if {"train", "val"} <= set(kinds) else next(iter(kinds), None)


def _check_exist(names: Iterable[str], chosen: Mapping[str, str | None]) -> None:
    known = ", ".join(sorted(names)) or "none"
    for key, value in chosen.items():
        for name in value.split("+") if value else []:
            if name not in names:
                reset = " ".join(f"-S convert.{key}=null" for key, value in chosen.items() if value)
                raise PipelineError(
                    f"convert.{key}: the data set has no split {name!r}; it has {known}: name one of them, or use "
                    f"{reset} to take the obvious ones"
                )


def _check_differs(images: Mapping[str, Set[str]], train: str, val: str) -> None:
    unions = [set().union(*(images[name] for name in choice.split("+"))) for choice in (train, val)]
    if train != val and unions[0] and unions[0] <= unions[1]:
        raise PipelineError(
            f"convert.val: {val} has all images of {train}; -S convert.val=null holds out a share of {train} instead, "
            "-S convert.folds=5 a fifth"
        )


def _check_used_once(train: str, val: str | None, test: str | None) -> None:
    used = [name for choice in (train, val, test) if choice for name in choice.split("+")]
    if repeated := next((name for name in used if used.count(name) > 1), None):
        remedy = "; -S convert.val=null holds out a share of it" if train == val else ""
        raise PipelineError(
            f"convert: the split {repeated!r} is used twice: train {train}, val {val}, test {test}{remedy}"
        )


def _not_obvious(key: str, names: Iterable[str], free: Iterable[str]) -> str:
    known = ", ".join(sorted(names)) or "none"
    option = set_option(f"convert.{key}", "+".join(free) or "NAME")
    return (
        f"convert.{key}: no obvious choice among the data set's splits ({known}); choose one or several, as in {option}"
    )
