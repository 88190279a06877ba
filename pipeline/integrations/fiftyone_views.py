"""Saved views of a FiftyOne dataset: the errors of one experiment by kind, the images to look at, and comparisons."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.evaluation.error_kinds import KINDS
from pipeline.integrations import fiftyone_info
from pipeline.integrations.fiftyone_fields import GROUND_TRUTH, LABEL_ERRORS, LOW_SCORE, ExperimentFields, content_hash

OPERATING_POINT = "Operating point"  # the view that the App opens with
SMALL = 32.0  # pixels: COCO's limit of small objects, as the square root of the area
MAX_PAIRS = 20  # of confused classes that have a view
MAX_CLASSES = 100  # that have a view of their hardest images
MAX_IMAGES = 100  # in the views of the hardest and the best images

_KIND_VIEWS = {
    "background": ("false_positives", "False positives", "detections without an object, highest score first"),
    "wrong_class": ("wrong_class", "Wrong class", "detections of an object of another class, highest score first"),
    "poor_box": ("poor_boxes", "Poor boxes", "detections that overlap their object too little, highest score first"),
    "duplicate": ("duplicates", "Duplicates", "further detections of a detected object, highest score first"),
}
_COMPARED = " than "  # in the names of views that compare experiments
_WRONG = tuple(kind for kind in KINDS if kind != "correct")


@dataclass(frozen=True)
class View:
    """A view to save, and where its size goes in the counts."""

    group: str  # views | confused_classes | hardest_by_class; the experiment's field for comparisons
    key: str | dict[str, str]  # in the group `views`, a name; in the lists of classes, what the view is about
    name: str
    description: str
    view: Any


def refresh(dataset: Any, fields: ExperimentFields, *, show: bool) -> dict[str, Any]:
    """Saves the views, and counts what is in them.

    Args:
        show: whether the saved views become those of this experiment; otherwise, they stay those of another one.

    Returns:
        `views`: the number of images by key, or of patches where the key begins with `patches_`.
        `confused_classes` and `hardest_by_class`: a list of records with the number of images. In lists, since DVC
        would show each number of a dictionary as a column.
    """
    views, comparisons = list(_views_of(dataset, fields)), list(_comparisons(dataset))
    counts: dict[str, Any] = {"views": {}, "confused_classes": [], "hardest_by_class": []}
    for item in [*views, *(item for item in comparisons if item.group == fields.predictions)]:
        size = len(item.view)
        if isinstance(item.key, str):
            counts["views"][item.key] = size
        else:
            counts[item.group].append({**item.key, "images": size})
    _save(dataset, [*(views if show else ()), *comparisons], replace_all=show)
    if show:
        fiftyone_info.save(dataset, shown=fields.predictions)
    return counts


def _save(dataset: Any, views: list[View], *, replace_all: bool) -> None:
    """Replaces the views that were saved here, and leaves those that a person saved."""
    info = fiftyone_info.read(dataset)
    saved: dict[str, str] = dict(info["views"])  # stored as pairs, since a key can't contain a dot
    # Also of the content: FiftyOne stores with a view of patches which patches it has cut out.
    stamps = [values["stamp"] for values in info["experiments"].values()]
    wanted = {
        item.name: content_hash(item.view._serialize(include_uuids=False), item.description, stamps) for item in views
    }
    changed = {name for name, value in wanted.items() if saved.get(name) != value}
    if any(_COMPARED not in name for name in changed):  # the App lists views as they were saved: comparisons last
        changed |= {name for name in wanted if _COMPARED in name}
    obsolete = [name for name in saved if replace_all or _COMPARED in name]
    for name in obsolete:
        if (name in changed or name not in wanted) and dataset.has_saved_view(name):
            dataset.delete_saved_view(name)
    for item in views:
        if item.name in changed:
            dataset.save_view(item.name, item.view, description=item.description, overwrite=True)
    kept = {name: value for name, value in saved.items() if name not in obsolete}
    fiftyone_info.save(dataset, views=list((kept | wanted).items()))


def _views_of(dataset: Any, fields: ExperimentFields) -> Iterator[View]:
    visible = _at_operating_point(dataset)
    text = "all images, with the detections that reach the score threshold of their class"
    yield View("views", "operating_point", OPERATING_POINT, text, visible)
    yield from _error_views(visible, fields)
    yield from _image_views(visible, fields)
    if dataset.has_field(LABEL_ERRORS):
        yield from _label_errors(_above_thresholds(dataset))
    yield from _confused_pairs(visible, fields)
    yield from _hardest_by_class(dataset, visible, fields)


def _at_operating_point(dataset: Any) -> Any:
    """All images, with what `_above_thresholds` shows except label errors: these have views of their own."""
    view = _above_thresholds(dataset)
    return view.exclude_fields(LABEL_ERRORS) if dataset.has_field(LABEL_ERRORS) else view


def _above_thresholds(dataset: Any) -> Any:
    """All images; of every experiment, the detections above the score thresholds of their classes."""
    from fiftyone import ViewField as F

    view = dataset.view()
    for name in dataset.info["experiments"]:
        view = view.filter_labels(name, F("error") != LOW_SCORE, only_matches=False)
    return view


def _error_views(visible: Any, fields: ExperimentFields) -> Iterator[View]:
    from fiftyone import ViewField as F

    labels = fields.predictions
    for kind, (key, name, description) in _KIND_VIEWS.items():
        view = visible.filter_labels(labels, F("error") == kind)
        by_score = view.sort_by(F(f"{labels}.detections.confidence").max(), reverse=True)
        patches = view.to_patches(labels).sort_by(f"{labels}.confidence", reverse=True)
        yield View("views", key, name, description, by_score)
        yield View("views", f"patches_{key}", f"{name} (patches)", f"each of them cut out: {description}", patches)
    view = visible.filter_labels(GROUND_TRUTH, F(fields.error) == "missed")
    by_size = view.sort_by(F(f"{GROUND_TRUTH}.detections.size").max(), reverse=True)
    patches = view.to_patches(GROUND_TRUTH).sort_by(f"{GROUND_TRUTH}.size", reverse=True)
    text = "objects without a detection, largest first"
    yield View("views", "missed_objects", "Missed objects", text, by_size)
    yield View("views", "patches_missed_objects", "Missed objects (patches)", f"each of them cut out: {text}", patches)


def _image_views(visible: Any, fields: ExperimentFields) -> Iterator[View]:
    from fiftyone import ViewField as F

    small = visible.filter_labels(GROUND_TRUTH, (F("size") < SMALL) & ~F("ignored"))
    wrong = visible.match(F(fields.errors) > 0)
    by_objects = visible.match(F("objects") > 0).sort_by("objects", reverse=True)
    right = visible.match((F("objects") > 0) & (F(fields.errors) == 0))
    for key, name, description, view in (
        ("most_errors", "Most errors", "images with errors, most first", wrong.sort_by(fields.errors, reverse=True)),
        (
            "hardest",
            "Hardest images",
            "highest LRP error first: wrong detections, missed objects and poor boxes in relation to all",
            wrong.sort_by(fields.lrp_error, reverse=True).limit(MAX_IMAGES),
        ),
        ("best", "Best images", "no error, best boxes first", right.sort_by(fields.lrp_error).limit(MAX_IMAGES)),
        (
            "small_objects",
            "Small objects",
            f"objects below {SMALL:g}×{SMALL:g} pixels, most per image first",
            small.sort_by(F(f"{GROUND_TRUTH}.detections").length(), reverse=True),
        ),
        (
            "crowded",
            "Crowded images",
            "the tenth of the images with the most objects",
            by_objects.limit(max(1, -(-len(visible) // 10))),
        ),
    ):
        yield View("views", key, name, description, view)


def _label_errors(visible: Any) -> Iterator[View]:
    from fiftyone import ViewField as F

    view = visible.match(F(f"{LABEL_ERRORS}.detections").length() > 0)
    by_rank = view.sort_by(F(f"{LABEL_ERRORS}.detections.rank_score").max(), reverse=True)
    patches = view.to_patches(LABEL_ERRORS).sort_by(f"{LABEL_ERRORS}.rank_score", reverse=True)
    text = "labels that are probably wrong or missing, most certain first"
    yield View("views", "label_errors", "Label errors", text, by_rank)
    yield View("views", "patches_label_errors", "Label errors (patches)", f"each of them cut out: {text}", patches)


def _confused_pairs(visible: Any, fields: ExperimentFields) -> Iterator[View]:
    """Detections of class B on objects of class A, the most frequent pairs first."""
    from fiftyone import ViewField as F

    labels = fields.predictions
    wrong = visible.filter_labels(labels, F("error") == "wrong_class")
    rows = wrong.values([f"{labels}.detections.true_label", f"{labels}.detections.label"], unwind=True)
    for (true, predicted), count in Counter(zip(*rows, strict=True)).most_common(MAX_PAIRS):
        view = wrong.filter_labels(labels, (F("true_label") == true) & (F("label") == predicted))
        by_score = view.sort_by(F(f"{labels}.detections.confidence").max(), reverse=True)
        pair = f"{true} → {predicted}"
        key = {"truth": true, "detected": predicted}
        yield View("confused_classes", key, f"Confused: {pair}", f"{count} times {predicted} on {true}", by_score)


def _hardest_by_class(dataset: Any, visible: Any, fields: ExperimentFields) -> Iterator[View]:
    """Images with missed objects or wrong detections of a class, most first; the classes with the most first."""
    from fiftyone import ViewField as F

    labels = fields.predictions
    missed = dataset.filter_labels(GROUND_TRUTH, F(fields.error) == "missed")
    wrong = dataset.filter_labels(labels, F("error").is_in(_WRONG))
    totals: Mapping[str, int] = Counter(missed.count_values(f"{GROUND_TRUTH}.detections.label")) + Counter(
        wrong.count_values(f"{labels}.detections.label")
    )
    for name in sorted(totals, key=lambda name: (-totals[name], name))[:MAX_CLASSES]:
        of_class = F("label") == name
        missed_here = F(f"{GROUND_TRUTH}.detections").filter(of_class & (F(fields.error) == "missed")).length()
        wrong_here = F(f"{labels}.detections").filter(of_class & F("error").is_in(_WRONG)).length()
        errors = missed_here + wrong_here
        view = visible.match(errors > 0).sort_by(errors, reverse=True)
        yield View(
            "hardest_by_class",
            {"class": name},
            f"Hardest: {name}",
            f"errors of class {name}, most per image first",
            view,
        )


def _comparisons(dataset: Any) -> Iterator[View]:
    """Images with fewer and with more errors than the baseline has, for each other experiment."""
    from fiftyone import ViewField as F

    experiments = dataset.info["experiments"]
    baseline = ExperimentFields.of(dataset.info.get("baseline"))
    if baseline.predictions not in experiments:
        return
    visible, first = _at_operating_point(dataset), dataset.info.get("baseline") or "workspace"
    for field, values in experiments.items():
        if field == baseline.predictions:
            continue
        name = values["name"] or "workspace"
        change = F(ExperimentFields.of(values["name"]).errors) - F(baseline.errors)
        for key, word, view in (
            ("better", "better", visible.match(change < 0)),
            ("worse", "worse", visible.match(change > 0)),
        ):
            ordered = view.sort_by(change, reverse=word == "worse")
            yield View(field, key, f"{name} {word}{_COMPARED}{first}", "largest change of errors first", ordered)
