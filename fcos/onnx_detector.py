"""An exported detector in an ONNX file, run by ONNX Runtime."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fcos.config import InputSize
from fcos.detector import padded_size
from fcos.locations import make_locations
from fcos.onnx_files import open_session
from fcos.onnx_metadata import Metadata
from fcos.postprocess import Detections, Postprocess, detect_in_groups
from fcos.structures import Outputs

_Arrays = Mapping[str, NDArray[Any]]


class OnnxDetector:
    """A detector for inference, in the place of a `Detector`.

    Args:
        path: the file.
        device: as for `open_session`.

    Raises:
        ValueError: the file is missing, damaged, or no exported detector; one line that says so.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        self.path, self.session = path, open_session(path, device)
        try:
            self.metadata = Metadata.from_props(self.session.get_modelmeta().custom_metadata_map)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def detect(self, images: Sequence[Tensor], input_size: InputSize, postprocess: Postprocess) -> list[Detections]:
        """Detects objects. Images of one size share a batch; no image is padded to the size of another.

        Args:
            images: uint8 [3, H, W] each, of any size: the model resizes them.

        Returns:
            The detections of each image, boxes in pixels of `images`.

        Raises:
            ValueError: the model can't do this post-processing.
        """
        self._check(input_size, postprocess)
        run = self._detect_raw if self.metadata.raw else self._detect

        def detect_batch(batch: Sequence[Tensor]) -> list[Detections]:
            return run(np.stack([image.permute(1, 2, 0).cpu().numpy() for image in batch]), input_size, postprocess)

        return detect_in_groups(detect_batch, images, [image.shape for image in images])

    def _check(self, input_size: InputSize, postprocess: Postprocess) -> None:
        exported = self.metadata.postprocess
        pairs: dict[str, tuple[object, object]] = {
            "letterbox": (input_size.letterbox, self.metadata.description.input_size.letterbox)
        }
        if not self.metadata.raw:
            pairs["nms"] = postprocess.nms, exported.nms
            pairs["score_mode"] = postprocess.score_mode, exported.score_mode
        for name, (wanted, value) in pairs.items():
            if wanted != value:
                raise ValueError(f"{self.path}: was exported with {name} {value}, not {wanted}; export it again")

    def _detect(self, batch: NDArray[np.uint8], input_size: InputSize, postprocess: Postprocess) -> list[Detections]:
        """Detections in a batch [B, H, W, 3]."""
        settings = {
            "score_threshold": np.array([postprocess.score_threshold], np.float32),
            "nms_iou_threshold": np.array([postprocess.nms_iou_threshold], np.float32),
            "pre_nms_topk": np.array([postprocess.pre_nms_topk]),
            "max_detections": np.array([postprocess.max_detections]),
        }
        outputs = self._run({"images": batch, "size": np.array(input_size.size), **settings})
        rows = zip(*(outputs[name] for name in ("boxes", "scores", "labels", "counts")), strict=True)
        return [
            Detections(*(torch.from_numpy(values[:count]) for values in (boxes, scores, labels)))
            for boxes, scores, labels, count in rows
        ]

    def _detect_raw(
        self, batch: NDArray[np.uint8], input_size: InputSize, postprocess: Postprocess
    ) -> list[Detections]:
        """As `_detect`, with a model that has no post-processing."""
        outputs, (height, width) = self.outputs(batch, input_size)
        found = postprocess(outputs, [(height, width)] * len(batch))
        ratio = torch.tensor([batch.shape[2] / width, batch.shape[1] / height] * 2)
        return [Detections(item.boxes * ratio, item.scores, item.labels) for item in found]

    def outputs(self, batch: NDArray[np.uint8], input_size: InputSize) -> tuple[Outputs, tuple[int, int]]:
        """The network's outputs, of a file without post-processing.

        Args:
            batch: [B, H, W, 3], of any size.

        Returns:
            The outputs, and the height and width of the resized images without padding.
        """
        tensors = {
            name: torch.from_numpy(values)
            for name, values in self._run({"images": batch, "size": np.array(input_size.size)}).items()
        }
        height, width = tensors["resized"].tolist()
        canvas = input_size.canvas or (1, 1)
        padded = padded_size(max(height, canvas[0]), max(width, canvas[1]))
        config = self.metadata.description.model
        shapes = [(-(-padded[0] // stride), -(-padded[1] // stride)) for stride in config.strides]
        locations = make_locations(shapes, config.strides, mode=config.locations, ends=config.regression_ranges)
        return Outputs(tensors["logits"], tensors["ltrb"], tensors.get("quality"), locations), (height, width)

    def _run(self, feed: _Arrays) -> _Arrays:
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, feed), strict=True))
