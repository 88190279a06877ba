"""Images that are judged on too: found whatever they are called, however they were saved."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline import params
from pipeline.conversion.duplicates import NEAR, nearest, without_leaks
from pipeline.conversion.images import Look, look
from pipeline.conversion.issues import Ledger
from pipeline.conversion.match_images import Seen
from pipeline.formats.records import RawImage
from tests.support.projects import PROJECT


def ledger(**checks: Any) -> Ledger:
    base = params.load(PROJECT / "params.yaml").convert
    return Ledger(replace(base, issues="repair", checks=replace(base.checks, **checks)))


def painted(path: Path, seed: int, **save: Any) -> Path:
    """Smooth shapes, as a photograph has."""
    few = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), np.uint8)
    Image.fromarray(few).resize((320, 240), Image.Resampling.BICUBIC).save(path, **save)
    return path


def seen(path: Path) -> Seen:
    found = look(path)
    assert isinstance(found, Look)
    return Seen(RawImage(f"{path.stem}.xml", path.name), found)


@pytest.fixture
def splits(tmp_path: Path) -> dict[str, list[Seen]]:
    """Four pictures of train: one of its own, one equal to val's, one of test's saved anew, one of val's made small."""
    judged = [painted(tmp_path / f"judged{seed}.png", seed) for seed in range(3)]
    own = painted(tmp_path / "own.jpg", 9)
    equal = tmp_path / "equal.png"
    equal.write_bytes(judged[0].read_bytes())
    anew = painted(tmp_path / "anew.jpg", 1, quality=40)
    small = tmp_path / "small.jpg"
    Image.open(judged[2]).resize((160, 120)).save(small)
    train = [seen(path) for path in (own, equal, anew, small)]
    return {"train": train, "val": [seen(judged[0]), seen(judged[2])], "test": [seen(judged[1])]}


def test_equal_ones_are_removed_and_alike_ones_noted(splits: dict[str, list[Seen]]) -> None:
    book = ledger()
    kept = without_leaks(splits, "decode", book)
    assert [item.raw.file for item in kept["train"]] == ["own.jpg", "anew.jpg", "small.jpg"]
    assert [(item.code, item.where, item.does) for item in book.problems] == [
        ("leak", "equal.xml", "repair"),
        ("near_duplicate_leak", "anew.xml", "note"),
        ("near_duplicate_leak", "small.xml", "note"),
    ]
    assert "its image equal.png is, byte for byte, judged0.png of val" in book.problems[0].message
    assert "its image anew.jpg looks like judged1.png of test" in book.problems[1].message
    assert (kept["val"], kept["test"]) == (splits["val"], splits["test"])


def test_each_as_it_is_asked_for(splits: dict[str, list[Seen]]) -> None:
    kept = without_leaks(splits, "decode", ledger(leak="note", near_duplicate_leak="repair"))
    assert [item.raw.file for item in kept["train"]] == ["own.jpg", "equal.png"]


def test_what_cannot_be_searched_for_is_said(splits: dict[str, list[Seen]]) -> None:
    unread = {split: [replace(item, look=replace(item.look, alike=None)) for item in splits[split]] for split in splits}
    book = ledger()
    without_leaks(unread, "header", book)
    assert book.counts == {"leak": 1}
    assert list(book.notes) == ["splits not searched for images that look alike: convert.image_check is header"]
    book = ledger()
    without_leaks(unread, "trust", book)
    assert "splits not searched for equal images, only for equal paths: convert.image_check is trust" in book.notes


def test_flat_pictures_look_like_nothing(tmp_path: Path) -> None:
    Image.new("RGB", (90, 60), (200, 30, 30)).save(tmp_path / "flat.png")
    assert seen(tmp_path / "flat.png").look.alike is None


hashes = st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 300), max_size=30)


@given(hashes, hashes, st.integers(0, 63), st.integers(0, 63))
def test_nearest_against_every_pair(asked: list[int], known: list[int], one: int, other: int) -> None:
    known = known + [value ^ (1 << one) ^ (1 << other) for value in asked[::2]]
    expected = {}
    for number, value in enumerate(asked):
        distances = [(value ^ candidate).bit_count() for candidate in known]
        if distances and min(distances) <= NEAR:
            expected[number] = (distances.index(min(distances)), min(distances))
    assert nearest(np.array(asked, np.uint64), np.array(known, np.uint64)) == expected


def test_many_are_searched_quickly() -> None:
    rng = np.random.default_rng(0)
    known = rng.integers(0, 2**64, 20_000, np.uint64)
    asked = rng.integers(0, 2**64, 100_000, np.uint64)
    asked[::1000] = known[:100] ^ np.uint64(5)
    assert nearest(asked, known) == {1000 * number: (number, 2) for number in range(100)}


def test_what_is_twice_in_a_split_and_what_is_judged_on_twice(tmp_path: Path) -> None:
    one, other = (painted(tmp_path / f"{seed}.png", seed) for seed in range(2))
    again, anew = tmp_path / "again.png", painted(tmp_path / "anew.jpg", 1, quality=40)
    again.write_bytes(one.read_bytes())
    splits = {"train": [seen(other)], "val": [seen(one), seen(again), seen(anew)], "test": [seen(one), seen(other)]}
    book = ledger(leak="note")
    assert without_leaks(splits, "decode", book) == splits
    assert [(item.code, item.split, item.where, item.message) for item in book.problems] == [
        ("duplicate_image", "val", "again.xml", "its image again.png is, byte for byte, 0.png"),
        ("leak", "val", "0.xml", "its image 0.png is, byte for byte, 0.png of test"),
        ("leak", "val", "again.xml", "its image again.png is, byte for byte, 0.png of test"),
        ("near_duplicate_leak", "val", "anew.xml", "its image anew.jpg looks like 1.png of test (0 of 64 bits differ)"),
        ("leak", "train", "1.xml", "its image 1.png is, byte for byte, 1.png of test"),
    ]
    once = without_leaks(splits, "decode", ledger(duplicate_image="skip", leak="note", near_duplicate_leak="note"))
    assert [item.raw.file for item in once["val"]] == ["0.png", "anew.jpg"]
    mended = without_leaks(splits, "decode", ledger(leak="repair", near_duplicate_leak="repair"))
    assert {split: [item.raw.file for item in mended[split]] for split in mended} == {
        "train": [],
        "val": [],
        "test": ["0.png", "1.png"],
    }
