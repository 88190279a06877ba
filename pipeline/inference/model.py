"""A saved detector, ready to use."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch

from fcos.detector import Detector
from fcos.fast.fused import fuse
from fcos.weights import Description, load_detector
from pipeline.data.annotations import AnnotationSet
from pipeline.errors import PipelineError


@dataclass(frozen=True)
class Model:
    """A detector for inference, its batch norm folded, and what it was trained on."""

    detector: Detector
    description: Description

    @classmethod
    def load(cls, path: Path, device: torch.device) -> Self:
        """Reads models/detector.safetensors and the JSON beside it.

        Raises:
            PipelineError: a file is missing, or isn't what it should be.
        """
        try:
            detector, description = load_detector(path, device)
        except ValueError as error:
            raise PipelineError(str(error)) from None
        return cls(fuse(detector), description)

    @property
    def class_names(self) -> list[str]:
        """By label."""
        return [name for _, name in self.description.categories]

    def check_classes(self, split: AnnotationSet, path: Path) -> None:
        """Makes sure that a split has the very classes that the detector learned.

        Raises:
            PipelineError: it has others.
        """
        theirs = tuple((category.id, category.name) for category in split.categories)
        if theirs != self.description.categories:
            raise PipelineError(
                f"{path}: its classes {[name for _, name in theirs]} are not the detector's {self.class_names}: "
                "train again, or evaluate on data with the same categories"
            )
