"""What is known of a saved detector besides its description: its data, and the thresholds chosen for it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.datasets import registry
from pipeline.digests import dvc_hash
from pipeline.files import digest, read_json
from pipeline.inference.score_thresholds import find_operating_point
from pipeline.model_card.files import read_card
from pipeline.yaml_files import read_yaml


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Values are None where they are not known."""

    weights: str  # SHA-256 of the file
    operating_point: dict[str, Any] | None  # content of operating_point.json
    dataset: str | None
    data_digest: str | None  # of data/unified when the detector was trained, from dvc.lock
    license: str | None  # of the data set
    model_card: str | None  # the text of the card that evaluation wrote for these weights

    @classmethod
    def of(cls, weights: Path) -> "Provenance":
        """What the project in whose folder models/ the weights lie knows of them.

        Raises:
            PipelineError: operating_point.json or dvc.lock is invalid.
        """
        found = find_operating_point(weights, otherwise="remove it")
        project, dataset, data_digest = _training_data(weights) or (None, None, None)
        source = registry.source_of(dataset, project / "data/raw" / dataset) if project and dataset else None
        return cls(
            weights=digest(weights),
            operating_point=read_json(found[0]) if found else None,
            dataset=dataset,
            data_digest=data_digest,
            license=source.license if source else None,
            model_card=read_card(weights),
        )


def images_folder(project: Path) -> Path:
    """The folder that the file names in a project's unified data are relative to."""
    dataset: str = read_yaml(project / "params.yaml")["dataset"]
    return project / "data/raw" / dataset


def project_of(weights: Path) -> Path | None:
    """The project that trained a detector: the folder above that of the weights, if it has unified data."""
    needed = ("params.yaml", "data/unified/train.json", "data/unified/val.json")
    projects = (folder.parent for folder in _folders(weights))
    return next((project for project in projects if all((project / name).is_file() for name in needed)), None)


def _folders(weights: Path) -> list[Path]:
    """The folders of the weights, which may be a link: into DVC's cache, or to a project's weights."""
    return list(dict.fromkeys((weights.parent.resolve(), weights.resolve().parent)))


def _training_data(weights: Path) -> tuple[Path, str | None, str | None] | None:
    """The project whose stage train wrote the weights, its data set at that time, and the digest of the data."""
    for folder in _folders(weights):
        lock = folder.parent / "dvc.lock"
        if folder.name != "models" or not lock.is_file():
            continue
        stage = read_yaml(lock).get("stages", {}).get("train", {})
        hashes = {item["path"]: item.get("md5") for key in ("deps", "outs") for item in stage.get(key, ())}
        if hashes.get("models") == dvc_hash(folder):
            dataset = stage.get("params", {}).get("params.yaml", {}).get("dataset")
            return folder.parent, dataset, hashes.get("data/unified")
    return None
