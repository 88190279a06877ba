"""Surveys of records without files: all issues listed, or stopped at the first error."""

import json
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline import params
from pipeline.analysis.findings import headline
from pipeline.conversion import survey, survey_original_splits
from pipeline.conversion.issues import SKIPPED_OBJECTS
from pipeline.conversion.survey import Survey, survey_records
from pipeline.data.annotations import Category, problems
from pipeline.errors import PipelineError
from pipeline.formats.records import Issue, RawDataset, RawImage, RawObject, RawSplit
from pipeline.params import ConvertParams
from tests.support.projects import PROJECT

BASE = params.load(PROJECT / "params.yaml").convert
NAN = float("nan")


def options(checks: dict[str, Any] | None = None, **values: Any) -> ConvertParams:
    return replace(BASE, **({"image_check": "trust"} | values), checks=replace(BASE.checks, **(checks or {})))


def thing(
    where: str, name: str = "cat", box: tuple[float, float, float, float] = (1, 1, 9, 9), **more: Any
) -> RawObject:
    return RawObject(where, name, box, **more)


def image(name: str, *objects: RawObject, **more: Any) -> RawImage:
    return RawImage(name, f"{name}.jpg", **{"declared_size": (40, 30), **more}, objects=objects)


def dataset(*train: RawImage, classes: tuple[str, ...] = ("cat", "dog")) -> RawDataset:
    judged = image("judged", thing("j1", box=(2, 2, 5, 5)), thing("j2", "dog"))
    categories = tuple(Category(number, name) for number, name in enumerate(classes, 1))
    return RawDataset(categories, {"train": RawSplit(train), "val": RawSplit((judged,))}, 9, format="made")


def survey_of(data: RawDataset, convert_params: ConvertParams, *, stops: bool = True) -> Survey:
    return survey_records(Path("nowhere"), data, convert_params, stops=stops)


EVERYTHING = dataset(
    image("a", thing("a1", box=(-5, 1, 20, 9)), thing("a2", box=(1, 1, NAN, 9)), thing("a3", box=(5, 5, 0, 9))),
    image("b", thing("b1", box=(20, 20, -9, -9)), thing("b2", box=(3, 3, 1, 9)), thing("b3", "eel")),
    image("a", thing("again")),
    image("c", thing("c1"), thing("c2"), thing("c3", issue=Issue("invalid_record", "has no box"))),
    image("d", declared_size=None),
    image("judged", thing("leaks")),
    RawImage("e", "", issue=Issue("missing_image", "image is not there")),
    image("f", thing("f1", id=7), thing("f2", "Cat", id=7)),
    classes=("cat", "dog", "Cat", "unseen"),
)


def test_records_with_the_same_source_and_id() -> None:
    """The source of a COCO record is its id, so two records of one id have the same source."""
    result = survey_of(dataset(image("a", thing("annotation 7", id=7), thing("annotation 7", "dog", id=7))), options())
    [problem] = [issue for issue in result.issue_log.issues if issue.code == "duplicate_id"]
    assert str(problem) == "annotation 7: id 7 is already used by another record"
    assert [item.id for item in result.splits["train"].annotations] == [1, 2]


def test_all_issues_are_listed_without_stopping() -> None:
    result = survey_of(EVERYTHING, options(), stops=False)
    listed = {(item.code, item.source): item.action for item in result.issue_log.issues}
    assert listed == {
        ("out_of_bounds_box", "a1"): "error",
        ("non_finite_box", "a2"): "error",
        ("degenerate_box", "a3"): "error",
        ("swapped_corners", "b1"): "error",
        ("tiny_box", "b2"): "error",
        ("unknown_class", "b3"): "error",
        ("duplicate_record", "a"): "error",
        ("duplicate_box", "c2"): "note",
        ("invalid_record", "c3"): "error",
        ("invalid_record", "d"): "error",
        ("leak", "judged"): "error",
        ("missing_image", "e"): "error",
        ("similar_class_names", "classes"): "note",
        ("unused_class", "classes"): "note",
    } | {("duplicate_id", item.source): "note" for item in result.issue_log.issues if item.code == "duplicate_id"}
    assert result.issue_log.counts["duplicate_id"] == 5  # a1, b1, c1, c2 have none, f2 has f1's
    assert [image.file_name for image in result.splits["train"].images] == ["a.jpg", "b.jpg", "c.jpg", "f.jpg"]
    with pytest.raises(PipelineError, match=r"^a: a\.jpg is already in this split: a;"):
        survey_of(EVERYTHING, options())


def test_fixes_of_boxes() -> None:
    repaired = survey_of(EVERYTHING, options(issues="repair")).splits["train"].annotations
    assert [item.bbox for item in repaired] == [(0, 1, 15, 9), (11, 11, 9, 9), *[(1, 1, 9, 9)] * 4]
    skipped = survey_of(
        EVERYTHING,
        options({"out_of_bounds_box": "skip", "swapped_corners": "skip", "duplicate_box": "skip"}, issues="repair"),
    )
    assert [item.bbox for item in skipped.splits["train"].annotations] == [(1, 1, 9, 9)] * 3
    assert [item.id for item in skipped.splits["train"].annotations] == [1, 2, 3]


def test_box_with_swapped_corners_is_checked_again() -> None:
    data = dataset(image("a", thing("a1", box=(50, 20, -20, -9)), thing("a2", box=(20, 20, -1, 5)), thing("a3")))
    result = survey_of(data, options(issues="repair"))
    assert [(item.code, item.source) for item in result.issue_log.issues] == [
        ("swapped_corners", "a1"), ("out_of_bounds_box", "a1"), ("swapped_corners", "a2"), ("tiny_box", "a2"),
    ]  # fmt: skip
    assert [item.bbox for item in result.splits["train"].annotations] == [(30, 11, 10, 9), (1, 1, 9, 9)]


def test_unique_ids_are_kept() -> None:
    data = dataset(image("a", thing("a1", id=30), thing("a2", "dog", id=4), id=0), image("b", id=17))
    train = survey_of(data, options()).splits["train"]
    assert [item.id for item in train.images] == [0, 17]
    assert [item.id for item in train.annotations] == [30, 4]


def test_obstacles_are_reported() -> None:
    assert list(survey_of(dataset(image("a")), options()).obstacles()) == ["train has 1 image and no objects"]
    (line,) = survey_of(dataset(), options(issues="repair")).obstacles()
    assert line.startswith("train has no images")


def test_obstacles_have_a_remedy() -> None:
    def lines(data: RawDataset, checks: dict[str, Any] | None = None, **values: Any) -> list[str]:
        return list(survey_of(data, options(checks, **values)).obstacles())

    whole = dataset(image("judged", thing("t")))
    empty = replace(whole, splits={**whole.splits, "val": RawSplit(())})
    (message,) = lines(empty, val="val")
    assert message.startswith(
        "val has no images; choose another split with -S convert.val=NAME, or -S convert.val=null"
    )
    single_split = replace(whole, splits={"all": whole.splits["train"]})
    (message,) = {line.split("; ")[1] for line in lines(single_split)}
    assert message == "change convert.val_fraction, or add images"
    assert lines(single_split, folds=2, fold=0)[0].endswith("has no images; reduce convert.folds, or add images")
    few = replace(whole, splits={"all": RawSplit(tuple(image(f"{n}", thing(f"{n}")) for n in range(4)))})
    (message,) = lines(few, val_fraction=0.02)
    assert (match := re.fullmatch(r"val has no images; -S convert\.split_seed=(\d+) is more balanced", message))
    assert not lines(few, val_fraction=0.02, split_seed=int(match[1]))


def test_the_advice_for_a_split_without_images_of_its_own() -> None:
    parts = {"train": "ab", "val": "a", "test": "b"}
    splits = {
        name: RawSplit(tuple(image(letter, thing(letter), thing(letter, "dog")) for letter in letters))
        for name, letters in parts.items()
    }
    data = replace(dataset(), splits=splits)
    advice = "-S convert.train=train+val+test uses them as one split"
    line = f"train has no images of its own: all of them are also in val and test; {advice}"
    for issues in ("error", "repair"):
        with pytest.raises(PipelineError, match=f"^{re.escape(line)}$"):
            survey_of(data, options(issues=issues))
    assert list(survey_of(data, options(), stops=False).obstacles()) == [line]
    assert survey_of(data, options({"leak": "note"})).sources == {"train": "train", "val": "val", "test": "test"}
    followed = survey_records(
        Path("nowhere"), data, options(train="train+val+test", val_fraction=0.5, split_seed="auto")
    )
    assert not list(followed.obstacles())
    assert sorted(len(split.images) for split in followed.splits.values()) == [1, 1]
    assert followed.issue_log.notes["images that several of the joined splits contain, used once"] == 2


def test_objects_of_skipped_images_are_counted_once() -> None:
    lost = {"objects of skipped images": 2}
    absent = RawImage("a", "", issue=Issue("missing_image", "not there"), objects=(thing("1"), thing("2")))
    kept = image("b", thing("3"))
    notes = survey_of(dataset(absent, kept), options({"missing_image": "skip"})).issue_log.notes
    assert notes.items() >= lost.items()
    for elsewhere in (dataset(image("judged", thing("t")), kept), dataset(kept, kept)):
        repaired = survey_of(elsewhere, options(issues="repair")).issue_log
        assert len(repaired.issues) == 1
        assert "objects of skipped images" not in repaired.notes  # they are where their image is


def test_remarks_on_reading_are_reported() -> None:
    data = replace(dataset(image("a", thing("a1"), thing("a2", "dog"))), remarks=("boxes.txt: read as corners",))
    assert survey_of(data, options()).report()["remarks"] == ["boxes.txt: read as corners"]


def test_trust_finds_leaks_by_path() -> None:
    with pytest.raises(PipelineError, match=r"identical to judged\.jpg of val"):
        survey_of(dataset(image("judged", thing("t"), declared_size=(10, 10)), image("own", thing("o"))), options())


def test_trust_reads_nothing() -> None:
    result = survey_of(dataset(image("a", thing("a1"))), options())
    assert result.report()["image_check"] == "trust"
    assert any("identical paths" in note for note in result.report()["notes"])
    with pytest.raises(PipelineError, match=r"^a: has no image size.*-S convert\.image_check=header reads it"):
        survey_of(dataset(image("a", declared_size=None)), options())


def test_folds_divide_train_and_ignore_val() -> None:
    data = dataset(*(image(f"{n}", thing(f"{n}", ("cat", "dog")[n % 2])) for n in range(40)))
    held = [survey_of(data, options(folds=4, fold=fold)) for fold in range(4)]
    names = [image.file_name for result in held for image in result.splits["val"].images]
    assert sorted(names) == sorted(f"{n}.jpg" for n in range(40))
    assert {len(result.splits["train"].images) + len(result.splits["val"].images) for result in held} == {40}
    report = held[1].report()
    assert report["unused_splits"] == ["val"]
    assert report["hold_out"]["folds"] == 4
    assert report["splits"]["val"]["source"] == "fold 1 of 4 of train"


def test_groups_divided_by_published_splits_are_noted() -> None:
    data = dataset(image("jud1", thing("1")), image("jud2", thing("2")), image("x", thing("3")))
    notes = survey_of(data, options(group_pattern="^(jud|x)")).report()["notes"]
    assert notes["images of train whose group (convert.group_pattern) is also in val or test"] == 2


@pytest.fixture
def raw(tmp_path: Path, voc_xml: Any, picture: Any) -> Path:
    """VOC's three lists; trainval contains the other two."""
    for seed, stem in enumerate("ab"):
        voc_xml(tmp_path / "Annotations" / f"{stem}.xml", [("cat", 1, 1, 9, 9)])
        picture(tmp_path / "JPEGImages" / f"{stem}.png", seed=seed)
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for name, stems in {"train": "a", "val": "b", "trainval": "ab"}.items():
        (lists / f"{name}.txt").write_text("\n".join(stems))
    return tmp_path


def test_original_splits_are_unchanged(raw: Path) -> None:
    result = survey_original_splits(raw, options(image_check="decode"))
    files = {
        split: [image.file_name[-5:] for image in annotations.images] for split, annotations in result.splits.items()
    }
    assert files == {"train": ["a.png"], "val": ["b.png"], "trainval": ["a.png", "b.png"]}
    assert result.issue_log.counts == {}
    assert survey(raw, options(image_check="decode")).unused_splits == ("trainval",)


def test_skipped_record_of_two_splits_counts_once(raw: Path) -> None:
    (raw / "JPEGImages/a.png").unlink()
    result = survey_original_splits(raw, options({"missing_image": "skip"}, image_check="decode"))
    assert result.issue_log.counts == {"missing_image": 2}
    assert result.issue_log.notes["objects of skipped images"] == 1


ODD = (0.0, 1.0, 40.0, -3.0, 1e-5, 1e300, -1e300, NAN, float("inf"), float("-inf"))


def random_records(rng: random.Random) -> RawDataset:
    """Records of which about every fourth value is invalid."""

    def number(low: int, high: int) -> float:
        return rng.choice(ODD) if rng.random() < 0.1 else round(rng.uniform(low, high), rng.randint(0, 6))

    def fault(*codes: str) -> Issue | None:
        return Issue(rng.choice(codes), "it is") if rng.random() < 0.1 else None

    def some_thing() -> RawObject:
        box = (number(0, 25), number(0, 20), number(2, 15), number(2, 10))
        area = rng.choice([None, number(0, 99)])
        name = rng.choice(["cat", "cat", "dog", "eel"])
        object_id, flags = rng.choice([None, rng.randint(-1, 40)]), (rng.randint(0, 1), rng.randint(0, 1))
        return RawObject(
            f"o{rng.random()}", name, box, object_id, area, *flags, fault("invalid_record", "unknown_class")
        )

    def some_image() -> RawImage:
        things = tuple(some_thing() for _ in range(rng.randint(0, 4)))
        declared = rng.choice([None, (40, 30), (40, 30), (25, 60), (1, 1)])
        image_id = rng.choice([None, rng.randint(-1, 40)])
        return RawImage(
            f"i{rng.random()}",
            f"{rng.randint(0, 30)}.jpg",
            image_id,
            declared,
            things,
            fault("invalid_xml", "invalid_record"),
        )

    names = rng.sample(["train", "val", "test"], rng.randint(1, 3))
    parts = {
        name: RawSplit(tuple(some_image() for _ in range(rng.randint(0, 9))), tuple(some_thing() for _ in "ab"))
        for name in names
    }
    return RawDataset((Category(3, "dog"), Category(1, "cat")), parts, 99)


@pytest.mark.parametrize("stops", [True, False])
def test_random_records_give_a_valid_result_or_one_line(stops: bool) -> None:
    right = 0
    for seed in range(300):
        rng = random.Random(seed)
        data = random_records(rng)
        checks = {
            code: rng.choice(("default", "default", "error", "skip"))
            for code in ("out_of_bounds_box", "swapped_corners", "size_mismatch")
        }
        convert_params = options(checks, issues="repair", split_seed=seed)
        try:
            result = survey_of(data, convert_params, stops=stops)
        except PipelineError as error:
            if stops or "no obvious choice" in str(error):
                continue
            raise
        right += 1
        for annotations in result.splits.values():
            assert list(problems(annotations)) == [], seed
        again = survey_of(data, convert_params, stops=stops)
        assert (again.splits, again.report()) == (
            result.splits,
            result.report(),
        )  # the same input gives the same result
        json.dumps(result.report(), allow_nan=False)
    assert right > 50


def test_ignored_regions_and_crowds_are_no_objects() -> None:
    """A region that counts for every class, such as KITTI's DontCare, is one crowd in the totals."""
    region = RawObject("a2", "", (5, 5, 20, 20), iscrowd=1, any_class=True)
    result = survey_of(dataset(image("a", thing("a1"), region), image("b", thing("b1", "dog", iscrowd=1))), options())
    annotations = [(item.category_id, item.bbox, item.iscrowd) for item in result.splits["train"].annotations]
    assert annotations == [
        (1, (1, 1, 9, 9), 0),
        (1, (5, 5, 20, 20), 1),
        (2, (5, 5, 20, 20), 1),
        (2, (1, 1, 9, 9), 1),
    ]
    assert result.report()["splits"]["train"] == {
        "source": "train",
        "images": 2,
        "images_without_objects": 1,
        "objects": 1,
        "difficult": 0,
        "crowds": 2,
        "classes": {"cat": 1, "dog": 0},
    }
    assert headline(result) == "format made, 2 classes; usable: train 2 images, 1 object; val 1 image, 2 objects"


def test_an_ignored_region_has_each_issue_once() -> None:
    region = RawObject("a1", "", (30, 5, 20, 20), iscrowd=1, any_class=True)
    result = survey_of(dataset(image("a", thing("a2"), region)), options(classes=["dog", "cat"], issues="repair"))
    assert result.issue_log.counts["out_of_bounds_box"] == 1
    regions = [item for item in result.splits["train"].annotations if item.iscrowd]
    assert [(item.category_id, item.bbox) for item in regions] == [(2, (30, 5, 10, 20)), (1, (30, 5, 10, 20))]


def test_identical_ignored_regions_are_no_issue() -> None:
    regions = [RawObject(f"a{number}", "", (5, 5, 9, 9), iscrowd=1, any_class=True) for number in (1, 2)]
    result = survey_of(dataset(image("a", *regions, thing("a3"), thing("a4"))), options())
    assert [(issue.code, issue.source) for issue in result.issue_log.issues if issue.code == "duplicate_box"] == [
        ("duplicate_box", "a4")
    ]
    assert len(result.splits["train"].annotations) == 6


def test_a_split_with_crowds_only_has_no_objects() -> None:
    result = survey_of(dataset(image("a", thing("a1", iscrowd=1))), options())
    assert list(result.obstacles()) == ["train has 1 image and no objects"]


def test_a_class_with_crowds_only_is_unused() -> None:
    data = dataset(image("a", thing("a1"), thing("a2", "eel", iscrowd=1)), classes=("cat", "dog", "eel"))
    issues = survey_of(data, options()).issue_log.issues
    assert [issue.message for issue in issues if issue.code == "unused_class"] == ["'eel' has no objects"]


def test_crowds_of_skipped_images_are_not_counted() -> None:
    lost = RawImage("b", "", objects=(thing("b1"), thing("b2", iscrowd=1)), issue=Issue("missing_image", "not there"))
    result = survey_of(dataset(image("a", thing("a1")), lost), options(issues="repair"))
    assert result.issue_log.notes[SKIPPED_OBJECTS] == 1
