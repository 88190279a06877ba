"""Detections in image files."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

from fcos.postprocess import Detections
from pipeline.data.image_files import DEFAULT_LIMIT, PixelLimit
from pipeline.data.images import read_image
from pipeline.errors import PipelineError
from pipeline.prediction.detector import ConfiguredDetector


@dataclass(frozen=True)
class Prediction:
    """The detections in an image."""

    path: Path
    width: int  # of the image, in pixels
    height: int
    detections: Detections  # boxes in pixels of the stored image


def predict_images(
    detector: ConfiguredDetector, paths: Iterable[Path], limit: PixelLimit = DEFAULT_LIMIT
) -> Iterator[tuple[torch.Tensor, Prediction] | PipelineError]:
    """Yields the pixels, uint8 [3, H, W], and the detections of each image, or the reason why it can't be read.

    At most `detector.batch_size` images are in memory.
    """
    remaining = iter(paths)
    while batch := list(islice(remaining, detector.batch_size)):
        read = [(path, _read(path, limit)) for path in batch]
        pixels = [image for _, image in read if isinstance(image, torch.Tensor)]
        found = iter(detector.detect(pixels))
        for path, image in read:
            if isinstance(image, PipelineError):
                yield image
            else:
                yield image, Prediction(path, image.shape[2], image.shape[1], next(found))


def predict_image(
    detector: ConfiguredDetector, path: Path, limit: PixelLimit = DEFAULT_LIMIT
) -> tuple[torch.Tensor, Prediction]:
    """The pixels, uint8 [3, H, W], and the detections of an image.

    Raises:
        PipelineError: the image can't be decoded, or is larger than the limit.
    """
    (result,) = predict_images(detector, [path], limit)
    if isinstance(result, PipelineError):
        raise result
    return result


def _read(path: Path, limit: PixelLimit) -> torch.Tensor | PipelineError:
    try:
        return read_image(path, limit=limit)
    except PipelineError as error:
        return error
