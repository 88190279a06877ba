"""What a detector says."""

from dataclasses import dataclass, replace

from torch import Tensor

from fcos.points import Points


@dataclass(frozen=True)
class Outputs:
    """What the network says of every location, all levels in one list."""

    logits: Tensor  # [B, P, K] class logits
    ltrb: Tensor  # [B, P, 4] distances to the box's sides, pixels of the network's input
    quality: Tensor | None  # [B, P] logits of the centerness or the IoU; None where the head has no such branch
    points: Points

    def float(self) -> "Outputs":
        """In float32, for losses: 16 bits can't add up thousands of small numbers."""
        quality = None if self.quality is None else self.quality.float()
        return replace(self, logits=self.logits.float(), ltrb=self.ltrb.float(), quality=quality)
