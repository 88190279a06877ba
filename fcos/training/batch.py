"""What a step of training learns from."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from fcos.structures import Targets


@dataclass(frozen=True)
class Batch:
    """What one step learns from, or a part of it."""

    pixels: Tensor  # uint8 [B, 3, H, W], padded
    sizes: Tensor  # int64 [B, 2]: height and width of each image in it
    targets: Targets
    names: Sequence[str]  # of the images, for messages
    objects: int  # in targets
    annotated: int  # objects of these images before they were augmented

    def pin_memory(self) -> "Batch":
        """As a DataLoader asks for, so that copies to a GPU are made while it works."""
        pinned = Targets(*(tensor.pin_memory() for tensor in vars(self.targets).values()))
        return Batch(
            self.pixels.pin_memory(), self.sizes.pin_memory(), pinned, self.names, self.objects, self.annotated
        )
