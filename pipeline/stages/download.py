"""The download stage: fetches or makes data/raw/<dataset>, as published."""

from pathlib import Path

from pipeline.datasets.sources import get
from pipeline.files import remove, replacing
from pipeline.params import Params
from pipeline.stage import run
from pipeline.workspace import workspace


def body(params: Params) -> None:
    raw = workspace() / "data/raw" / params.dataset
    with replacing(raw) as folder:
        spent = get(params, folder)
    for download in spent:
        remove(download)
    print(f"download: {params.dataset}: {_summary(raw)}")  # noqa: T201


def _summary(folder: Path) -> str:
    sizes = [file.stat().st_size for file in folder.rglob("*") if file.is_file()]
    return f"{len(sizes)} files, {sum(sizes) / 1e6:.1f} MB"


def main() -> None:
    run("download", body)


if __name__ == "__main__":
    main()
