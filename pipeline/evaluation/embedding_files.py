"""Files of embeddings: vectors of images, of annotated objects and of detections, or their points on a map."""

import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import PipelineError
from pipeline.files import atomic_replace

Ids = NDArray[np.int64]
Vectors = NDArray[np.floating]


@dataclass(frozen=True)
class Embeddings:
    """Unit vectors of a split: `predictions/embeddings_<split>.npz`, with one array for each field."""

    image_ids: Ids  # [N] ids of the images
    images: Vectors  # [N, levels · C] float16
    annotation_ids: Ids  # [M] ids of the annotated objects, crowds excluded
    annotations: Vectors  # [M, 4 · C] float16
    detection_rows: Ids  # [D] positions in the list of predictions/<split>.json, ascending
    detections: Vectors  # [D, 4 · C] float16

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads the file that the evaluate stage writes.

        Raises:
            PipelineError: the file is missing or invalid.
        """
        return cls(**_read(path, [field.name for field in fields(cls)]))

    def write(self, path: Path) -> None:
        """Writes the file, whole or not at all. The same embeddings always give the same bytes."""
        _write(path, {field.name: getattr(self, field.name) for field in fields(self)})

    def of_images(self, ids: Iterable[int]) -> Self:
        """The same embeddings with only these images, in the order given."""
        rows = _rows(self.image_ids, ids)
        return replace(self, image_ids=self.image_ids[rows], images=self.images[rows])

    def of_annotations(self, ids: Iterable[int]) -> Self:
        """The same embeddings with only these annotated objects, in the order given."""
        rows = _rows(self.annotation_ids, ids)
        return replace(self, annotation_ids=self.annotation_ids[rows], annotations=self.annotations[rows])

    def of_detections(self, positions: Iterable[int]) -> Self:
        """The same embeddings with only the detections at these positions of the file, in the order given."""
        rows = _rows(self.detection_rows, positions)
        return replace(self, detection_rows=self.detection_rows[rows], detections=self.detections[rows])


@dataclass(frozen=True)
class EmbeddingMap:
    """Points in two dimensions: `reports/embeddings.npz`. What is not drawn has neither id nor point."""

    image_ids: Ids  # [N]
    image_points: Vectors  # [N, 2] float32
    annotation_ids: Ids  # [M]
    annotation_points: Vectors  # [M, 2]; detections are on the same map
    detection_rows: Ids  # [D]
    detection_points: Vectors  # [D, 2]
    method: str  # tsne, umap, pca, or none for an empty map

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads the file that the inspect stage writes.

        Raises:
            PipelineError: the file is missing or invalid.
        """
        found = _read(path, [field.name for field in fields(cls)])
        return cls(**found | {"method": str(found["method"])})

    def write(self, path: Path) -> None:
        """Writes the file, whole or not at all. The same map always gives the same bytes."""
        _write(path, {field.name: np.asarray(getattr(self, field.name)) for field in fields(self)})


def _rows(ids: Ids, chosen: Iterable[int]) -> list[int]:
    """The rows of the chosen ids; those without an embedding are left out."""
    row_of = {number: row for row, number in enumerate(ids.tolist())}
    return [row_of[number] for number in chosen if number in row_of]


def _write(path: Path, arrays: dict[str, NDArray[np.generic]]) -> None:
    with atomic_replace(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def _read(path: Path, names: list[str]) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names}
    except FileNotFoundError:
        raise PipelineError(f"{path}: not there yet; run `dvc repro`") from None
    except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise PipelineError(f"{path}: not a file of embeddings ({error}); run `dvc repro -f evaluate`") from None
