"""The text of a model card, section by section."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.errors import count_noun, count_phrase
from pipeline.inference.views import Views
from pipeline.model_card import front_matter
from pipeline.model_card.facts import WEIGHT_FOLDERS, Facts, Setting
from pipeline.model_card.markdown import bullets, code, interval, number, section, table, text

_LISTED_CLASSES = 20  # in the first paragraph; the table at the end has all of them
_SHOWN_PAIRS, _LOWEST_CLASSES = 5, 3
_FEW_OBJECTS = 10  # of a class, below which its AP says little
_METRICS = {
    "AP": "AP, IoU 0.50:0.95",
    "AP50": "AP50",
    "AP75": "AP75",
    "APs": "AP of small objects, below 32² pixels",
    "APm": "AP of medium objects",
    "APl": "AP of large objects, above 96² pixels",
    "AR100": "AR, 100 detections per image",
}
_POINT = {"precision": "Precision", "recall": "Recall", "f1": "F1"}
_ERRORS = {
    "missed": "missed object",
    "background": "detection where no object is",
    "wrong_class": "wrong class",
    "poor_box": "poorly fitting box",
    "duplicate": "duplicate",
    "wrong_class_and_poor_box": "wrong class and poorly fitting box",
}


def render(facts: Facts) -> str:
    """The card, as Markdown with front matter."""
    sections = (_title(facts), _use(facts), _limits(facts), _results(facts), _errors(facts), _failures(facts))
    details = (_data(facts), _recipe(facts), _cost(facts), _classes(facts))
    return "\n\n".join([front_matter.render(facts), *filter(None, (*sections, *details))]) + "\n"


def _title(facts: Facts) -> str:
    count = count_noun(len(facts.class_names), "class", "classes")
    listed = ", ".join(map(text, facts.class_names))
    names = f"{count}: {listed}" if len(facts.class_names) <= _LISTED_CLASSES else f"{count}, listed [below](#classes)"
    return "\n\n".join(
        [
            f"# FCOS detector for {text(_dataset(facts))}",
            f"It finds objects of {names}. It was evaluated with fcos-pipeline {facts.version}.",
            _headline(facts.val),
        ]
    ).rstrip()


def _dataset(facts: Facts) -> str:
    return facts.source.title if facts.source and facts.source.title else facts.dataset


def _headline(val: Mapping[str, Any]) -> str:
    if val["coco"]["AP"] is None:
        return ""
    found = []
    for name in ("AP", "AP50"):
        bounds = interval(**val["intervals"][name])
        found.append(f"{name} {number(val['coco'][name])}" + (f" (95 % interval {bounds})" if bounds else ""))
    return f"On {count_noun(val['images'], 'validation image')}: {' and '.join(found)}."


def _use(facts: Facts) -> str:
    python = [
        "```python",
        "import fcos",
        "",
        'detector = fcos.load("models/detector.safetensors")  # detector.json lies beside it',
        'result = detector.predict("photo.jpg")',
        "print(result.boxes, result.scores, result.names)  # boxes are x1, y1, x2, y2 in pixels",
        "```",
    ]
    return section("Use", "\n".join(python), f"The file of weights has the SHA-256 {code(facts.weights_digest)}.")


def _limits(facts: Facts) -> str:
    return section("Intended use and limits", bullets(_limit_lines(facts)))


def _limit_lines(facts: Facts) -> Iterator[str]:
    name = text(_dataset(facts))
    yield f"For images like those of {name}. The numbers below hold for such images, and for no others."
    yield "It knows its classes only: other objects are background to it, or are taken for one of them."
    yield f"{_input(facts)} It runs on a CPU or an NVIDIA GPU."
    if size := _smallest(facts):
        yield size
    views = Views.of(facts.params.evaluate)
    if not views.is_like(Views()):
        yield f"The numbers are those of detection in several views of each image: {views.describe()}."
    if facts.params.train.overfit:
        yield f"It was trained on {count_noun(facts.params.train.overfit, 'image')} as a check (`train.overfit`)."
    if facts.val["operating_point"]["score"] is not None and not facts.confirmed:
        yield (
            "The score thresholds were chosen on the validation images themselves, so precision, recall and F1 there "
            "are optimistic."
        )


def _input(facts: Facts) -> str:
    (first, second), letterbox = facts.description.input_size.size, facts.description.input_size.letterbox
    if letterbox:
        return f"Images are fitted into {first}×{second} pixels (height × width)."
    if first == second:
        return f"Images are resized until their longer side has {first} pixels."
    return (
        f"Images are resized until their shorter side has {first} pixels, or less if the longer side would have more "
        f"than {second}."
    )


def _smallest(facts: Facts) -> str:
    """The bin of the smallest objects, where enough of them were seen to tell."""
    bins = {name: size for name, size in facts.val["by_size"].items() if size["objects"] >= _FEW_OBJECTS}
    if len(bins) < 2:
        return ""
    name, size = next(iter(bins.items()))
    return (
        f"Small objects are harder: AP is {number(size['AP'])} for the {size['objects']:,} validation objects of "
        f"{name.replace('-', ' to ')} pixels at the network's input, and {number(facts.val['coco']['AP'])} for all."
        if size["AP"] is not None and size["AP"] < facts.val["coco"]["AP"]
        else ""
    )


def _results(facts: Facts) -> str:
    splits = {"validation": facts.val} | ({"test": facts.test} if facts.test else {})
    header = ["metric", *(title for split in splits for title in (split, "95 % interval"))]
    rows = [
        [title, *(cell for values in splits.values() for cell in _metric(values, name))]
        for name, title in _METRICS.items()
        if any(values["coco"][name] is not None for values in splits.values())
    ]
    rows += [
        [title, *(cell for values in splits.values() for cell in (number(values["operating_point"][name]), ""))]
        for name, title in _POINT.items()
        if any(values["operating_point"][name] is not None for values in splits.values())
    ]
    return section("Results", table(header, rows), _notes(facts))


def _metric(values: Mapping[str, Any], name: str) -> tuple[str, str]:
    return number(values["coco"][name]), interval(**values["intervals"].get(name, {"low": None, "high": None}))


def _notes(facts: Facts) -> str:
    lines = ["AP and AR as COCO defines them. Intervals are over images."]
    if (score := facts.val["operating_point"]["score"]) is not None:
        lines.append(
            "Precision, recall and F1 are means over classes at an IoU of 0.5 and at the score threshold of each class "
            f"with the best F1 ([classes](#classes)); one threshold for all classes would be {number(score)}."
        )
    if (error := facts.val["calibration_error"]) is not None:
        lines.append(f"Expected calibration error of the scores: {number(error)}.")
    return " ".join(lines)


def _errors(facts: Facts) -> str:
    errors = facts.val["errors"]
    if any(error["AP50_cost"] is None for error in errors.values()):
        return ""
    rows = [
        (_ERRORS[kind], number(error["AP50_cost"]), f"{error['count']:,}")
        for kind, error in sorted(errors.items(), key=lambda item: -item[1]["AP50_cost"])
        if error["count"]
    ]
    note = (
        "In the validation split, at all scores. The cost is how much higher AP50 would be without errors of a kind; "
        "costs don't add up, since each is computed as if the other errors remained."
    )
    return section("Errors", table(("error", "costs AP50", "number"), rows), note if rows else "")


def _failures(facts: Facts) -> str:
    sizes = [
        (f"{name.replace('-', '–')} pixels", f"{size['objects']:,}", number(size["AP"]), number(size["AP50"]))
        for name, size in facts.val["by_size"].items()
        if size["objects"]
    ]
    by_size = table(("size at the network's input", "objects", "AP", "AP50"), sizes)
    return section("Typical failures", bullets(_failure_lines(facts)), by_size)


def _failure_lines(facts: Facts) -> Iterator[str]:
    for pair in facts.pairs[:_SHOWN_PAIRS]:
        yield (
            f"{text(pair.actual)} detected as {text(pair.predicted)}: {count_noun(pair.count, 'object')}, "
            f"{100 * pair.share:.0f} % of those of its class"
        )
    known = _ranked(facts)
    if len(known) > _LOWEST_CLASSES:
        lowest = ", ".join(f"{text(name)} ({number(values['AP'])})" for name, values in known[:_LOWEST_CLASSES])
        yield f"lowest AP: {lowest}"
    if beyond := facts.val["objects_beyond_limit"]:
        yield f"crowded images: {count_noun(beyond, 'object')} beyond the 100 detections of a class that AP counts"


def _ranked(facts: Facts) -> list[tuple[str, Mapping[str, Any]]]:
    """Classes with enough objects to tell, the lowest AP first."""
    objects = _split(facts, "val").get("classes", {})
    return sorted(
        (
            (name, values)
            for name, values in facts.val["per_class"].items()
            if values["AP"] is not None and objects.get(name, _FEW_OBJECTS) >= _FEW_OBJECTS
        ),
        key=lambda item: item[1]["AP"],
    )


def _split(facts: Facts, name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = facts.conversion.get("splits", {}).get(name, {})
    return found


def _data(facts: Facts) -> str:
    columns = ("images", "images_without_objects", "objects")
    splits = facts.conversion.get("splits", {})
    rows = [(name, *(f"{split[column]:,}" for column in columns)) for name, split in splits.items()]
    header = ("split", "images", "without objects", "objects")
    return section("Training data", bullets(_data_lines(facts)), table(header, rows))


def _data_lines(facts: Facts) -> Iterator[str]:
    source = facts.source
    yield f"data set: {text(facts.dataset)}" + (f", {text(source.title)}" if source and source.title else "")
    if source and source.homepage:
        yield f"source: <{source.homepage}>"
    if source:
        yield f"license of the data: {text(source.license)}"
    if source and source.citation:
        yield f"citation: {text(' '.join(source.citation.split()))}"
    if hold_out := facts.conversion.get("hold_out"):
        yield f"validation images held out with `convert.split_seed` {hold_out['split_seed']}"
    if applied := (facts.conversion.get("corrections") or {}).get("applied"):
        yield f"corrections applied: {', '.join(f'{count} {text(action)}' for action, count in applied.items())}"
    if counts := facts.conversion.get("counts"):
        yield f"remarks of the conversion: {', '.join(f'{count:,} {text(code)}' for code, count in counts.items())}"
    yield f"digest of the annotations (DVC): {code(facts.data_digest)}"


def _recipe(facts: Facts) -> str:
    rows = [(code(item.name), _value(item.value), _default(item)) for item in facts.settings]
    changed = table(("parameter", "value", "default"), rows)
    note = (
        f"Parameters that differ from the defaults of fcos-pipeline {facts.version}:"
        if rows
        else f"All parameters have the defaults of fcos-pipeline {facts.version}."
    )
    return section("Recipe", bullets(_recipe_lines(facts)), note, changed)


def _recipe_lines(facts: Facts) -> Iterator[str]:
    model, train = facts.description.model, facts.params.train
    levels = f"P{model.levels[0]}" + (f" to P{model.levels[-1]}" if len(model.levels) > 1 else "")
    yield f"{text(model.backbone)}, {_start(facts)}; {model.neck} with {levels} of {model.channels} channels"
    assigner, classes, boxes = (
        name.replace("_", " ") for name in (model.assigner, model.classification_loss, facts.params.loss)
    )
    yield f"{assigner} assignment; {classes} loss for classes, {boxes} loss for boxes; quality output: {model.quality}"
    epochs = ("up to " if train.early_stopping else "") + count_noun(train.epochs, "epoch")
    yield (
        f"{epochs} with {count_noun(train.batch_size, 'image')} in a batch; {train.optimizer}, learning rate "
        f"{train.lr:g}, {train.schedule.replace('_', ' ')} schedule; seed {facts.params.seed}"
        + (f"; computed in {facts.description.precision}" if facts.description.precision else "")
    )


def _start(facts: Facts) -> str:
    """What the weights were before training."""
    for setting in facts.settings:
        if setting.name in WEIGHT_FOLDERS:
            return f"fine-tuned from {code(setting.value)}"
    return "its backbone pretrained" if facts.description.model.pretrained else "trained from random weights"


def _value(value: Any) -> str:
    return code(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _default(setting: Setting) -> str:
    return "" if setting.default is None and isinstance(setting.value, str) else _value(setting.default)


def _cost(facts: Facts) -> str:
    costs = facts.costs
    height, width = costs.input_size
    rows = [
        ("parameters", f"{costs.parameters:,}"),
        (f"multiply-adds for an image of {height}×{width} pixels", f"{costs.flops / 2e9:.2f} billion"),
        ("file of weights", f"{facts.weights_bytes / 1e6:.1f} MB"),
    ]
    return section("Cost", table(("quantity", "value"), rows))


def _classes(facts: Facts) -> str:
    columns: Sequence[str] = ("AP", "95 % interval", "AP50", "score threshold", "precision", "recall")
    train, val = (_split(facts, name).get("classes") for name in ("train", "val"))
    counts = {"in train": train, "in val": val}
    known = {title: objects for title, objects in counts.items() if objects is not None}
    rows = [
        (text(name), *(f"{objects.get(name, 0):,}" for objects in known.values()), *_class_cells(values))
        for name, values in facts.val["per_class"].items()
    ]
    header = ("class", *(f"objects {title}" for title in known), *columns)
    return section("Classes", table(header, rows), _unseen(facts))


def _class_cells(values: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        number(values["AP"]),
        interval(values["AP_low"], values["AP_high"]),
        *(number(values[name]) for name in ("AP50", "score", "precision", "recall")),
    )


def _unseen(facts: Facts) -> str:
    """A line about the classes of which the validation split has no object."""
    unseen = sum(values["AP"] is None for values in facts.val["per_class"].values())
    return f"{count_phrase(unseen, 'classes')} without objects in the validation split." if unseen else ""
