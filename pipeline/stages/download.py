"""The download stage: downloads or generates data/raw/<dataset>, as published."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.datasets import sources
from pipeline.errors import count_noun
from pipeline.files import atomic_replace, remove
from pipeline.integrations import fiftyone_zoo
from pipeline.params import Params
from pipeline.process import quick_exit
from pipeline.runner import run_stage
from pipeline.workspace import workspace


def run(params: Params) -> None:
    """Writes data/raw/<dataset>, then removes downloads that are no longer needed."""
    raw = workspace() / "data/raw" / params.dataset
    with atomic_replace(raw) as folder:
        downloads = fetch(params, folder)
    for download in downloads:
        remove(download)
    print(f"download: {params.dataset}: {_summary(raw)}")  # noqa: T201


def fetch(params: Params, into: Path) -> Sequence[Path]:
    """Brings the data set into the folder `into`; returns downloads that may be removed afterwards."""
    if params.dataset.startswith(fiftyone_zoo.PREFIX):
        name = params.dataset.removeprefix(fiftyone_zoo.PREFIX)
        return fiftyone_zoo.fetch(name, params.download.zoo, into)
    return sources.fetch(params, into)


def _summary(folder: Path) -> str:
    sizes = [file.stat().st_size for file in folder.rglob("*") if file.is_file()]
    return f"{count_noun(len(sizes), 'file')}, {sum(sizes) / 1e6:.1f} MB"


if __name__ == "__main__":
    with quick_exit():
        run_stage("download", run)
