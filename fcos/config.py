"""What a detector is made of: frozen, typed, and checked when it is made."""

from dataclasses import dataclass
from typing import Literal

Backbone = Literal["tiny", "resnet18", "resnet50", "efficientnet_lite0"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """One FCOS detector, but for its classes. `params.yaml` explains each field where people set it.

    Raises:
        ValueError: a value that no detector can have; the message starts with the field's name.
    """

    backbone: Backbone
    pretrained: bool  # ImageNet weights
    channels: int  # of the pyramid and of the head's towers
    levels: tuple[
        int, ...
    ]  # level l has stride 2**l; 3, 4 and 5 come from the backbone, 6 and 7 from further convolutions
    extra_levels_from: Literal["p5", "c5"]  # what P6 is made from: P5 (TPAMI, torchvision) or C5 (ICCV)
    tower_depth: int  # 3×3 convolutions in each of the head's two towers
    box_output: Literal["relu", "exp"]  # stride·relu(s·x) (TPAMI) or exp(s·x) (ICCV v1)
    centre_radius: float  # positive locations lie within this many strides of a box's centre; 0: anywhere in the box

    def __post_init__(self) -> None:
        if not self.levels or list(self.levels) != list(range(3, 3 + len(self.levels))) or self.levels[-1] > 7:
            raise ValueError(f"levels: {list(self.levels)} must be 3, 4, … without a gap, and end at 7 or before")
        if self.channels < 8 or self.channels % 8:
            raise ValueError(f"channels: {self.channels} must be a positive multiple of 8")
        if self.tower_depth < 0:
            raise ValueError(f"tower_depth: {self.tower_depth} must be 0 or more")
        if self.centre_radius < 0:
            raise ValueError(f"centre_radius: {self.centre_radius} must be 0 or more strides")

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels between neighbouring locations, level by level."""
        return tuple(2**level for level in self.levels)
