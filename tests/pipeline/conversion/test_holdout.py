"""Held-out images: by seed and content alone, groups stay together, and classes are balanced."""

import hashlib
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace as replace_objects

from pipeline import params
from pipeline.conversion.holdout import (
    BALANCED,
    NUM_SEEDS,
    check_groups,
    count_objects,
    evaluate_split,
    find_balanced_seed,
    hold_out_images,
    pseudo_random,
)
from pipeline.conversion.image_info import ImageInfo
from pipeline.conversion.issues import IssueLog
from pipeline.conversion.match_images import MatchedRecord
from pipeline.data.annotations import Category
from pipeline.errors import PipelineError
from pipeline.formats.records import RawImage, RawObject
from pipeline.params import ConvertParams
from tests.support.projects import PROJECT

CATEGORIES = tuple(Category(number, name) for number, name in enumerate(("cat", "dog", "eel")))
BASE = params.load(PROJECT / "params.yaml").convert


def options(**values: Any) -> ConvertParams:
    return replace(BASE, **values)


def image(number: int, classes: tuple[str, ...] = ("cat",), file: str | None = None) -> MatchedRecord:
    objects = tuple(RawObject(f"{number}", name, (0, 0, 9, 9)) for name in classes)
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    return MatchedRecord(RawImage(f"{number}", file or f"{number}.jpg", objects=objects), ImageInfo(9, 9, digest))


def hold_out(matched: list[MatchedRecord], **values: Any) -> tuple[set[str], set[str]]:
    """File names of the images that stay and of those held out."""
    _, stay, held = hold_out_images(matched, CATEGORIES, options(**values), IssueLog(options(**values)))
    return {item.record.file for item in stay}, {item.record.file for item in held}


numbers = st.sets(st.integers(0, 500), min_size=1, max_size=40)


@settings(max_examples=50, deadline=None)
@given(numbers, numbers, st.integers(0, 2**70), st.floats(0.05, 0.95))
def test_adding_images_moves_no_other(some: set[int], more: set[int], seed: int, share: float) -> None:
    before = hold_out([image(n) for n in some], split_seed=seed, val_fraction=share)
    after = hold_out([image(n) for n in some | more], split_seed=seed, val_fraction=share)
    assert before[0] <= after[0]
    assert before[1] <= after[1]


@settings(max_examples=15, deadline=None)
@given(numbers, st.integers(2, 7), st.one_of(st.just("auto"), st.integers(0, 99)))
def test_every_image_is_held_out_by_exactly_one_fold(some: set[int], folds: int, seed: int | str) -> None:
    matched = [image(n, ("cat", "dog")[: n % 3]) for n in some]
    held = Counter[str]()
    for fold in range(folds):
        stay, out = hold_out(matched, split_seed=seed, folds=folds, fold=fold)
        assert stay | out == {item.record.file for item in matched}
        assert not stay & out
        held.update(out)
    assert held == Counter({item.record.file: 1 for item in matched})


@settings(max_examples=50, deadline=None)
@given(numbers, st.sampled_from([None, 3]), st.integers(0, 99))
def test_groups_stay_together_and_adding_moves_no_other(some: set[int], folds: int | None, seed: int) -> None:
    matched = [image(n, file=f"clip{n % 9}/frame{n}.jpg") for n in some]
    settings: dict[str, Any] = {"group_pattern": r"^(clip\d+)/", "folds": folds, "split_seed": seed}
    stay, out = hold_out(matched, **settings)
    assert not {name.split("/")[0] for name in stay} & {name.split("/")[0] for name in out}
    more_stay, more_out = hold_out(
        [*matched, image(999, file="clip3/late.jpg"), image(998, file="clip77/x.jpg")], **settings
    )
    assert stay <= more_stay
    assert out <= more_out


@settings(max_examples=50, deadline=None)
@given(numbers, st.integers(0, 99))
def test_identical_files_stay_together(some: set[int], seed: int) -> None:
    twins = [image(n, file=f"copies/{n}.jpg") for n in some]
    stay, out = hold_out([image(n) for n in some] + twins, split_seed=seed)
    assert {name.removeprefix("copies/") for name in stay}.isdisjoint(name.removeprefix("copies/") for name in out)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.lists(st.sampled_from(["cat", "dog", "eel"]), max_size=5), min_size=30, max_size=80))
def test_split_is_balanced_or_no_seed_is_better(contents: list[list[str]]) -> None:
    matched = [image(n, tuple(names)) for n, names in enumerate(contents)]
    settings = options(split_seed="auto")
    choice, _, held = hold_out_images(matched, CATEGORIES, settings, IssueLog(settings))
    for name in ("cat", "dog", "eel"):
        number = np.array([names.count(name) for names in contents])
        out = sum(item.class_name == name for entry in held for item in entry.record.objects)
        deviation = abs(out - 0.2 * number.sum())
        fair = deviation <= BALANCED[2] * np.sqrt(0.2 * 0.8 * (number**2).sum()) + 1e-9
        assert fair or not choice.balanced
    keys = np.array([int(item.image_info.digest[:16], 16) for item in matched], np.uint64)
    counts = count_objects(matched, keys, CATEGORIES)
    imbalance = evaluate_split(counts, choice.split_seed, (0.2,)).imbalance
    if choice.balanced:  # the first
        assert all(evaluate_split(counts, seed, (0.2,)).imbalance > BALANCED for seed in range(choice.split_seed))
    else:
        assert imbalance == min(evaluate_split(counts, seed, (0.2,)).imbalance for seed in range(NUM_SEEDS))


def test_a_rare_class_is_on_both_sides() -> None:
    matched = [image(n, ("cat", "eel") if n % 20 == 0 else ("cat",)) for n in range(100)]
    settings = options(split_seed="auto")
    _, stay, held = hold_out_images(matched, CATEGORIES[:3:2], settings, IssueLog(settings))
    for side in (stay, held):
        assert any(item.class_name == "eel" for entry in side for item in entry.record.objects)


def test_unbalanced_seed_is_reported_with_a_better_one() -> None:
    matched = [image(n, ("cat", "eel") if n < 5 else ("cat",)) for n in range(60)]
    messages = {}
    for seed in range(8):
        issue_log = IssueLog(options())
        choice, _, held = hold_out_images(matched, CATEGORIES[:3:2], options(split_seed=seed), issue_log)
        held_out = sum(item.class_name == "eel" for entry in held for item in entry.record.objects)
        assert (held_out == 0) == bool(issue_log.issues)
        if issue_log.issues:
            assert choice.better_seed is not None
            messages[seed] = str(issue_log.issues[0])
            _, _, better = hold_out_images(
                matched, CATEGORIES[:3:2], options(split_seed=choice.better_seed), IssueLog(options())
            )
            assert any(item.class_name == "eel" for entry in better for item in entry.record.objects)
    assert messages
    for seed, line in messages.items():
        assert line.startswith(
            f"convert.split_seed={seed}: val has 0 of 5 objects of 'eel', expected 1.0; -S convert.spl"
        )


def test_class_missing_from_train_is_reported() -> None:
    """Two of 60 images show the class: too few to expect one in val, but train must have one."""
    matched = [image(n, ("cat", "eel") if n < 2 else ("cat",)) for n in range(60)]
    warnings = 0
    for seed in range(40):
        issue_log = IssueLog(options())
        _, stay, _ = hold_out_images(matched, CATEGORIES[:3:2], options(split_seed=seed), issue_log)
        missing = not any(item.class_name == "eel" for entry in stay for item in entry.record.objects)
        assert missing == any("val has 2 of 2 objects of 'eel'" in str(problem) for problem in issue_log.issues)
        warnings += missing
    assert warnings


@pytest.mark.parametrize("seed", [0, 1, 300])
def test_recommended_seed_is_better(seed: int) -> None:
    """One image can't be divided, and with forty small classes no seed is balanced."""
    settings = options(split_seed=seed)
    assert hold_out_images([image(1)], CATEGORIES[:1], settings, IssueLog(settings))[0].better_seed is None
    assert hold_out_images([], CATEGORIES[:1], settings, (issue_log := IssueLog(settings)))[0].better_seed is None
    assert not issue_log.issues
    categories = tuple(Category(n, str(n)) for n in range(40))
    matched = [image(n, (str(n % 40),)) for n in range(240)]
    choice = hold_out_images(matched, categories, settings, IssueLog(settings))[0]
    if choice.better_seed is not None:
        keys = np.array([int(item.image_info.digest[:16], 16) for item in matched], np.uint64)
        counts = count_objects(matched, keys, categories)
        better = evaluate_split(counts, choice.better_seed, (0.2,)).imbalance
        assert better < evaluate_split(counts, seed, (0.2,)).imbalance


def test_crowds_do_not_count_in_the_balance_of_classes() -> None:
    with_crowds = [image(n, ("cat",)) for n in range(9)]
    crowd = RawObject("crowd", "dog", (1, 1, 9, 9), iscrowd=1)
    region = RawObject("region", "", (1, 1, 9, 9), iscrowd=1, any_class=True)
    record = replace_objects(with_crowds[0].record, objects=(*with_crowds[0].record.objects, crowd, region))
    with_crowds[0] = MatchedRecord(record, with_crowds[0].image_info)
    keys = np.arange(9, dtype=np.uint64)
    counts = count_objects(with_crowds, keys, CATEGORIES)
    assert np.bincount(counts.column, counts.count, counts.columns).tolist() == [9, 0, 0, 9]


def test_groups_divided_by_published_splits_are_counted() -> None:
    issue_log = IssueLog(options())
    frames = {name: [image(n, file=f"{clip}_{n}.jpg") for n, clip in files] for name, files in {
        "train": [(1, "a"), (2, "b"), (3, "c")], "val": [(4, "a"), (5, "d")], "test": [(6, "d"), (7, "b")]
    }.items()}  # fmt: skip
    check_groups(frames, "^(.)_", issue_log)
    assert issue_log.notes == {
        "images of train whose group (convert.group_pattern) is also in val or test": 2,
        "images of val whose group (convert.group_pattern) is also in test": 1,
    }


def test_side_without_images_is_reported() -> None:
    settings = options(val_fraction=0.01)
    issue_log = IssueLog(settings)
    hold_out_images([image(n) for n in range(5)], CATEGORIES[:1], settings, issue_log)
    assert str(issue_log.issues[0]).startswith("convert.split_seed=0: val has 0 of 5 images, expected 0.1")


def test_pseudo_random_numbers_are_splitmix64() -> None:
    """The first outputs of Vigna's splitmix64.c, started at 1234567."""
    key = np.array([1234567], np.uint64)
    outputs = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [float(pseudo_random(key, seed)[0]) for seed in range(4)] == [(value >> 11) / 2**53 for value in outputs]
    many = pseudo_random(np.arange(100_000, dtype=np.uint64), 3)
    assert np.histogram(many, 10, (0, 1))[0] == pytest.approx(10_000, rel=0.05)


def test_all_folds_have_the_same_seed() -> None:
    matched = [image(n, ("cat", "dog", "eel")[n % 3 : n % 3 + 1]) for n in range(90)]
    ways = {
        hold_out_images(matched, CATEGORIES, options(folds=3, fold=fold, split_seed="auto"), IssueLog(options()))[
            0
        ].split_seed
        for fold in range(3)
    }
    assert len(ways) == 1


def test_paths_that_match_no_group() -> None:
    issue_log = IssueLog(options())
    matched = [image(1, file="a_1.jpg"), image(2, file="b.jpg"), image(3, file="a_2.jpg")]
    hold_out_images(matched, CATEGORIES, options(group_pattern="^(.*)_"), issue_log)
    assert issue_log.notes["images that convert.group_pattern does not match; each is a group of one"] == 1
    with pytest.raises(
        PipelineError, match=r"^convert\.group_pattern: '\^\(x\)' matches no image's path, such as a_1\.jpg$"
    ):
        hold_out_images(matched, CATEGORIES, options(group_pattern="^(x)"), issue_log)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"group_pattern": "("}, r"group_pattern: '\(' is no regular expression: missing \)"),
        ({"group_pattern": "abc"}, "needs one group in brackets"),
        ({"group_pattern": "(a)(b)"}, "it has 2"),
        ({"folds": 3, "fold": 3}, "fold: 3 is not one of 3 folds"),
        ({"fold": 1}, "fold: 1 needs folds, which is null"),
        ({"folds": 3, "val": "test"}, "folds: val names the split 'test' already"),
    ],
)
def test_invalid_options(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        options(**values)


def test_no_images_at_all() -> None:
    assert hold_out([]) == (set(), set())
    assert find_balanced_seed(count_objects([], np.array([], np.uint64), CATEGORIES), (0.2,)) == 0
