"""The batch that a training step learns from."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from fcos.structures import Targets


@dataclass(frozen=True)
class Batch:
    """The images and targets of one step, or of a part of a step (gradient accumulation)."""

    pixels: Tensor  # uint8 [B, 3, H, W], padded
    sizes: Tensor  # int64 [B, 2]: height and width of each image without padding
    targets: Targets
    names: Sequence[str]  # of the images, for messages
    objects: int  # number of objects in `targets`
    annotated: int  # number of objects in these images before augmentation

    def pin_memory(self) -> "Batch":
        """Returns a copy in pinned memory. DataLoader calls this so that copies to a GPU overlap with its work."""
        targets = Targets(*(tensor.pin_memory() for tensor in vars(self.targets).values()))
        return replace(self, pixels=self.pixels.pin_memory(), sizes=self.sizes.pin_memory(), targets=targets)
