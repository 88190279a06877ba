"""The convert stage: data/raw/<dataset> → data/unified."""

from typing import Any

from pipeline.conversion import convert
from pipeline.datasets import registry
from pipeline.params import Params
from pipeline.stage import run
from pipeline.workspace import workspace


def body(params: Params) -> None:
    here = workspace()
    raw = here / "data/raw" / params.dataset
    entry = registry.describing(params.dataset, raw)
    asked = params.download.format if params.dataset == "custom" else "auto"
    format = entry.format if entry and asked == "auto" else asked
    report = convert(raw, here / "data/unified", registry.with_splits(params.convert, entry), format)
    print(_summary(params.dataset, report))  # noqa: T201


def _summary(dataset: str, report: dict[str, Any]) -> str:
    splits = [
        f"{name} {split['images']} images, {split['objects']} objects" for name, split in report["splits"].items()
    ]
    classes = len(report["splits"]["train"]["classes"])
    line = f"convert: {dataset} ({report['format']}, {classes} classes): {'; '.join(splits)}"
    found = ", ".join(f"{count} {code}" for code, count in report["counts"].items())
    return f"{line}; repaired: {found} (data/unified/report.json)" if found else line


def main() -> None:
    run("convert", body)


if __name__ == "__main__":
    main()
