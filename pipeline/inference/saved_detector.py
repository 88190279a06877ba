"""A saved detector, ready for inference."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch

from fcos.detector import Detector
from fcos.inference import load_fused
from fcos.onnx_detector import OnnxDetector
from fcos.weights import Description
from pipeline.data.annotations import AnnotationSet
from pipeline.errors import PipelineError


@dataclass(frozen=True)
class SavedDetector:
    """A detector for inference, its batch norm folded into the convolutions, and its description."""

    detector: Detector | OnnxDetector
    description: Description

    @classmethod
    def load(cls, path: Path, device: torch.device) -> Self:
        """Loads a detector, such as models/detector.safetensors, and the JSON file beside it; or an ONNX file.

        Raises:
            PipelineError: a file is missing or invalid.
        """
        try:
            return cls(*load_fused(path, device))
        except ValueError as error:
            raise PipelineError(str(error)) from None

    @property
    def network(self) -> Detector:
        """The detector, where its layers are needed.

        Raises:
            PipelineError: it is in an ONNX file, whose layers torch can't run.
        """
        if isinstance(self.detector, OnnxDetector):
            raise PipelineError(
                f"{self.detector.path}: only `fcos predict` and `fcos evaluate` run ONNX; give the .safetensors file "
                "that it was exported from"
            )
        return self.detector

    @property
    def class_names(self) -> list[str]:
        """The class names, indexed by label."""
        return [name for _, name in self.description.categories]

    def check_classes(self, split: AnnotationSet, path: Path) -> None:
        """Makes sure that a split has the classes that the detector was trained on.

        Args:
            path: the split's file, for the message.

        Raises:
            PipelineError: its classes differ.
        """
        categories = tuple((category.id, category.name) for category in split.categories)
        if categories != self.description.categories:
            raise PipelineError(
                f"{path}: its classes {[name for _, name in categories]} are not the detector's {self.class_names}: "
                "train again, or evaluate on data with the same categories"
            )
