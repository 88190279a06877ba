"""Memory of a training step, on the meta device: shapes only, no memory or compute."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fcos.criterion import Criterion
from fcos.detector import Detector
from fcos.structures import make_targets
from fcos.training.optimization import make_optimizer
from pipeline.inference.network_costs import meta_batch, trainable_parameters
from pipeline.params import Params


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


def training_memory(params: Params, detector: Detector, size: tuple[int, int], batch_size: int) -> TrainingMemory:
    """The memory of a training step on images of this height and width. `detector` gets gradients of zero size."""
    train = params.train
    optimizer = make_optimizer(
        detector, name=train.optimizer, lr=train.lr, weight_decay=train.weight_decay, momentum=train.momentum
    )
    activations = _activation_bytes(params, detector.train(), size, batch_size)
    weights = list(detector.state_dict().values())
    trainable = trainable_parameters(detector)
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
        outputs = detector(meta_batch(detector, size, images))
        truth = make_targets([torch.zeros(1, 4)] * images, [torch.zeros(1, dtype=torch.int64)] * images)
        # The loss keeps the graph alive until all storages are counted.
        loss = Criterion(params.model, box_loss=params.loss)(outputs, truth.to(torch.device("meta"))).total
    total = sum(storage.nbytes() for identity, storage in saved.items() if identity not in weights)
    del loss
    return total
