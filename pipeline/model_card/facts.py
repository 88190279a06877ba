"""What a model card says, collected from the project: its data, the training, the detector and its evaluation."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fcos.config import ModelConfig
from fcos.description import Description
from pipeline import recipes
from pipeline.datasets import registry
from pipeline.datasets.registry import Source
from pipeline.digests import dvc_hash
from pipeline.evaluation.coco import ConfusedPair
from pipeline.evaluation.plot_tables import BACKGROUND, Table
from pipeline.evaluation.report import Report
from pipeline.files import digest, read_json
from pipeline.inference.network_costs import NetworkCosts, meta_detector, network_costs
from pipeline.params import Params

WEIGHT_FOLDERS = ("model.start_from", "train.extend_from")


@dataclass(frozen=True)
class Setting:
    """A parameter that differs from its default."""

    name: str
    value: Any
    default: Any  # None where there is none


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of a detector; None, or empty, for what is not."""

    dataset: str
    source: Source | None  # of the data set
    conversion: Mapping[str, Any]  # data/unified/report.json
    data_digest: str  # of data/unified, as in dvc.lock
    params: Params
    settings: tuple[Setting, ...]
    description: Description
    weights_digest: str
    weights_bytes: int
    costs: NetworkCosts  # for an image of `description.input_size`
    val: Mapping[str, Any]  # metrics/evaluate.json
    test: Mapping[str, Any] | None  # metrics/test.json
    confirmed: bool  # whether precision and recall in val are those of images that thresholds were not chosen on
    pairs: tuple[ConfusedPair, ...]  # at the operating point, the most confused first
    version: str  # of the package

    @property
    def class_names(self) -> list[str]:
        return [name for _, name in self.description.categories]


def collect(
    home: Path, params: Params, description: Description, val: Report, test: Report | None, confusion: Table
) -> Facts:
    """Collects the facts of the detector in `home`.

    Args:
        confusion: of `plot_tables`, in val.

    Raises:
        PipelineError: a file of the project is invalid.
    """
    weights, unified = home / "models/detector.safetensors", home / "data/unified"
    return Facts(
        dataset=params.dataset,
        source=registry.source_of(params.dataset, home / "data/raw" / params.dataset),
        conversion=_read(unified / "report.json"),
        data_digest=dvc_hash(unified),
        params=params,
        settings=settings(home, params),
        description=description,
        weights_digest=digest(weights),
        weights_bytes=weights.stat().st_size,
        costs=_costs(description),
        val=val.metrics,
        test=test.metrics if test else None,
        confirmed=val.operating_points.confirmed,
        pairs=_pairs(confusion),
        version=version("fcos-pipeline"),
    )


def _read(path: Path) -> Mapping[str, Any]:
    """The content of a JSON file; empty without the file."""
    content: Mapping[str, Any] = read_json(path) if path.is_file() else {}
    return content


def _costs(description: Description) -> NetworkCosts:
    detector = meta_detector(description.model, len(description.categories))
    return network_costs(detector, description.input_size.size)


def settings(home: Path, params: Params) -> tuple[Setting, ...]:
    """The parameters that determine data, training and evaluation, where they differ from the defaults."""
    defaults = recipes.defaults()
    recorded = replace(
        defaults,
        dataset=params.dataset,
        loss=params.loss,
        seed=params.seed,
        download=replace(defaults.download, digits=params.download.digits, zoo=params.download.zoo),
        convert=params.convert,
        model=_without_folders(params.model),
        train=params.train,
        postprocess=params.postprocess,
        evaluate=params.evaluate,
    )
    usual = defaults.flat()
    changed = (Setting(name, value, usual[name]) for name, value in recorded.flat().items() if value != usual[name])
    # Folders with weights are the same by default whether they are empty or not.
    return (*(item for item in changed if item.name not in WEIGHT_FOLDERS), *_start(home, params))


def _without_folders(model: ModelConfig) -> ModelConfig:
    return replace(model, pretrained=Path(model.pretrained).name) if isinstance(model.pretrained, str) else model


def _start(home: Path, params: Params) -> Iterator[Setting]:
    """The weights that training started from, by the names of their files: paths differ between machines."""
    for name, path in zip(WEIGHT_FOLDERS, (params.model.start_from, params.train.extend_from), strict=True):
        files = _weight_files(home / path) if path else []
        if files:
            yield Setting(name, ", ".join(files), None)


def _weight_files(path: Path) -> list[str]:
    """The names of the files with weights: of the file itself, or of those in a folder."""
    files = [path] if path.is_file() else path.glob("*")
    return sorted(file.name for file in files if file.suffix in (".safetensors", ".pth", ".pt"))


def _pairs(confusion: Table) -> tuple[ConfusedPair, ...]:
    rows = zip(*(confusion[name] for name in ("actual", "predicted", "count", "share")), strict=True)
    pairs = [
        ConfusedPair(str(actual), str(predicted), int(count), float(share))
        for actual, predicted, count, share in rows
        if count and actual != predicted and BACKGROUND not in (actual, predicted)
    ]
    return tuple(sorted(pairs, key=lambda pair: -pair.count))
