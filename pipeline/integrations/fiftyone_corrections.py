"""Corrections of a data set from FiftyOne's App: tags, and boxes that were edited, drawn or deleted there.

As in `fiftyone.py`, a child process imports FiftyOne (`python -m pipeline.integrations.fiftyone_corrections`). It reads
what people changed; everything else happens here.
"""

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pipeline.conversion import corrections as files
from pipeline.conversion.boxes import check_box
from pipeline.conversion.corrections import Correction, Labelled, make, rounded
from pipeline.data import annotations
from pipeline.data.annotations import Annotation, AnnotationSet, Image
from pipeline.errors import PipelineError, count_noun
from pipeline.files import digest, write_text
from pipeline.integrations import fiftyone_patches, mongo
from pipeline.integrations.fiftyone import DatasetSpec, dataset_name, run_child
from pipeline.workspace import state_dir, workspace

_TRUTH = "ground_truth"
_TOLERANCE = 0.01  # pixels: a box that differs by less was not edited
_RELABEL = "relabel:"


@dataclass(frozen=True)
class Label:
    """A box in the App."""

    field: str  # of the sample: ground_truth, predictions, …
    annotation_id: int | None  # of the annotation in data/unified; None: a new box, or a detection
    category: str | None
    box: tuple[float, float, float, float]  # x, y, width, height as fractions of the image
    tags: tuple[str, ...]


@dataclass(frozen=True)
class Sample:
    """An image in the App, with all boxes of the ground truth, and the tagged ones of other fields."""

    image_id: int
    tags: tuple[str, ...]
    labels: tuple[Label, ...]


@dataclass(frozen=True)
class Edits:
    """What people changed in a dataset of FiftyOne."""

    created: str  # when the dataset was built
    annotations_digest: str | None  # of the file that it was built from
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class _State:
    """The file of corrections before and after the previous collection, and the dataset that this one read."""

    created: str
    annotations_digest: str | None
    before: tuple[Correction, ...]
    after: tuple[Correction, ...]


_EDITS, _STATE = TypeAdapter(Edits), TypeAdapter(_State)


@dataclass(frozen=True)
class Change:
    """The file of corrections, and what `fcos collect` makes of it."""

    path: Path
    before: tuple[Correction, ...]
    after: tuple[Correction, ...]

    def describe(self) -> Iterator[str]:
        """The changes as a diff, one line for each, and a summary."""
        removed, added = _subtract(self.before, self.after), _subtract(self.after, self.before)
        yield from (f"- {record}" for record in removed)
        yield from (f"+ {record}" for record in added)
        name = self.path.relative_to(workspace())
        total = count_noun(len(self.after), "correction")
        if not (removed or added):
            yield f"{name}: no change ({total})"
            return
        withdrawn = f", {len(removed):,} removed" if removed else ""
        yield f"{name}: {len(added):,} added{withdrawn}; {total} in all"


def collect(dataset: str, spec: DatasetSpec, *, write: bool) -> Change:
    """Turns what people changed in the App into corrections of a data set, together with those that its file has.

    An edit that was collected from the same dataset of FiftyOne before, and undone since, is removed from the file.

    Raises:
        PipelineError: FiftyOne has no such dataset, it was built from other annotations, a tag is wrong, or the file of
            corrections is invalid. Nothing is written.
    """
    usual = spec.name == dataset_name(f"fcos-{dataset}")  # else that of another split than inspect.split
    path = workspace() / f"data/corrections/{dataset}.json"
    state_file = state_dir() / f"collected/{dataset if usual else spec.name}.json"
    current, truth_file = files.read(path), Path(spec.annotations)
    app = "fcos app" if usual else f"fcos app --split {spec.split}"
    edits = _read_edits(spec, app)
    if edits.annotations_digest != digest(truth_file):
        raise PipelineError(
            f"FiftyOne, dataset {spec.name}: was built before {truth_file.relative_to(workspace())} changed, so its "
            f"boxes are not those of the data; `{app}` builds it anew, without what was edited in it"
        )
    state = _read_state(state_file, edits)
    base = undo(current, state.before, state.after) if state else current
    after = merge(base, find_corrections(edits.samples, annotations.read(truth_file)))
    if write and current != after:
        # The state comes first: if the second file can't be written, the next collection starts from the same base.
        new_state = _State(edits.created, edits.annotations_digest, base, after)
        write_text(state_file, _STATE.dump_json(new_state, exclude_none=True).decode())
        files.write(after, path)
    return Change(path, current, after)


def _read_edits(spec: DatasetSpec, app: str) -> Edits:
    found = run_child("pipeline.integrations.fiftyone_corrections", spec.name, asdict(spec))
    if found is None:
        raise PipelineError(f"FiftyOne has no dataset {spec.name}; `{app}` builds it")
    return _EDITS.validate_python(found)


def _read_state(path: Path, edits: Edits) -> _State | None:
    """The state of the previous collection; None if there was none, or if the dataset has been built anew since."""
    try:
        state = _STATE.validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    built = (state.created, state.annotations_digest)
    return state if built == (edits.created, edits.annotations_digest) else None


def _subtract(a: Iterable[Correction], b: Iterable[Correction]) -> list[Correction]:
    """The elements of `a` in their order without those of `b`; of equal ones, as many as `b` has are left out."""
    left_out = Counter(b)
    result = []
    for record in a:
        if left_out[record]:
            left_out[record] -= 1
        else:
            result.append(record)
    return result


def undo(
    current: Sequence[Correction], before: Sequence[Correction], after: Sequence[Correction]
) -> tuple[Correction, ...]:
    """The file as it was before the previous collection, with what people changed in the file since.

    Args:
        current: the file today.
        before: the file before the previous collection.
        after: the file after it.
    """
    kept = _subtract(before, _subtract(after, current))
    by_hand = _subtract(_subtract(current, after), kept)
    return tuple(kept + by_hand)


def merge(existing: Iterable[Correction], new: Iterable[Correction]) -> tuple[Correction, ...]:
    """The corrections of a file and new ones, sorted.

    New corrections refer to annotations as they are after those of the file: a box that was moved once and again is
    moved once, from its first place to its last. A correction that makes up for an earlier one removes it.
    """
    by_image: dict[str, list[Correction]] = defaultdict(list)
    for record in existing:
        by_image[record.file_name].append(record)
    for record in new:
        records = by_image[record.file_name]
        earlier = _find_earlier(records, record)
        if earlier is not None:
            records.remove(earlier)
            # What the file says about an annotation that was not converted since is replaced.
            origin = earlier.before if earlier.after == record.before else record.before
            combined = make(record.file_name, origin, record.after)
            records += [combined] if combined else []
        elif record.before or record not in records:
            records.append(record)
    return files.in_order(record for records in by_image.values() for record in records)


def _find_earlier(records: Sequence[Correction], new: Correction) -> Correction | None:
    if new.before is None:
        return None
    applied = (record for record in records if record.after == new.before)
    pending = (record for record in records if record.before == new.before)
    return next(applied, None) or next(pending, None)


def find_corrections(samples: Iterable[Sample], truth: AnnotationSet) -> Iterator[Correction]:
    """What people changed in the App, as corrections of the annotations that it shows.

    Raises:
        PipelineError: a tag is wrong; the message names the image and the box.
    """
    images = {image.id: image for image in truth.images}
    groups = truth.by_image()
    names = {category.id: category.name for category in truth.categories}
    for sample in samples:
        image = images[sample.image_id]
        if wrong := next((tag for tag in sample.tags if tag in ("remove", "add") or tag.startswith(_RELABEL)), None):
            raise PipelineError(f"{image.file_name}: the image has the tag {wrong}, which is for boxes; tag the box")
        if "exclude" in sample.tags:
            yield Correction(file_name=image.file_name, action="exclude")
        yield from _ImageEdits(image, groups[image.id], names).find(sample.labels)


@dataclass
class _ImageEdits:
    image: Image
    truth: Sequence[Annotation]
    names: Mapping[int, str]

    def find(self, labels: Sequence[Label]) -> Iterator[Correction]:
        before = {item.id: Labelled(self.names[item.category_id], rounded(item.bbox)) for item in self.truth}
        after, added = self._read_truth([label for label in labels if label.field == _TRUTH], before)
        for label in labels:
            if label.field != _TRUTH:
                self._read_other(label, before, after, added)
        for id, original in before.items():
            if record := make(self.image.file_name, original, after.get(id)):
                yield record
        # What is tagged in two fields, or again after it was added, is added once.
        for item in dict.fromkeys(added):
            if item not in before.values() and (record := make(self.image.file_name, None, item)):
                yield record

    def _read_truth(
        self, labels: Sequence[Label], before: Mapping[int, Labelled]
    ) -> tuple[dict[int, Labelled | None], list[Labelled]]:
        """The annotations as they are in the App, by id, and new ones. A copied label has the id of the original."""
        after: dict[int, Labelled | None] = {}
        added = []
        for label in labels:
            id = label.annotation_id
            original = before.get(id) if id is not None and id not in after else None
            tags = self._tags(label)
            if original and "add" in tags:
                raise self._error(label, "tag add: the box is in the ground truth already; the tag is for detections")
            result = None if "remove" in tags else self._read(label, tags, original)
            if original and id is not None:
                after[id] = result
            elif result:
                added.append(result)
        return after, added

    def _read_other(
        self,
        label: Label,
        before: Mapping[int, Labelled],
        after: dict[int, Labelled | None],
        added: list[Labelled],
    ) -> None:
        """A detection, or a box that proposes a correction: its id is that of the annotation which it would replace."""
        tags, id = self._tags(label), label.annotation_id
        original = before.get(id) if id is not None else None
        if not tags:
            return
        if "add" in tags and "remove" in tags:
            raise self._error(label, "tags add and remove: delete one of them")
        if "add" in tags and (id is None or original is None):
            added.append(self._read(label, tags, None))
        elif id is None or original is None:
            raise self._error(label, f"tag {next(iter(tags))}: it is for boxes of {_TRUTH}; add is for detections")
        elif "add" in tags:
            after[id] = self._read(label, tags, original)
        elif "remove" in tags:
            after[id] = None
        elif item := after.get(id):
            after[id] = Labelled(tags["relabel"], item.bbox)

    def _tags(self, label: Label) -> dict[str, str]:
        """The tags that mean a correction, with the class of `relabel`."""
        tags: dict[str, str] = {}
        for tag in map(str.strip, label.tags):
            if tag in ("remove", "add"):
                tags[tag] = ""
            elif tag == "exclude":
                raise self._error(label, "tag exclude: it is for images; tag the image, or use remove")
            elif tag.startswith(_RELABEL):
                name = self._class_name(label, tag.removeprefix(_RELABEL).strip(), f"tag {tag}")
                if tags.setdefault("relabel", name) != name:
                    raise self._error(label, f"tags {_RELABEL}{tags['relabel']} and {tag}: delete one of them")
        return tags

    def _read(self, label: Label, tags: Mapping[str, str], original: Labelled | None) -> Labelled:
        """The class and box of a label; unchanged where it differs from the original by rounding only."""
        category = tags.get("relabel") or self._class_name(label, label.category or "", "its class")
        bbox = self._pixels(label)
        if original and all(abs(a - b) <= _TOLERANCE for a, b in zip(bbox, original.bbox, strict=True)):
            return Labelled(category, original.bbox)
        checked, issue = check_box(bbox, self.image.width, self.image.height)
        if checked is None:
            raise self._error(label, f"{issue.message if issue else 'no box'}; draw it again")
        return Labelled(category, rounded(checked))

    def _pixels(self, label: Label) -> tuple[float, float, float, float]:
        x, y, width, height = label.box
        return x * self.image.width, y * self.image.height, width * self.image.width, height * self.image.height

    def _class_name(self, label: Label, name: str, what: str) -> str:
        if name not in self.names.values():
            known = ", ".join(self.names.values())
            raise self._error(label, f"{what}: no such class: {name!r}; the data set has {known}")
        return name

    def _error(self, label: Label, problem: str) -> PipelineError:
        box = list(rounded(self._pixels(label)))
        return PipelineError(f"{self.image.file_name}: {label.category} {box} in {label.field}: {problem}")


def main() -> None:
    """The child process: reads a DatasetSpec as JSON from stdin, and writes Edits as JSON to stdout."""
    spec = DatasetSpec(**json.load(sys.stdin))
    mongo.shorten_fiftyone_import()
    with redirect_stdout(sys.stderr):  # FiftyOne may print
        edits = _find_edits(spec.name)
    print(json.dumps(edits))  # noqa: T201


def _find_edits(name: str) -> dict[str, Any] | None:
    import fiftyone as fo
    from fiftyone.core.odm import get_db_conn

    if not fo.dataset_exists(name):
        return None
    dataset = fo.load_dataset(name)
    fields = list(dataset.get_field_schema(embedded_doc_type=fo.Detections))
    samples = get_db_conn()[dataset._doc.sample_collection_name]  # reading through FiftyOne takes ten times as long
    info, patch_tags = dataset.info, fiftyone_patches.read_tags(dataset)
    return {
        "created": str(dataset.created_at),
        "annotations_digest": info.get("annotations_digest") if info.get("data") else None,  # being filled
        "samples": [
            _read_sample(sample, fields, patch_tags) for sample in samples.find({}, ["image_id", "tags", *fields])
        ],
    }


def _read_sample(
    sample: Mapping[str, Any], fields: Iterable[str], patch_tags: Mapping[Any, list[str]]
) -> dict[str, Any]:
    """A document of the database as a `Sample`: all labels of the ground truth, of other fields the tagged ones.

    Args:
        patch_tags: tags that were given to the patches of boxes, by the id of the box.
    """
    labels = [
        {
            "field": field,
            "annotation_id": label.get("annotation_id"),
            "category": label.get("label"),
            "box": label["bounding_box"],
            "tags": tags,
        }
        for field in fields
        for label in (sample.get(field) or {}).get("detections") or []
        for tags in [[*(label.get("tags") or []), *patch_tags.get(label.get("_id"), [])]]
        if field == _TRUTH or tags
    ]
    return {"image_id": sample["image_id"], "tags": sample.get("tags") or [], "labels": labels}


if __name__ == "__main__":
    main()
