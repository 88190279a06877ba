"""What a detector is made of and how it learns: frozen, typed, and checked when it is made."""

from dataclasses import dataclass
from typing import Literal, get_args

Backbone = Literal[
    "tiny",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
]
BoxLoss = Literal["iou", "linear_iou", "giou", "diou", "ciou", "l1", "smooth_l1"]


_LEAST = {
    "tower_depth": 0,
    "center_sampling_radius": 0,
    "frozen_stages": 0,
    "task_aligned_alpha": 0,
    "task_aligned_beta": 0,
    "focal_gamma": 0,
    "atss_topk": 1,
    "task_aligned_topk": 1,
}


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """What each part of the loss is multiplied by."""

    classification: float
    box: float
    quality: float

    def __post_init__(self) -> None:
        for name, weight in vars(self).items():
            if weight < 0:
                raise ValueError(f"{name}: {weight} must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """One FCOS detector, but for its classes and its box loss. `params.yaml` explains each field where people set it.

    Raises:
        ValueError: a value that no detector can have; the message starts with the field's name.
    """

    # Backbone
    backbone: str  # one of Backbone, or timm:NAME
    pretrained: bool | str  # ImageNet weights: the library's own, none, or a file with a state dict
    batch_norm: Literal["auto", "frozen", "trained", "synchronized"]  # auto: frozen where pretrained, else trained
    frozen_stages: int  # so many of the backbone's parts, from the image on, don't learn: stem, C2, C3, …
    # Neck
    neck: Literal["fpn", "pan", "bifpn"]
    channels: int  # of the pyramid
    levels: tuple[int, ...]  # level l has stride 2**l; 3 to 5 come from the backbone, 6 and 7 from further convolutions
    extra_levels_from: Literal["p5", "c5"]  # what P6 is made from: P5 (TPAMI, torchvision) or C5 (ICCV)
    upsample_mode: Literal["nearest", "bilinear"]  # how a coarser map is enlarged to be added to a finer one
    neck_norm: Literal["none", "group", "batch"]  # after each of the neck's convolutions
    neck_activation: Literal["none", "relu", "silu"]
    # Head
    tower_depth: int  # 3×3 convolutions in each of the head's two towers
    tower_channels: int | None  # of the towers; None: those of the pyramid
    head_norm: Literal["group", "batch", "none"]
    quality: Literal["centerness", "iou", "none"]  # the third output: what multiplies the class's probability
    quality_tower: Literal["box", "class"]  # the tower it stands on
    box_output: Literal["relu", "exp"]  # stride·relu(s·x) (TPAMI) or exp(s·x) (ICCV v1)
    # center: ((j + ½)·s, (i + ½)·s); corner: (j·s, i·s); torchvision: its grid, (j·⌊W/w⌋, i·⌊H/h⌋), and its open ranges
    locations: Literal["center", "corner", "torchvision"]
    # Assignment
    assigner: Literal["fcos", "atss", "task_aligned"]
    center_sampling_radius: (
        float  # fcos: positive locations lie within this many strides of a box's center; 0: in the whole box
    )
    regression_ranges: (
        tuple[float, ...] | None
    )  # fcos: the sizes where one level ends and the next begins; None: 8 strides
    atss_topk: int  # atss: nearest locations of each level
    task_aligned_topk: int  # task_aligned: best locations of each object
    task_aligned_alpha: float  # task_aligned: exponent of the class's probability
    task_aligned_beta: float  # task_aligned: exponent of the IoU
    # Losses
    classification_loss: Literal["focal", "quality_focal", "varifocal"]
    focal_alpha: float
    focal_gamma: float
    box_loss_weighting: Literal["centerness", "iou", "none"]  # of a positive location's box loss
    quality_loss: Literal["bce", "l1"]
    loss_weights: LossWeights

    def __post_init__(self) -> None:
        if self.backbone not in get_args(Backbone) and not self.backbone.startswith("timm:"):
            raise ValueError(f"backbone: {self.backbone!r} is not one of {', '.join(get_args(Backbone))}, timm:NAME")
        first, last = (self.levels[0], self.levels[-1]) if self.levels else (0, 0)
        if not 3 <= first <= 5 or last > 7 or list(self.levels) != list(range(first, last + 1)):
            raise ValueError(
                f"levels: {list(self.levels)} must rise one by one, begin at 3, 4 or 5, and end at 7 or before"
            )
        for name in ("channels", "tower_channels"):
            width = getattr(self, name)
            if width is not None and (width < 8 or width % 8):
                raise ValueError(f"{name}: {width} must be a positive multiple of 8")
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name}: {getattr(self, name)} must be {least} or more")
        if not 0 <= self.focal_alpha <= 1:
            raise ValueError(f"focal_alpha: {self.focal_alpha} must be between 0 and 1")
        if self.regression_ranges is not None and (
            len(self.regression_ranges) != len(self.levels) - 1
            or list(self.regression_ranges) != sorted({*self.regression_ranges, 0.0} - {0.0})
        ):
            raise ValueError(
                f"regression_ranges: {list(self.regression_ranges)} must be {len(self.levels) - 1} rising sizes in "
                "pixels, one between each two levels"
            )

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels between neighboring locations, level by level."""
        return tuple(2**level for level in self.levels)


# "FCOS: A Simple and Strong Anchor-free Object Detector" (TPAMI, 2006.09214), section 4: ResNet-50.
PAPER = ModelConfig(
    backbone="resnet50",
    pretrained=True,
    batch_norm="frozen",
    frozen_stages=2,
    neck="fpn",
    channels=256,
    levels=(3, 4, 5, 6, 7),
    extra_levels_from="p5",
    upsample_mode="nearest",
    neck_norm="none",
    neck_activation="none",
    tower_depth=4,
    tower_channels=None,
    head_norm="group",
    quality="centerness",
    quality_tower="box",
    box_output="relu",
    locations="center",
    assigner="fcos",
    center_sampling_radius=1.5,
    regression_ranges=None,
    atss_topk=9,
    task_aligned_topk=13,
    task_aligned_alpha=1.0,
    task_aligned_beta=6.0,
    classification_loss="focal",
    focal_alpha=0.25,
    focal_gamma=2.0,
    box_loss_weighting="centerness",
    quality_loss="bce",
    loss_weights=LossWeights(classification=1.0, box=1.0, quality=1.0),
)


@dataclass(frozen=True)
class InputSize:
    """The rule by which images are resized, in training and ever after.

    Without letterbox the shorter side becomes the first of `size`, unless the longer would exceed the second. With
    it, `size` is height and width of a canvas that the image is fitted into, and padded to at the right and the bottom.
    """

    size: tuple[int, int]  # pixels
    letterbox: bool = False

    def scale(self, height: int, width: int) -> float:
        """The factor by which an image of this height and width is resized."""
        if self.letterbox:
            return min(self.size[0] / height, self.size[1] / width)
        return min(self.size[0] / min(height, width), self.size[1] / max(height, width))

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of an image after that, in whole pixels, without padding."""
        return scaled(height, width, self.scale(height, width))

    @property
    def canvas(self) -> tuple[int, int] | None:
        """Height and width that every image is padded to; None: to the largest of its batch."""
        return self.size if self.letterbox else None


def scaled(height: int, width: int, scale: float) -> tuple[int, int]:
    """Height and width times a factor, rounded to whole pixels, at least one."""
    return max(1, round(height * scale)), max(1, round(width * scale))
