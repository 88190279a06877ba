"""The convert stage: data/raw/<dataset> → data/unified."""

from collections import Counter
from typing import Any

from pipeline.conversion import convert
from pipeline.datasets import registry
from pipeline.errors import count_noun
from pipeline.params import Params
from pipeline.runner import run_stage
from pipeline.workspace import workspace


def run(params: Params) -> None:
    here = workspace()
    raw = here / "data/raw" / params.dataset
    entry = registry.entry_for(params.dataset, raw)
    asked = params.download.format if params.dataset == "custom" else "auto"
    format = entry.format if entry and asked == "auto" else asked
    report = convert(raw, here / "data/unified", registry.with_splits(params.convert, entry), format)
    print(_summary(params.dataset, report))  # noqa: T201


def _summary(dataset: str, report: dict[str, Any]) -> str:
    splits = [
        f"{name} {count_noun(split['images'], 'image')}, {count_noun(split['objects'], 'object')}"
        for name, split in report["splits"].items()
    ]
    classes = len(report["splits"]["train"]["classes"])
    line = f"convert: {dataset} ({report['format']}, {count_noun(classes, 'class', 'classes')}): {'; '.join(splits)}"
    found = (_drawn(report), _unused(report), _found(report, "repaired"), _found(report, "noted"))
    return "; ".join([line, *filter(None, found)])


def _drawn(report: dict[str, Any]) -> str:
    """How val was held out, where it was; a pinned seed moves no image when others are added."""
    seed = report["hold_out"] and report["hold_out"]["split_seed"]
    return "" if seed is None else f"val drawn by -S convert.split_seed={seed}"


def _unused(report: dict[str, Any]) -> str:
    """What lies there and is in no split that was made."""
    files, splits = report["unused_image_files"], report["unused_splits"]
    return ", ".join(
        [f"{count_noun(files, 'image file')} not used"] * bool(files)
        + [f"splits not used: {' '.join(splits)}"] * bool(splits)
    )


def _found(report: dict[str, Any], kind: str) -> str:
    codes = Counter(entry["code"] for entry in report["entries"] if (entry["action"] == "note") == (kind == "noted"))
    counted = ", ".join(f"{count} {code}" for code, count in codes.items())
    return f"{kind}: {counted} (data/unified/report.json)" if codes else ""


if __name__ == "__main__":
    run_stage("convert", run)
