"""A detector in an ONNX file that `fcos export` wrote, run by ONNX Runtime."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from fcos.config import InputSize
from fcos.description import Description
from fcos.detector import padded_size
from fcos.locations import make_locations
from fcos.postprocess import Detections, Postprocess
from fcos.structures import Outputs
from pipeline.errors import PipelineError
from pipeline.inference.onnx_metadata import Metadata

Arrays = Mapping[str, NDArray[Any]]


class OnnxDetector:
    """A detector for inference, in place of a `Detector`.

    Args:
        path: the file.
        device: where it runs; ONNX Runtime uses a GPU only if its own package for GPUs is installed.

    Raises:
        PipelineError: the file is missing, damaged, or not one of `fcos export`.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        self.path = path
        if not path.is_file():
            raise PipelineError(f"{path}: no such file")
        try:
            self.session = onnxruntime.InferenceSession(path, session_options(), providers=_providers(device))
        except Exception as error:  # noqa: BLE001 - ONNX Runtime's exceptions share no other base
            reason = str(error).strip().splitlines()[0]
            raise PipelineError(f"{path}: not an ONNX model that ONNX Runtime can run: {reason}") from None
        self.metadata = Metadata.parse(self.session.get_modelmeta().custom_metadata_map, path)

    @property
    def description(self) -> Description:
        return self.metadata.description

    def detect(self, images: Sequence[Tensor], input_size: InputSize, postprocess: Postprocess) -> list[Detections]:
        """Detects objects; images of one size share a batch.

        Args:
            images: uint8 [3, H, W] each, at any size: the model resizes them to the input size.

        Returns:
            The detections of each image, boxes in pixels of `images`.

        Raises:
            PipelineError: the model has no such post-processing.
        """
        groups = defaultdict(list)
        for index, image in enumerate(images):
            groups[image.shape].append(index)
        found: dict[int, Detections] = {}
        for indices in groups.values():
            batch = np.stack([images[index].permute(1, 2, 0).numpy() for index in indices])
            found.update(zip(indices, self._detect_batch(batch, input_size, postprocess), strict=True))
        return [found[index] for index in range(len(images))]

    def _detect_batch(
        self, batch: NDArray[np.uint8], input_size: InputSize, postprocess: Postprocess
    ) -> list[Detections]:
        feed: dict[str, NDArray[Any]] = {"images": batch, "size": np.array(input_size.size)}
        if self.metadata.raw:
            return self._postprocess(self._run(feed), input_size, postprocess, batch.shape[1:3])
        self._check(postprocess)
        feed |= {
            "score_threshold": np.array([postprocess.score_threshold], np.float32),
            "nms_iou_threshold": np.array([postprocess.nms_iou_threshold], np.float32),
            "pre_nms_topk": np.array([postprocess.pre_nms_topk]),
            "max_detections": np.array([postprocess.max_detections]),
        }
        outputs = self._run(feed)
        rows = zip(*(outputs[name] for name in ("boxes", "scores", "labels", "counts")), strict=True)
        return [
            Detections(*(torch.from_numpy(values[:count]) for values in (boxes, scores, labels)))
            for boxes, scores, labels, count in rows
        ]

    def _run(self, feed: Arrays) -> Arrays:
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, feed), strict=True))

    def _check(self, postprocess: Postprocess) -> None:
        for name in ("nms", "score_mode"):
            wanted, exported = (getattr(settings, name) for settings in (postprocess, self.metadata.postprocess))
            if wanted != exported:
                raise PipelineError(
                    f"{self.path}: was exported with postprocess.{name} {exported}, but {wanted} is set: "
                    "export it again, or with --raw"
                )

    def _postprocess(
        self, outputs: Arrays, input_size: InputSize, postprocess: Postprocess, stored: tuple[int, int]
    ) -> list[Detections]:
        """The detections in the outputs of a model without post-processing."""
        tensors = {name: torch.from_numpy(values) for name, values in outputs.items()}
        resized = (int(outputs["resized"][0]), int(outputs["resized"][1]))
        padded = padded_size(*(max(sides) for sides in zip(resized, input_size.canvas or (1, 1), strict=True)))
        config = self.description.model
        locations = make_locations(
            [(-(-padded[0] // stride), -(-padded[1] // stride)) for stride in config.strides],
            config.strides,
            mode=config.locations,
            ends=config.regression_ranges,
        )
        found = postprocess(
            Outputs(tensors["logits"], tensors["ltrb"], tensors.get("quality"), locations),
            [resized] * len(tensors["logits"]),
        )
        ratio = torch.tensor([stored[1] / resized[1], stored[0] / resized[0]] * 2)
        return [Detections(item.boxes * ratio, item.scores, item.labels) for item in found]


def session_options() -> onnxruntime.SessionOptions:
    """ONNX Runtime's options for this process: as many threads as torch uses, and errors only on standard error."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    return options


def _providers(device: torch.device) -> list[str]:
    wanted = ["CUDAExecutionProvider"] if device.type == "cuda" else []
    available = onnxruntime.get_available_providers()
    return [*(name for name in wanted if name in available), "CPUExecutionProvider"]
