"""Duplicates are found regardless of file names and compression."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline import params
from pipeline.conversion.duplicates import MAX_DISTANCE, nearest_hashes, remove_duplicates
from pipeline.conversion.image_info import ImageInfo, decode_image
from pipeline.conversion.issues import IssueLog
from pipeline.conversion.match_images import MatchedRecord
from pipeline.formats.records import RawImage
from tests.support.projects import PROJECT


def make_issue_log(**checks: Any) -> IssueLog:
    base = params.load(PROJECT / "params.yaml").convert
    return IssueLog(replace(base, issues="repair", checks=replace(base.checks, **checks)))


def painted(path: Path, seed: int, **save: Any) -> Path:
    """An image with smooth shapes, like a photograph."""
    few = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), np.uint8)
    Image.fromarray(few).resize((320, 240), Image.Resampling.BICUBIC).save(path, **save)
    return path


def match_image(path: Path) -> MatchedRecord:
    info = decode_image(path)
    assert isinstance(info, ImageInfo)
    return MatchedRecord(RawImage(f"{path.stem}.xml", path.name), info)


@pytest.fixture
def splits(tmp_path: Path) -> dict[str, list[MatchedRecord]]:
    """Four train images: a new one, one of val, one of test with other compression, one of val at half size."""
    judged = [painted(tmp_path / f"judged{seed}.png", seed) for seed in range(3)]
    own = painted(tmp_path / "own.jpg", 9)
    equal = tmp_path / "equal.png"
    equal.write_bytes(judged[0].read_bytes())
    anew = painted(tmp_path / "anew.jpg", 1, quality=40)
    small = tmp_path / "small.jpg"
    Image.open(judged[2]).resize((160, 120)).save(small)
    train = [match_image(path) for path in (own, equal, anew, small)]
    return {"train": train, "val": [match_image(judged[0]), match_image(judged[2])], "test": [match_image(judged[1])]}


def test_identical_images_are_removed_and_similar_ones_noted(splits: dict[str, list[MatchedRecord]]) -> None:
    issue_log = make_issue_log()
    remaining = remove_duplicates(splits, "decode", issue_log)
    assert [item.record.file for item in remaining["train"]] == ["own.jpg", "anew.jpg", "small.jpg"]
    assert [(item.code, item.source, item.action) for item in issue_log.issues] == [
        ("leak", "equal.xml", "repair"),
        ("near_duplicate_leak", "anew.xml", "note"),
        ("near_duplicate_leak", "small.xml", "note"),
    ]
    assert "image equal.png is identical to judged0.png of val" in issue_log.issues[0].message
    assert "image anew.jpg looks like judged1.png of test" in issue_log.issues[1].message
    assert (remaining["val"], remaining["test"]) == (splits["val"], splits["test"])


def test_actions_of_leaks(splits: dict[str, list[MatchedRecord]]) -> None:
    remaining = remove_duplicates(splits, "decode", make_issue_log(leak="note", near_duplicate_leak="repair"))
    assert [item.record.file for item in remaining["train"]] == ["own.jpg", "equal.png"]


def test_searches_left_out_are_noted(splits: dict[str, list[MatchedRecord]]) -> None:
    unread = {
        split: [replace(item, image_info=replace(item.image_info, perceptual_hash=None)) for item in splits[split]]
        for split in splits
    }
    issue_log = make_issue_log()
    remove_duplicates(unread, "header", issue_log)
    assert issue_log.counts == {"leak": 1}
    assert list(issue_log.notes) == ["splits not searched for similar images: convert.image_check is header"]
    issue_log = make_issue_log()
    remove_duplicates(unread, "trust", issue_log)
    assert (
        "splits searched for identical paths, not for identical images: convert.image_check is trust" in issue_log.notes
    )


def test_flat_images_have_no_perceptual_hash(tmp_path: Path) -> None:
    Image.new("RGB", (90, 60), (200, 30, 30)).save(tmp_path / "flat.png")
    assert match_image(tmp_path / "flat.png").image_info.perceptual_hash is None


hashes = st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 300), max_size=30)


@given(hashes, hashes, st.integers(0, 63), st.integers(0, 63))
def test_nearest_against_every_pair(hashes: list[int], known: list[int], bit1: int, bit2: int) -> None:
    known = known + [value ^ (1 << bit1) ^ (1 << bit2) for value in hashes[::2]]
    expected = {}
    for number, value in enumerate(hashes):
        distances = [(value ^ candidate).bit_count() for candidate in known]
        if distances and min(distances) <= MAX_DISTANCE:
            expected[number] = (distances.index(min(distances)), min(distances))
    assert nearest_hashes(np.array(hashes, np.uint64), np.array(known, np.uint64)) == expected


def test_search_among_many_is_fast() -> None:
    rng = np.random.default_rng(0)
    known = rng.integers(0, 2**64, 20_000, np.uint64)
    hashes = rng.integers(0, 2**64, 100_000, np.uint64)
    hashes[::1000] = known[:100] ^ np.uint64(5)
    assert nearest_hashes(hashes, known) == {1000 * number: (number, 2) for number in range(100)}


def test_duplicates_within_a_split_and_between_val_and_test(tmp_path: Path) -> None:
    one, other = (painted(tmp_path / f"{seed}.png", seed) for seed in range(2))
    again, anew = tmp_path / "again.png", painted(tmp_path / "anew.jpg", 1, quality=40)
    again.write_bytes(one.read_bytes())
    splits = {
        "train": [match_image(other)],
        "val": [match_image(one), match_image(again), match_image(anew)],
        "test": [match_image(one), match_image(other)],
    }
    issue_log = make_issue_log(leak="note")
    assert remove_duplicates(splits, "decode", issue_log) == splits
    assert [(item.code, item.split, item.source, item.message) for item in issue_log.issues] == [
        ("duplicate_image", "val", "again.xml", "image again.png is identical to 0.png"),
        ("leak", "val", "0.xml", "image 0.png is identical to 0.png of test"),
        ("leak", "val", "again.xml", "image again.png is identical to 0.png of test"),
        ("near_duplicate_leak", "val", "anew.xml", "image anew.jpg looks like 1.png of test (0 of 64 bits differ)"),
        ("leak", "train", "1.xml", "image 1.png is identical to 1.png of test"),
    ]
    once = remove_duplicates(
        splits, "decode", make_issue_log(duplicate_image="skip", leak="note", near_duplicate_leak="note")
    )
    assert [item.record.file for item in once["val"]] == ["0.png", "anew.jpg"]
    fixed = remove_duplicates(splits, "decode", make_issue_log(leak="repair", near_duplicate_leak="repair"))
    assert {split: [item.record.file for item in fixed[split]] for split in fixed} == {
        "train": [],
        "val": [],
        "test": ["0.png", "1.png"],
    }
