"""Splits as MLflow's data sets, with the hash by which DVC knows the annotations."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.data.annotations import AnnotationSet


@dataclass(frozen=True)
class Dataset:
    """A split, as MLflow keeps it."""

    name: str  # such as digits/val
    digest: str
    source: str
    profile: str
    source_type: str = "local"

    @classmethod
    def of(cls, dataset: str, split: str, annotations: AnnotationSet, unified: Path) -> "Dataset":
        """A split of a data set.

        Args:
            unified: the folder data/unified.
        """
        counts = {
            "images": len(annotations.images),
            "objects": len(annotations.objects),
            "crowds": annotations.num_crowds,
            "classes": len(annotations.categories),
        }
        return cls(
            name=f"{dataset}/{split}",
            digest=dvc_hash(unified),
            source=json.dumps({"uri": f"data/unified/{split}.json"}),
            profile=json.dumps(counts),
        )

    def input(self, context: str) -> dict[str, str]:
        """The data set, with what a run uses it for."""
        return {"context": context, **asdict(self)}


def dvc_hash(folder: Path) -> str:
    """The hash of a folder, as in dvc.lock: MD5 of the list of its files with their MD5, by path."""
    files = sorted((path.relative_to(folder).as_posix(), path) for path in folder.rglob("*") if path.is_file())
    listed = [{"md5": _md5(path), "relpath": name} for name, path in files]
    return hashlib.md5(json.dumps(listed, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
