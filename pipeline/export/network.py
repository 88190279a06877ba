"""The network alone, from normalized images to outputs, traced by torch."""

import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import Tensor, nn

from fcos.detector import Detector, padded_size
from pipeline.errors import PipelineError

OPSET = 18
MULTIPLE, _ = padded_size(1, 1)  # the sides of a batch are multiples of this
_EXAMPLE = (2, 3, 9 * MULTIPLE, 13 * MULTIPLE)  # no level has a side of 1, or two equal sides
_MAX_SIDE = 2**20
# A level's height or width in the conditions of a program of torch, without spaces and parentheses, and what they say
# if none is 1. EfficientNet's padding makes it 1 + (size // 32 - 1) // 4 instead of 1 + (size - 1) // 128.
_LEVEL_SIDE = re.compile(r"(torch\.sym_max1,)?(1\+-1\+)?L\['pixels'\]\.size\[[23]\](//\d+)+")
_NOT_SINGLE = {"n>1", "n>=2", "n!=1", "n<n*n", "n%n*n!=0", "n*n!=n"}


class Network(nn.Module):
    """A detector without its locations, whose outputs are tensors: logits, ltrb, and quality if there is one."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, batch: Tensor) -> tuple[Tensor, ...]:
        """Normalized images [B, 3, H, W], H and W multiples of 32."""
        detector = self.detector
        logits, ltrb, quality, _ = detector.head(detector.neck(detector.backbone(batch)))
        return (logits, ltrb) if quality is None else (logits, ltrb, quality)


class Normalized(nn.Module):
    """A detector with its normalization."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, pixels: Tensor, sizes: Tensor) -> dict[str, Tensor]:
        """A batch of `batch_images`, uint8 [B, 3, H, W] and int64 [B, 2], to outputs by their names."""
        outputs = self.detector(self.detector.normalize_batch(pixels, sizes))
        named = {name: getattr(outputs, name) for name in output_names(self.detector)}
        return named | {"locations": outputs.locations.xy}


def output_names(detector: Detector) -> list[str]:
    """The names of the network's outputs."""
    return ["logits", "ltrb"] if detector.config.quality == "none" else ["logits", "ltrb", "quality"]


def to_onnx(detector: Detector) -> Any:
    """The network as a graph of ONNX operators (`onnx_ir.Model`), with a dynamic batch, height and width.

    Raises:
        PipelineError: an operator has no equivalent in ONNX, or depends on the images' size.
    """
    network = Network(detector).eval()
    with (
        torch.enable_grad(),
        _one_line(detector),
        quiet(),
        _constant_padding(),
    ):  # with gradients, `fuse` uses no operators of oneDNN
        program = torch.onnx.export(
            network,
            (torch.zeros(_EXAMPLE),),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch"), 2: _side("h"), 3: _side("w")},),
            input_names=["batch"],
            output_names=output_names(detector),
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    # The exporter notes the line of code of each operator, with the paths of this machine.
    return ClearMetadataAndDocStringPass()(program.model).model


def _side(name: str) -> Any:
    return MULTIPLE * torch.export.Dim(name, min=1, max=_MAX_SIDE // MULTIPLE)


def to_torch(detector: Detector) -> torch.export.ExportedProgram:
    """The detector as a program of torch, from `batch_images` to outputs, with a dynamic batch, height and width.

    Raises:
        PipelineError: it can't be traced.
    """
    batch = torch.export.Dim("batch")
    pixels = {0: batch, 2: _side("h"), 3: _side("w")}
    with torch.enable_grad(), _one_line(detector), quiet(), _constant_padding():
        program = torch.export.export(
            Normalized(detector).eval(),
            (torch.zeros(_EXAMPLE, dtype=torch.uint8), torch.tensor([_EXAMPLE[2:]] * _EXAMPLE[0])),
            dynamic_shapes=(pixels, {0: batch}),
        )
    # Of the sizes of levels, torch would require what holds in the example: that none is a single row or column. The
    # operators don't depend on it; `_guards_code` has no public counterpart, and the parity of such sizes is tested.
    guards = getattr(program, "_guards_code", [])
    program._guards_code = [guard for guard in guards if not excludes_single_rows(guard)]
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # with the paths of this machine
    return program


def excludes_single_rows(guard: str) -> bool:
    """Whether a condition of a program of torch says only that no level has a height or width of 1."""
    return _LEVEL_SIDE.sub("n", re.sub(r"[() ]", "", guard)) in _NOT_SINGLE


@contextmanager
def _one_line(detector: Detector) -> Iterator[None]:
    try:
        yield
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        cause = error.__cause__ or error
        reason = next(iter(str(cause).strip().splitlines()), type(cause).__name__)
        raise PipelineError(
            f"model.backbone {detector.config.backbone}: torch's exporter can't trace it ({reason}); "
            "train with another backbone"
        ) from None


@contextmanager
def _constant_padding() -> Iterator[None]:
    """Lets timm compute TensorFlow's SAME padding without a division of the size.

    In its models called tf_, they would be nested, layer by layer, as they were in EfficientNet-Lite, which the
    exporter did not finish in minutes.
    """
    padding = sys.modules.get("timm.layers.padding")
    original = getattr(padding, "get_same_padding", None)
    if padding is None or original is None:
        yield
        return

    def get_same_padding(x: Any, kernel_size: int, stride: int, dilation: int) -> Any:
        return max((kernel_size - 1) * dilation + 1 - (x % stride or stride), 0)

    setattr(padding, "get_same_padding", get_same_padding)  # noqa: B010 - a module has no such attribute for mypy
    try:
        yield
    finally:
        setattr(padding, "get_same_padding", original)  # noqa: B010


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporter's warnings, which nobody who exports can act on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
