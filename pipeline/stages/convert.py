"""The convert stage: data/raw/<dataset> and data/corrections/<dataset>.json → data/unified."""

from collections import Counter
from typing import Any

from pipeline.conversion import convert
from pipeline.datasets import registry
from pipeline.errors import count_noun
from pipeline.params import Params
from pipeline.process import quick_exit
from pipeline.runner import run_stage
from pipeline.workspace import workspace


def run(params: Params) -> None:
    raw = workspace() / "data/raw" / params.dataset
    entry = registry.entry_for(params.dataset, raw)
    format = params.download.format if params.dataset == "custom" else "auto"
    if entry and format == "auto":
        format = entry.format
    options = registry.with_splits(params.convert, entry)
    corrections = workspace() / f"data/corrections/{params.dataset}.json"
    report = convert(raw, workspace() / "data/unified", options, format, corrections)
    print(_describe(params.dataset, report))  # noqa: T201


def _describe(dataset: str, report: dict[str, Any]) -> str:
    """One line for the terminal, and one for each remark on how the data set was read."""
    splits = [
        f"{name} {count_noun(split['images'], 'image')}, {count_noun(split['objects'], 'object')}"
        for name, split in report["splits"].items()
    ]
    classes = count_noun(len(report["splits"]["train"]["classes"]), "class", "classes")
    line = f"convert: {dataset} ({report['format']}, {classes}): {'; '.join(splits)}"
    parts = (
        _describe_seed(report),
        _describe_unused(report),
        _describe_corrections(report),
        _describe_issues(report),
    )
    return "\n".join(["; ".join([line, *filter(None, parts)]), *report["remarks"]])


def _describe_seed(report: dict[str, Any]) -> str:
    """The seed of the held-out images, if any: with a fixed seed, adding images moves no other image."""
    hold_out = report["hold_out"]
    return f"val held out by -S convert.split_seed={hold_out['split_seed']}" if hold_out else ""


def _describe_unused(report: dict[str, Any]) -> str:
    files, splits = report["unused_image_files"], report["unused_splits"]
    unused = [f"{count_noun(files, 'image file')} not used"] if files else []
    return ", ".join(unused + ([f"splits not used: {' '.join(splits)}"] if splits else []))


def _describe_corrections(report: dict[str, Any]) -> str:
    if not report["corrections"]:
        return ""
    applied = report["corrections"]["applied"]
    kinds = f" ({', '.join(f'{count} {action}' for action, count in applied.items())})" if applied else ""
    return f"{count_noun(sum(applied.values()), 'correction')} applied{kinds}"


def _describe_issues(report: dict[str, Any]) -> str:
    """The number of issues of each code, those that changed the data first."""
    counts: dict[str, Counter[str]] = {"repaired": Counter(), "noted": Counter()}
    for entry in report["entries"]:
        counts["noted" if entry["action"] == "note" else "repaired"][entry["code"]] += 1
    return "; ".join(
        f"{kind}: {', '.join(f'{count} {code}' for code, count in codes.items())} (data/unified/report.json)"
        for kind, codes in counts.items()
        if codes
    )


if __name__ == "__main__":
    with quick_exit():
        run_stage("convert", run)
