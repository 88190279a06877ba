"""A saved detector as `fcos predict` uses it: with score thresholds, classes, post-processing and views."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from fcos.inference import above_thresholds, network_size
from fcos.postprocess import Detections, Postprocess, detect_in_groups
from pipeline.errors import PipelineError
from pipeline.inference.saved_detector import SavedDetector
from pipeline.inference.views import Views, detect_in_views

_NEVER = 2.0  # a threshold that no score reaches
_SPARE = 10  # times as many detections are found where those of some classes are left out
_TILES = 8  # of an image in a batch, at least


@dataclass(frozen=True)
class ConfiguredDetector:
    """A detector and the settings of a prediction."""

    model: SavedDetector
    thresholds: Sequence[float]  # [K], lowest final score, after post-processing, of a detection of each class
    postprocess: Postprocess
    views: Views
    batch_size: int = 1  # images, at most

    def detect(self, images: Sequence[torch.Tensor]) -> list[Detections]:
        """Detects objects in images; those that the network gets at the same size share a batch.

        Args:
            images: uint8 [3, H, W] RGB each, of any size; at most `batch_size` of them.

        Returns:
            The detections of each image that reach the thresholds, on the CPU, boxes in pixels of the image.
        """
        limit = self.postprocess.max_detections
        found_limit = limit * _SPARE if _NEVER in self.thresholds else limit
        detect_batch = partial(
            detect_in_views,
            self.model.detector,
            input_size=self.model.description.input_size,
            postprocess=replace(self.postprocess, max_detections=found_limit),
            views=self.views,
            batch_size=max(_TILES, self.batch_size),
        )
        found = detect_in_groups(detect_batch, images, [self._key(image) for image in images])
        return [above_thresholds(detections, self.thresholds)[:limit] for detections in found]

    def _key(self, image: torch.Tensor) -> Hashable:
        """Equal for images that can share a batch without additional padding, which would change their detections."""
        sizes = self.views.input_sizes(self.model.description.input_size)
        return (image.shape if self.views.tiles else None, *(network_size(image, size) for size in sizes))


def only_classes(thresholds: Sequence[float], class_names: Sequence[str], wanted: str | None) -> list[float]:
    """The thresholds, of which no detection reaches those of other classes than the wanted ones.

    Args:
        wanted: names separated by commas; None: all classes.

    Raises:
        PipelineError: a name is unknown.
    """
    if wanted is None:
        return list(thresholds)
    # The name of a class may contain a comma.
    names = [wanted] if wanted in class_names else [name.strip() for name in wanted.split(",")]
    for name in names:
        if name not in class_names:
            raise PipelineError(
                f"--classes: {name!r} is no class of the detector; known ones: {', '.join(class_names)}"
            )
    return [threshold if name in names else _NEVER for threshold, name in zip(thresholds, class_names, strict=True)]
