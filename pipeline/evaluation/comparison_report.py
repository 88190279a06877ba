"""A comparison of experiments as plain-text tables and as JSON."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from textwrap import indent
from typing import Any, Literal

from pipeline.data.annotations import AnnotationSet
from pipeline.errors import count_noun, format_table
from pipeline.evaluation import comparison
from pipeline.evaluation.comparison import ChangedImage, Comparison, Difference, Evaluation, is_error

SEED = "seed"
_MISSING = "—"


@dataclass(frozen=True, eq=False)
class Side:
    """An experiment, or several that differ in the seed of their training alone."""

    label: str  # A, B, …
    names: Sequence[str]
    params: Sequence[Mapping[str, Any]]  # of each experiment, by dotted name; empty for a file of detections
    evaluations: Sequence[Evaluation]

    @property
    def title(self) -> str:
        """The experiments' names; for several, with their number."""
        names = ", ".join(self.names)
        return names if len(self.names) == 1 else f"{names} ({count_noun(len(self.names), 'seed')})"

    def statistics(self) -> dict[str, tuple[float | None, float | None]]:
        """The mean and the standard deviation over the seeds, by metric."""
        names = self.evaluations[0].values
        columns = {name: [evaluation.values[name] for evaluation in self.evaluations] for name in names}
        return {name: (comparison.mean(values), comparison.deviation(values)) for name, values in columns.items()}


@dataclass(frozen=True, eq=False)
class Report:
    """The first side compared with each of the others."""

    truth: AnnotationSet
    sides: Sequence[Side]
    comparisons: Sequence[Comparison]  # one for each side but the first
    seeds: Side | None  # all experiments together, if they differ in the seed alone

    def pairs(self) -> Iterator[tuple[Side, Comparison]]:
        return zip(self.sides[1:], self.comparisons, strict=True)


def compare(
    truth: AnnotationSet,
    names: Sequence[str],
    params: Sequence[Mapping[str, Any]],
    evaluations: Sequence[Evaluation],
) -> Report:
    """Groups experiments that differ in the seed alone, and compares the first group with each of the others.

    If there is only one group, its members are compared with each other.
    """
    groups = group_by_seed(params)
    seeds = None
    if len(groups) == 1:
        seeds = _side("", groups[0], names, params, evaluations) if len(params) > 1 and params[0] else None
        groups = [[index] for index in groups[0]]
    sides = [_side(_label(number), group, names, params, evaluations) for number, group in enumerate(groups)]
    comparisons = [comparison.compare(sides[0].evaluations, side.evaluations) for side in sides[1:]]
    return Report(truth, sides, comparisons, seeds)


def group_by_seed(params: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Indices of the experiments, those that differ in the seed alone together, in the order of the first of each.

    Experiments with equal seeds, and files of detections, whose parameters are unknown, stay apart.
    """
    groups: list[list[int]] = []
    for index, values in enumerate(params):
        for group in groups:
            first = params[group[0]]
            seeds = {params[other][SEED] for other in group if SEED in params[other]}
            if values and _without_seed(values) == _without_seed(first) and values.get(SEED) not in seeds:
                group.append(index)
                break
        else:
            groups.append([index])
    return groups


def _without_seed(params: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if name != SEED}


def _side(
    label: str,
    group: Sequence[int],
    names: Sequence[str],
    params: Sequence[Mapping[str, Any]],
    evaluations: Sequence[Evaluation],
) -> Side:
    return Side(
        label,
        [names[index] for index in group],
        [params[index] for index in group],
        [evaluations[index] for index in group],
    )


def _label(number: int) -> str:
    """A … Z, then A2 … Z2."""
    return chr(ord("A") + number % 26) + (str(number // 26 + 1) if number >= 26 else "")


def differing_params(sides: Sequence[Side]) -> dict[str, list[str]]:
    """The parameters that differ, by dotted name: the value of each side; several where its experiments differ.

    Sides without parameters, files of detections, have a dash.
    """
    names = dict.fromkeys(name for side in sides for params in side.params for name in params)
    rows = {name: [_values(side, name) for side in sides] for name in names}
    known = [index for index, side in enumerate(sides) if side.params[0]]
    return {name: row for name, row in rows.items() if len({row[index] for index in known}) > 1}


def _values(side: Side, name: str) -> str:
    values = [params[name] for params in side.params if name in params]
    return ", ".join(dict.fromkeys(map(_show, values))) or _MISSING


def _show(value: Any) -> str:
    """A value as in params.yaml."""
    return (
        {None: "null", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else str(value)
    )


def to_json(report: Report) -> dict[str, Any]:
    """All numbers of a comparison; null for what has no value."""
    files = {image.id: image.file_name for image in report.truth.images}
    return {
        "experiments": [{"label": side.label, "names": list(side.names)} for side in report.sides],
        "parameters": {
            name: dict(zip((side.label for side in report.sides), row, strict=True))
            for name, row in differing_params(report.sides).items()
        },
        "images": len(report.truth.images),
        "objects": len(report.truth.annotations),
        "seeds": {
            side.label or "all": {
                name: {"mean": mean, "deviation": deviation} for name, (mean, deviation) in side.statistics().items()
            }
            for side in (*report.sides, *([report.seeds] if report.seeds else []))
            if len(side.names) > 1
        },
        "comparisons": [
            {
                "a": report.sides[0].label,
                "b": side.label,
                "metrics": {name: _difference_json(found) for name, found in result.metrics.items()},
                "classes": {
                    name: {metric: _difference_json(found) for metric, found in values.items()}
                    for name, values in result.classes.items()
                },
                "better": [_image_json(image, files) for image in result.better],
                "worse": [_image_json(image, files) for image in result.worse],
            }
            for side, result in report.pairs()
        ],
    }


def _difference_json(found: Difference) -> dict[str, Any]:
    return {**asdict(found), "excludes_zero": found.excludes_zero}


def _image_json(image: ChangedImage, files: Mapping[int, str]) -> dict[str, Any]:
    return {"image": files[image.image_id], "a": image.a, "b": image.b}


def to_text(report: Report) -> str:
    """The tables that people read."""
    parts = ["\n".join(f" {side.label}  {side.title}" for side in report.sides), _params_table(report)]
    if report.seeds:
        parts.append(_seeds_table(report.seeds))
    for side, result in report.pairs():
        first = report.sides[0]
        columns = (first.label, side.label, f"{side.label} − {first.label}", "95 % from", "to", "")
        parts.append(_table("metric", columns, _metric_rows(first, side, result)))
        if len(result.classes) > 1:
            classes = [(name, *_cells("AP", values["AP"])) for name, values in result.classes.items()]
            parts.append(_table("AP of class", columns, classes))
        parts.append(_image_line(report, side, result))
    images = count_noun(len(report.truth.images), "image")
    parts.append(f" Intervals are over {images}, with the same images drawn for both sides.")
    return "\n\n".join(part for part in parts if part)


def _params_table(report: Report) -> str:
    rows = [(name, *row) for name, row in differing_params(report.sides).items()]
    return _table("parameter", [side.label for side in report.sides], rows, alignment="l") if rows else ""


def _seeds_table(seeds: Side) -> str:
    rows = [(name, _format(mean), _format(deviation)) for name, (mean, deviation) in seeds.statistics().items()]
    return _table(f"over {count_noun(len(seeds.names), 'seed')}", ("mean", "deviation"), rows)


def _metric_rows(a: Side, b: Side, result: Comparison) -> Iterator[tuple[str, ...]]:
    before, after = a.statistics(), b.statistics()
    for name, found in result.metrics.items():
        _, _, *rest = _cells(name, found)
        yield name, _with_deviation(*before[name]), _with_deviation(*after[name]), *rest


def _cells(name: str, found: Difference) -> tuple[str, ...]:
    bounds = (_signed(found.low), _signed(found.high))
    return _format(found.a), _format(found.b), _signed(found.difference), *bounds, verdict(name, found)


def verdict(metric: str, found: Difference) -> str:
    """`better`, `worse` or `no difference`, as far as the images tell; empty without an interval."""
    if found.excludes_zero is None or found.difference is None:
        return ""
    if not found.excludes_zero:
        return "no difference"
    return "worse" if (found.difference > 0) == is_error(metric) else "better"


def _image_line(report: Report, side: Side, result: Comparison) -> str:
    equal = len(report.truth.images) - len(result.better) - len(result.worse)
    return (
        f" {side.label} has fewer errors than {report.sides[0].label} in {count_noun(len(result.better), 'image')}, "
        f"more in {len(result.worse):,}, and as many in {equal:,} "
        f"(at each detector's operating point, IoU {comparison.IOU})."
    )


def _table(title: str, columns: Sequence[str], rows: Iterator[Any] | Sequence[Any], alignment: str = "r") -> str:
    return indent(format_table([(title, *columns), *rows], "l" + alignment * len(columns)), " ")


def _format(value: float | None) -> str:
    return _MISSING if value is None else f"{value:.3f}"


def _signed(value: float | None) -> str:
    # Without the sign of what rounds to zero.
    return _MISSING if value is None else f"{round(value, 3) + 0.0:+.3f}"


def _with_deviation(mean: float | None, deviation: float | None) -> str:
    return _format(mean) if deviation is None else f"{_format(mean)} ± {_format(deviation)}"


def failures(report: Report, lowest: float, by: Literal["difference", "lower"]) -> Iterator[str]:
    """A line for each side whose AP changes by less than `lowest`, a fraction of 1.

    A comparison without an interval fails if its lower bound is asked for.
    """
    for side, result in report.pairs():
        ap = result.metrics["AP"]
        value = ap.difference if by == "difference" else ap.low
        if value is None or value < lowest:
            what = "AP changes by" if by == "difference" else "the lower bound of the change of AP is"
            points = "nothing that can be computed" if value is None else f"{100 * value:+.2f} points"
            yield f"{side.title}: {what} {points} from {report.sides[0].title}; allowed: {100 * lowest:+g}"
