"""Parameters, FLOPs and training memory of a detector, on the meta device: shapes only, no memory or compute."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fcos.config import ModelConfig
from fcos.criterion import Criterion
from fcos.detector import Detector, build
from fcos.structures import make_targets
from fcos.training.optimization import make_optimizer
from pipeline.errors import PipelineError
from pipeline.params import Params


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


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes that a training step holds, in float32."""

    weights: int  # with the statistics of norms
    gradients: int
    optimizer: int  # state of the optimizer
    ema: int  # moving average of the weights
    activations: int  # kept from the forward pass and the loss for the backward pass
    batch_size: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.ema + self.activations


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
    batch = _batch(detector.eval(), size, 1)
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
        trainable=sum(parameter.numel() for parameter in _trainable(detector)),
        flops=counter.get_total_flops(),
        locations=sum(outputs.locations.counts),
    )


def _batch(detector: Detector, size: tuple[int, int], images: int) -> Tensor:
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


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def training_memory(params: Params, detector: Detector, size: tuple[int, int], batch_size: int) -> TrainingMemory:
    """The memory of a training step on images of this height and width. `detector` gets gradients of zero size."""
    train = params.train
    optimizer = make_optimizer(
        detector, name=train.optimizer, lr=train.lr, weight_decay=train.weight_decay, momentum=train.momentum
    )
    activations = _activation_bytes(params, detector.train(), size, batch_size)
    weights = list(detector.state_dict().values())
    trainable = _trainable(detector)
    for parameter in trainable:
        parameter.grad = torch.empty_like(parameter)
    optimizer.step()
    state = [value for group in optimizer.state.values() for value in group.values() if isinstance(value, Tensor)]
    return TrainingMemory(
        weights=_bytes(weights),
        gradients=_bytes(trainable),
        optimizer=_bytes(state),
        ema=_bytes(weights) if train.ema_decay else 0,
        activations=activations,
        batch_size=batch_size,
    )


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _activation_bytes(params: Params, detector: Detector, size: tuple[int, int], images: int) -> int:
    """Bytes of the tensors that autograd saves for the backward pass, each storage once, without the weights."""
    weights = {tensor.untyped_storage()._cdata for tensor in [*detector.parameters(), *detector.buffers()]}
    saved: dict[int, torch.UntypedStorage] = {}  # kept alive, so that no other storage gets the same identity

    def record(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        outputs = detector(_batch(detector, size, images))
        truth = make_targets([torch.zeros(1, 4)] * images, [torch.zeros(1, dtype=torch.int64)] * images)
        # The loss keeps the graph alive until all storages are counted.
        loss = Criterion(params.model, box_loss=params.loss)(outputs, truth.to(torch.device("meta"))).total
    total = sum(storage.nbytes() for identity, storage in saved.items() if identity not in weights)
    del loss
    return total
