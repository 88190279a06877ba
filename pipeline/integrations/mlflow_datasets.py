"""Splits as MLflow's data sets, with the hash by which DVC knows the annotations."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.data.annotations import AnnotationSet
from pipeline.digests import dvc_hash


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
