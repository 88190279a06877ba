"""Parameters and FLOPs of a detector, on the meta device: shapes only, no memory or compute."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fcos.config import ModelConfig
from fcos.detector import Detector, build
from pipeline.errors import PipelineError


@dataclass(frozen=True)
class LayerCosts:
    """Costs of one part of a detector for one image."""

    name: str
    output: str  # channels × height × width
    parameters: int
    flops: int


@dataclass(frozen=True)
class NetworkCosts:
    """Costs of a detector for one image."""

    layers: tuple[LayerCosts, ...]
    input_size: tuple[int, int]  # height and width after padding
    parameters: int
    trainable: int  # parameters that are not frozen
    flops: int  # 2 × multiply-adds of convolutions and matrix products, without norms
    locations: int


def meta_detector(model: ModelConfig, classes: int) -> Detector:
    """Builds the detector on the meta device.

    Raises:
        PipelineError: the model section of params.yaml describes no valid detector.
    """
    # Pretrained weights are not needed, but they decide whether `batch_norm: auto` freezes the norms.
    frozen = bool(model.pretrained) and model.batch_norm == "auto"
    config = replace(model, pretrained=False, batch_norm="frozen" if frozen else model.batch_norm)
    try:
        return build(config, classes).to("meta")
    except ValueError as error:
        raise PipelineError(f"params.yaml: model.{error}") from None


def network_costs(detector: Detector, size: tuple[int, int]) -> NetworkCosts:
    """The costs of a detector and of each of its parts for an image of this height and width."""
    batch = meta_batch(detector.eval(), size, 1)
    layers = list(_layers(detector))
    layer_outputs: dict[str, list[Tensor]] = {}
    hooks = [layer.register_forward_hook(_record_output(layer_outputs, path)) for _, path, layer in layers]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        outputs = detector(batch)
    for hook in hooks:
        hook.remove()
    flops = {path: sum(counts.values()) for path, counts in counter.get_flop_counts().items()}
    return NetworkCosts(
        layers=tuple(
            LayerCosts(
                name, _shape_text(layer_outputs[path]), _count_parameters(layer), flops.get(f"Detector.{path}", 0)
            )
            for name, path, layer in layers
            if path in layer_outputs
        ),
        input_size=(batch.shape[-2], batch.shape[-1]),
        parameters=_count_parameters(detector),
        trainable=sum(parameter.numel() for parameter in trainable_parameters(detector)),
        flops=counter.get_total_flops(),
        locations=sum(outputs.locations.counts),
    )


def meta_batch(detector: Detector, size: tuple[int, int], images: int) -> Tensor:
    """A batch of images of this height and width on the meta device, padded as the detector needs it."""
    return detector.prepare([torch.empty(3, *size, dtype=torch.uint8, device="meta")] * images)


def _layers(detector: Detector) -> Iterator[tuple[str, str, nn.Module]]:
    """Name, path and module of each part: the backbone's stages, the neck, the head's towers and output layers."""
    stages = list(detector.backbone.parts.children())
    for index, stage in enumerate(stages):
        number = 5 - (len(stages) - 1 - index)  # the last stage is C5
        yield f"backbone {'stem' if index == 0 and number < 3 else f'C{number}'}", f"backbone.parts.{index}", stage
    yield "neck", "neck", detector.neck
    for name, layer in detector.head.named_children():
        yield f"head {name.replace('_', ' ')}", f"head.{name}", layer


def _record_output(layer_outputs: dict[str, list[Tensor]], path: str) -> Any:
    def hook(_module: nn.Module, _inputs: object, output: Tensor | Sequence[Tensor]) -> None:
        layer_outputs.setdefault(path, []).extend([output] if isinstance(output, Tensor) else output)

    return hook


def _shape_text(outputs: Sequence[Tensor]) -> str:
    """Channels × height × width of the first output, and height × width of the others."""
    sides = ", ".join(f"{output.shape[-2]}×{output.shape[-1]}" for output in outputs)
    return f"{outputs[0].shape[1]} × {sides}"


def _count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def trainable_parameters(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that are not frozen."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
