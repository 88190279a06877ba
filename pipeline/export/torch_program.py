"""A detector in a program of `torch.export`, as `fcos export --format torch` writes it."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from fcos.config import InputSize, ModelConfig
from fcos.detector import batch_images
from fcos.inference import fit, rescale
from fcos.locations import make_locations
from fcos.postprocess import Detections, Postprocess
from fcos.structures import Outputs
from pipeline.errors import PipelineError
from pipeline.export.network import quiet

Program = Callable[[Tensor, Tensor], dict[str, Tensor]]


def load(path: Path) -> Program:
    """Loads a program that this process has written: torch doesn't promise that files of others are harmless."""
    with quiet(), path.open("rb") as file:
        program: Program = torch.export.load(file).module()
    return program


@torch.inference_mode()
def outputs(
    program: Program, images: Sequence[Tensor], config: ModelConfig, canvas: tuple[int, int] | None = None
) -> Outputs:
    """The network's outputs for a batch of resized images, uint8 [3, H, W] each; see `batch_images`.

    Raises:
        PipelineError: torch traced the network with a condition that excludes this size.
    """
    pixels, sizes = batch_images(images, canvas)
    try:
        found = program(pixels, sizes)
    except AssertionError as error:
        height, width = pixels.shape[2:]
        raise PipelineError(
            f"the program of torch.export takes no batch of {height}×{width} pixels ({str(error).splitlines()[0]}); "
            "--format onnx has no such conditions"
        ) from None
    shapes = [(-(-pixels.shape[2] // stride), -(-pixels.shape[3] // stride)) for stride in config.strides]
    locations = make_locations(shapes, config.strides, mode=config.locations, ends=config.regression_ranges)
    return Outputs(found["logits"], found["ltrb"], found.get("quality"), locations)


def detect(
    program: Program, image: Tensor, config: ModelConfig, input_size: InputSize, postprocess: Postprocess
) -> Detections:
    """The detections in an image, uint8 [3, H, W] as stored."""
    resized = fit(image, input_size)
    height, width = resized.shape[-2:]
    (found,) = postprocess(outputs(program, [resized], config, input_size.canvas), [(height, width)])
    return rescale(found, resized, image)
