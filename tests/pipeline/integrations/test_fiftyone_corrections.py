"""Corrections from FiftyOne's App: what tags and edited boxes mean, and how they join those that the file has."""

import itertools
from dataclasses import asdict
from typing import Any

import pytest
from click.testing import CliRunner

from pipeline.cli import main
from pipeline.conversion import corrections
from pipeline.conversion.corrections import Box, Correction, Labelled, make
from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image
from pipeline.errors import PipelineError
from pipeline.files import digest
from pipeline.integrations import fiftyone_corrections
from pipeline.integrations.fiftyone_corrections import Label, Sample, find_corrections, merge, undo
from pipeline.integrations.fiftyone_labels import keep_edits
from tests.support.inspected_project import SCENE
from tests.support.projects import readme

TRUTH = AnnotationSet(
    categories=(Category(3, "cat"), Category(7, "dog")),
    images=(Image(1, "a.png", 200, 100), Image(2, "b.png", 200, 100)),
    annotations=(Annotation(5, 1, 3, (10, 10, 40, 40), 1600), Annotation(6, 1, 7, (100 / 3, 5, 60, 50), 3000)),
)
CAT: Box = (0.05, 0.1, 0.2, 0.4)  # annotation 5 as fractions of the image
DOG: Box = (100 / 3 / 200, 0.05, 0.3, 0.5)
CAT_BOX, DOG_BOX, NEW_BOX = (10.0, 10.0, 40.0, 40.0), (33.33, 5.0, 60.0, 50.0), (100.0, 25.0, 20.0, 30.0)
NEW: Box = (0.5, 0.25, 0.1, 0.3)


def truth(*tags: str, id: int | None = 5, category: str = "cat", box: Box = CAT) -> Label:
    return Label("ground_truth", id, category, box, tags)


def detection(*tags: str, category: str = "dog", box: Box = NEW, id: int | None = None) -> Label:
    return Label("predictions_giou", id, category, box, tags)


def found(*labels: Label, tags: tuple[str, ...] = (), rest: bool = True) -> list[Correction]:
    """The corrections in an image with these labels and, with `rest`, the unchanged dog."""
    dog = [truth(id=6, category="dog", box=DOG)] if rest else []
    return list(find_corrections([Sample(1, tags, (*labels, *dog)), Sample(2, (), ())], TRUTH))


def correction(before: Labelled | None, after: Labelled | None) -> Correction:
    record = make("a.png", before, after)
    assert record is not None
    return record


IS_CAT, IS_DOG, IS_NEW = Labelled("cat", CAT_BOX), Labelled("dog", DOG_BOX), Labelled("dog", NEW_BOX)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([truth()], []),
        ([truth("mine", "checked")], []),
        ([truth(box=(0.05 + 4e-5, 0.1, 0.2, 0.4))], []),  # 0.008 pixels
        ([truth("remove")], [(IS_CAT, None)]),
        ([], [(IS_CAT, None)]),  # deleted in the App
        ([truth("relabel:dog")], [(IS_CAT, Labelled("dog", CAT_BOX))]),
        ([truth("relabel: dog ")], [(IS_CAT, Labelled("dog", CAT_BOX))]),
        ([truth("relabel:cat")], []),
        ([truth(category="dog")], [(IS_CAT, Labelled("dog", CAT_BOX))]),
        ([truth(box=NEW)], [(IS_CAT, Labelled("cat", NEW_BOX))]),
        ([truth("relabel:dog", box=NEW)], [(IS_CAT, IS_NEW)]),
        ([truth(), truth(id=None, category="dog", box=NEW)], [(None, IS_NEW)]),
        ([truth(), truth("remove", id=None, category="dog", box=NEW)], []),
        ([truth(), truth(box=NEW)], [(None, Labelled("cat", NEW_BOX))]),  # a copy, with the id of the original
        ([truth(), truth(id=None, box=(0.9, 0.5, 0.2, 0.7))], [(None, Labelled("cat", (180.0, 50.0, 20.0, 50.0)))]),
        ([truth(), detection()], []),
        ([truth(), detection("add")], [(None, IS_NEW)]),
        ([truth(), detection("add", "relabel:cat")], [(None, Labelled("cat", NEW_BOX))]),
        ([truth(), detection("add"), detection("add")], [(None, IS_NEW)]),
        ([truth(), detection("add", category="cat", box=CAT)], []),  # the ground truth has it
        ([truth(), detection("remove", id=5)], [(IS_CAT, None)]),
        ([truth(), detection("add", id=5)], [(IS_CAT, IS_NEW)]),
        ([truth(), detection("relabel:dog", id=5)], [(IS_CAT, Labelled("dog", CAT_BOX))]),
    ],
)  # fmt: skip
def test_what_tags_and_edits_mean(labels: list[Label], expected: list[Any]) -> None:
    assert found(*labels) == [correction(before, after) for before, after in expected]


def test_an_image_is_excluded_together_with_other_corrections() -> None:
    exclude = Correction(file_name="a.png", action="exclude")
    assert found(truth("remove"), tags=("exclude", "mine")) == [exclude, correction(IS_CAT, None)]


@pytest.mark.parametrize(
    ("labels", "tags", "problem"),
    [
        ([truth("relabel:dgo")], (), "a.png: cat [10.0, 10.0, 40.0, 40.0] in ground_truth: tag relabel:dgo: "
         "no such class: 'dgo'; the data set has cat, dog"),
        ([truth("relabel:dog", "relabel:cat")], (), "tags relabel:dog and relabel:cat: delete one of them"),
        ([truth(category="bird")], (), "its class: no such class: 'bird'"),
        ([truth("add")], (), "tag add: the box is in the ground truth already"),
        ([truth("exclude")], (), "tag exclude: it is for images"),
        ([truth(box=(0.05, 0.1, 0.004, 0.4))], (), "at most 1 px wide or high; draw it again"),
        ([truth(), detection("remove")], (), "predictions_giou: tag remove: it is for boxes of ground_truth"),
        ([truth(), detection("relabel:cat")], (), "tag relabel: it is for boxes of ground_truth"),
        ([truth(), detection("add", category="cat", box=CAT, id=5)], (), "tag add: the label is as proposed already"),
        ([truth(), detection("add", "remove")], (), "tags add and remove: delete one of them"),
        ([truth()], ("remove",), "a.png: the image has the tag remove, which is for boxes; tag the box"),
    ],
)  # fmt: skip
def test_tags_without_a_meaning_are_named(labels: list[Label], tags: tuple[str, ...], problem: str) -> None:
    with pytest.raises(PipelineError) as caught:
        found(*labels, tags=tags)
    assert problem in str(caught.value)


PLACES = [Labelled("cat", (10.0 * number, 10.0, 40.0, 40.0)) for number in range(4)]


def merged(*pairs: tuple[Labelled | None, Labelled | None], new: tuple[Labelled | None, Labelled | None]) -> list[Any]:
    records = merge([correction(*pair) for pair in pairs], [correction(*new)])
    return [(record.before, record.after) for record in records]


def test_a_correction_of_a_correction_leads_from_the_first_place_to_the_last() -> None:
    first, second, third, other = PLACES
    assert merged((first, second), new=(second, third)) == [(first, third)]
    assert merged((first, second), new=(second, first)) == []
    assert merged((first, second), new=(second, None)) == [(first, None)]
    assert merged((None, second), new=(second, third)) == [(None, third)]
    assert merged((None, second), new=(second, None)) == []
    assert merged((first, second), new=(third, other)) == [(first, second), (third, other)]
    assert merged((None, second), new=(None, second)) == [(None, second)]
    # One that was not converted since.
    assert merged((first, second), new=(first, third)) == [(first, third)]
    assert merged((first, second), new=(first, None)) == [(first, None)]
    exclude = Correction(file_name="a.png", action="exclude")
    assert merge([exclude], [exclude]) == (exclude,)


def test_merging_follows_a_box_through_any_number_of_rounds() -> None:
    """After each round, the file leads from the box as published to the box as it was edited last."""
    states: list[Labelled | None] = [None, *PLACES[:3]]
    for rounds in itertools.product(states, repeat=4):
        path = [PLACES[0], *rounds]
        records: tuple[Correction, ...] = ()
        for before, after in itertools.pairwise(path):
            if before is None:  # a removed box doesn't come back
                break
            if before != after:
                records = merge(records, [correction(before, after)])
            expected = [(PLACES[0], after)] if after != PLACES[0] else []
            assert [(record.before, record.after) for record in records] == expected, path


def test_edits_outlive_a_new_version_of_the_code() -> None:
    def sample(*boxes: dict[str, Any]) -> dict[str, Any]:
        return {"tags": ["exclude"], "ground_truth": {"detections": list(boxes)}}

    first, second = ({"_id": n, "annotation_id": n, "label": "cat", "bounding_box": [n], "tags": []} for n in (1, 2))
    moved = {**first, "_id": 7, "bounding_box": [0.5], "tags": ["relabel:dog"], "error": "missed"}
    drawn = {"_id": 8, "label": "dog", "bounding_box": [0.7]}
    new = {**sample({**first, "size": 3.0}, second), "tags": []}
    keep_edits(new, sample(moved, drawn))  # the second box was deleted
    kept = {"_id": 7, "annotation_id": 1, "label": "cat", "bounding_box": [0.5], "tags": ["relabel:dog"], "size": 3.0}
    assert new == sample(kept, drawn)


def test_undone_edits_disappear_and_edits_by_hand_stay() -> None:
    a, b, c, d = (Correction(file_name=name, action="exclude") for name in ("a", "b", "c", "d"))
    assert undo([a, b], before=[a], after=[a, b]) == (a,)
    assert undo([a, b, d], before=[a], after=[a, b]) == (a, d)  # d was added by hand
    assert undo([b], before=[a], after=[a, b]) == ()  # a was removed by hand
    assert undo([a], before=[a], after=[a, b]) == (a,)  # git restored the file
    moved, further = (correction(PLACES[0], place) for place in PLACES[1:3])
    assert undo([further, c], before=[moved], after=[further]) == (moved, c)
    assert undo([moved], before=[moved], after=[further]) == (moved,)


class App:
    """Stands in for the child process: the dataset of the project `inspected`, as people left it in the App."""

    def __init__(self, project: Any) -> None:
        self.samples = [Sample(image.id, (), ()) for image in SCENE.images]
        self.created, self.digest = "today", digest(project.root / "data/unified/val.json")
        for item in SCENE.annotations:
            self.edit(item.image_id, label_of(item))

    def edit(self, image_id: int, *labels: Label, tags: tuple[str, ...] = (), keep: bool = True) -> None:
        """Changes an image's tags, and adds labels to those that it has, or replaces them."""
        (number,) = (number for number, sample in enumerate(self.samples) if sample.image_id == image_id)
        kept = self.samples[number].labels if keep else ()
        self.samples[number] = Sample(image_id, tags, (*kept, *labels))

    def run_child(self, module: str, *spec: Any) -> Any:
        assert (module, spec[0]) == (fiftyone_corrections.__name__, "fcos-digits")
        samples = [asdict(sample) for sample in self.samples]
        return {"created": self.created, "annotations_digest": self.digest, "samples": samples}


def label_of(item: Annotation, *tags: str) -> Label:
    names, size = {category.id: category.name for category in SCENE.categories}, (200, 100)
    x, y, width, height = (value / size[number % 2] for number, value in enumerate(item.bbox))
    return Label("ground_truth", item.id, names[item.category_id], (x, y, width, height), tags)


@pytest.fixture
def edited(inspected: Any, monkeypatch: pytest.MonkeyPatch) -> App:
    app = App(inspected)
    monkeypatch.setattr(fiftyone_corrections, "run_child", app.run_child)
    return app


def fcos_collect(*options: str) -> list[str]:
    result = CliRunner(catch_exceptions=False).invoke(main, ["collect", *options])
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout.splitlines()


def test_rounds_of_fcos_collect(inspected: Any, edited: App) -> None:
    file, first = inspected.root / "data/corrections/digits.json", SCENE.annotations[0]
    assert fcos_collect() == ["data/corrections/digits.json: no change (0 corrections)"]
    assert not file.exists()
    edited.edit(11, label_of(first, "relabel:dog"), keep=False)
    edited.edit(14, tags=("exclude",))
    relabel, exclude = (
        "+ pictures/11.png: relabel cat [10.0, 10.0, 40.0, 40.0] → dog", "+ pictures/14.png: exclude",
    )  # fmt: skip
    dry_run, collect, *_ = (command[2:] for command in readme("Fix the data", "docs/datasets.md"))
    assert fcos_collect(*dry_run) == [
        relabel,
        exclude,
        "data/corrections/digits.json: 2 added; 2 corrections in all",
    ]
    assert not file.exists()
    assert len(fcos_collect(*collect)) == 3
    assert [str(record) for record in corrections.read(file)] == [relabel[2:], exclude[2:]]
    # The person adds a line by hand, takes the tag back, and edits another box.
    by_hand = Correction(file_name="images/train.png", action="exclude")
    corrections.write([*corrections.read(file), by_hand], file)
    edited.edit(11, label_of(first), keep=False)
    edited.edit(15, Label("predictions", None, "dog", (0.25, 0.5, 0.1, 0.2), ("add",)))
    changes = [
        "- pictures/11.png: relabel cat [10.0, 10.0, 40.0, 40.0] → dog",
        "+ pictures/15.png: add dog [50.0, 50.0, 20.0, 20.0]",
        "data/corrections/digits.json: 1 added, 1 removed; 3 corrections in all",
    ]
    assert fcos_collect() == changes
    assert fcos_collect() == ["data/corrections/digits.json: no change (3 corrections)"]
    assert by_hand in corrections.read(file)
    # A dataset that was built anew has no tags, and the file stays.
    edited.created = "tomorrow"
    edited.edit(14)
    edited.edit(15, keep=False)
    for item in SCENE.annotations[4:]:
        edited.edit(15, label_of(item))
    assert fcos_collect() == ["data/corrections/digits.json: no change (3 corrections)"]


def test_a_dataset_of_other_boxes_is_refused(inspected: Any, edited: App, monkeypatch: pytest.MonkeyPatch) -> None:
    edited.edit(14, tags=("exclude",))
    edited.digest = "of yesterday"
    result = CliRunner().invoke(main, ["collect"])
    assert (result.exit_code, result.stderr) == (
        1,
        "fcos: FiftyOne, dataset fcos-digits: was built before data/unified/val.json changed, so its boxes are not "
        "those of the data; `fcos app` builds it anew, without what was edited in it\n",
    )
    monkeypatch.setattr(fiftyone_corrections, "run_child", lambda *_: None)
    result = CliRunner().invoke(main, ["collect"])
    assert result.stderr == "fcos: FiftyOne has no dataset fcos-digits; `fcos app` builds it\n"
    assert not (inspected.root / "data/corrections").exists()
