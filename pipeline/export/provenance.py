"""What is known of a saved detector besides its description: its data, and the thresholds chosen for it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.datasets import registry
from pipeline.digests import dvc_hash
from pipeline.files import digest, read_json
from pipeline.inference.score_thresholds import find_operating_point
from pipeline.yaml_files import read_yaml


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Values are None where they are not known."""

    weights: str  # SHA-256 of the file
    operating_point: dict[str, Any] | None  # content of operating_point.json
    dataset: str | None
    data_digest: str | None  # of data/unified, as in dvc.lock
    license: str | None  # of the data set

    @classmethod
    def of(cls, weights: Path) -> "Provenance":
        """What the project in whose folder models/ the weights lie knows of them.

        Raises:
            PipelineError: operating_point.json or params.yaml is invalid.
        """
        found, project = find_operating_point(weights), project_of(weights)
        dataset = read_yaml(project / "params.yaml").get("dataset") if project else None
        entry = registry.entry_for(dataset, project / "data/raw" / dataset) if project and dataset else None
        return cls(
            weights=digest(weights),
            operating_point=read_json(found[0]) if found else None,
            dataset=dataset,
            data_digest=dvc_hash(project / "data/unified") if project else None,
            license=entry.license if entry else None,
        )


def images_folder(project: Path) -> Path:
    """The folder that the file names in a project's unified data are relative to."""
    dataset: str = read_yaml(project / "params.yaml")["dataset"]
    return project / "data/raw" / dataset


def project_of(weights: Path) -> Path | None:
    """The project that trained a detector: the folder above that of the weights, if it has unified data."""
    folder = weights.resolve().parent.parent
    needed = ("params.yaml", "data/unified/train.json", "data/unified/val.json")
    return folder if all((folder / name).is_file() for name in needed) else None
