"""Configuration of a detector: frozen, typed, and checked when it is created."""

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
BoxLoss = Literal["iou", "linear_iou", "giou", "diou", "ciou", "eiou", "l1", "smooth_l1"]


_MINIMUM = {
    "tower_depth": 0,
    "center_sampling_radius": 0,
    "frozen_stages": 0,
    "task_aligned_alpha": 0,
    "task_aligned_beta": 0,
    "focal_gamma": 0,
    "atss_topk": 1,
    "task_aligned_topk": 1,
    "distribution_max": 1,
}


DEFAULT_RANGE = 8  # strides: the distances that a level learns without regression_ranges
# Upper limits, so that a foreign file can't exhaust memory.
MAX_DISTRIBUTION = 256
_MAXIMUM = {"tower_depth": 64, "distribution_max": MAX_DISTRIBUTION}


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Factors of the parts of the loss."""

    classification: float
    box: float
    quality: float
    distribution: float = 0.25  # of the distribution focal loss, which is added to the box loss (GFL, section 4)

    def __post_init__(self) -> None:
        for name, weight in vars(self).items():
            if not weight >= 0:
                raise ValueError(f"{name}: {weight} must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Architecture and losses of an FCOS detector, except its classes and its box loss.

    Raises:
        ValueError: an invalid value; the message starts with the field's name.
    """

    # Backbone
    backbone: str  # a name of Backbone, or timm:NAME
    pretrained: bool | str  # True: ImageNet weights; False: random weights; or the path of a state dict
    batch_norm: Literal["auto", "frozen", "trained", "synchronized"]  # auto: frozen if pretrained, else trained
    frozen_stages: int  # number of the backbone's first stages (stem, C2, C3, …) that are not trained
    # Neck
    neck: Literal["fpn", "pan", "bifpn"]
    channels: int  # of all pyramid levels
    levels: tuple[
        int, ...
    ]  # level l has stride 2**l; 3 to 5 come from the backbone, 6 and 7 from additional convolutions
    extra_levels_from: Literal["p5", "c5"]  # input of P6: P5 (TPAMI, torchvision) or C5 (ICCV)
    upsample_mode: Literal["nearest", "bilinear"]  # interpolation of a coarse map to the size of the next finer one
    neck_norm: Literal["none", "group", "batch"]  # follows each of the neck's convolutions
    neck_activation: Literal["none", "relu", "silu"]
    # Head
    tower_depth: int  # number of 3×3 convolutions in each of the head's two towers
    tower_channels: int | None  # of the towers; None: same as `channels`
    tower_convolution: Literal["standard", "depthwise"]  # 3×3, or depthwise 3×3 and then 1×1
    head_norm: Literal["group", "batch", "none"]
    quality: Literal[
        "centerness", "iou", "none"
    ]  # the third output, combined with the class probability into the score
    quality_tower: Literal["box", "class"]  # the tower that the quality output follows
    # stride·relu(s·x) (TPAMI), exp(s·x) (ICCV v1), or the mean of a distribution over whole strides (GFL)
    box_output: Literal["relu", "exp", "distribution"]
    distribution_max: int = 16  # distribution: the largest distance, in strides
    # center: ((j + ½)·s, (i + ½)·s); corner: (j·s, i·s); torchvision: (j·⌊W/w⌋, i·⌊H/h⌋), see `make_locations`
    locations: Literal["center", "corner", "torchvision"]
    # Assignment
    assigner: Literal["fcos", "atss", "task_aligned"]
    # fcos: positive locations lie within this number of strides of the box's center; 0: anywhere in the box
    center_sampling_radius: float
    # fcos: object sizes, in pixels, that separate neighboring levels; None: 8 strides
    regression_ranges: tuple[float, ...] | None
    atss_topk: int  # atss: number of nearest locations of each level
    task_aligned_topk: int  # task_aligned: number of best locations of each object
    task_aligned_alpha: float  # task_aligned: exponent of the class probability
    task_aligned_beta: float  # task_aligned: exponent of the IoU
    # Losses
    classification_loss: Literal["focal", "quality_focal", "varifocal"]
    focal_alpha: float
    focal_gamma: float
    box_loss_weighting: Literal["centerness", "iou", "none"]  # weight of a positive location's box loss
    quality_loss: Literal["bce", "l1"]
    loss_weights: LossWeights
    # Path of the weights that training starts from (`fcos.training.transfer`). A saved detector does not depend on it.
    start_from: str | None = None

    def __post_init__(self) -> None:
        if self.backbone not in get_args(Backbone) and not self.backbone.startswith("timm:"):
            raise ValueError(f"backbone: {self.backbone!r} is not one of {', '.join(get_args(Backbone))}, timm:NAME")
        first, last = (self.levels[0], self.levels[-1]) if self.levels else (0, 0)
        if not 3 <= first <= 5 or last > 7 or list(self.levels) != list(range(first, last + 1)):
            raise ValueError(
                f"levels: {list(self.levels)} must be consecutive, start at 3, 4 or 5, and end at 7 or below"
            )
        for name in ("channels", "tower_channels"):
            width = getattr(self, name)
            if width is not None and (width < 8 or width % 8):
                raise ValueError(f"{name}: {width} must be a positive multiple of 8")
        for name, minimum in _MINIMUM.items():
            if not getattr(self, name) >= minimum:
                raise ValueError(f"{name}: {getattr(self, name)} must be {minimum} or more")
        for name, maximum in _MAXIMUM.items():
            if getattr(self, name) > maximum:
                raise ValueError(f"{name}: {getattr(self, name)} must be {maximum} or less")
        if not 0 <= self.focal_alpha <= 1:
            raise ValueError(f"focal_alpha: {self.focal_alpha} must be between 0 and 1")
        if self.regression_ranges is not None and (
            len(self.regression_ranges) != len(self.levels) - 1
            or list(self.regression_ranges) != sorted({*self.regression_ranges, 0.0} - {0.0})
        ):
            raise ValueError(
                f"regression_ranges: {list(self.regression_ranges)} must be {len(self.levels) - 1} increasing "
                "sizes in pixels, one between each two levels"
            )
        if self.box_output == "distribution" and self.assigner == "fcos":
            self._check_distances()

    def _check_distances(self) -> None:
        """Distributions must reach the distances that each level learns, except the last, which has no upper end."""
        for level, stride, end in zip(self.levels, self.strides, self.regression_ranges or (), strict=False):
            if end > self.distribution_max * stride:
                raise ValueError(
                    f"regression_ranges: {end:g} pixels at level {level} are more than distribution_max "
                    f"{self.distribution_max} strides of {stride} pixels; raise distribution_max or lower the range"
                )
        if self.regression_ranges is None and len(self.levels) > 1 and self.distribution_max < DEFAULT_RANGE:
            raise ValueError(
                f"distribution_max: {self.distribution_max} must be {DEFAULT_RANGE} or more: without "
                f"regression_ranges, a level learns distances up to {DEFAULT_RANGE} strides"
            )

    @property
    def strides(self) -> tuple[int, ...]:
        """Stride of each level in pixels."""
        return tuple(2**level for level in self.levels)


# Fields that decide what a detector's weights are and what its outputs mean; the others are of training.
ARCHITECTURE = (
    *("backbone", "neck", "channels", "levels", "extra_levels_from", "upsample_mode", "neck_norm", "neck_activation"),
    *("tower_depth", "tower_channels", "tower_convolution", "head_norm", "quality", "quality_tower", "box_output"),
    *("distribution_max", "locations"),
)

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
    tower_convolution="standard",
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


MAX_INPUT_SIDE = 16_384  # pixels


@dataclass(frozen=True)
class InputSize:
    """The rule by which images are resized, in training and inference.

    Without letterbox, the shorter side is scaled to `size[0]`, or less if the longer side would exceed `size[1]`. With
    letterbox, `size` is the height and width of a canvas: the image is fitted into it and padded at the right and the
    bottom.
    """

    size: tuple[int, int]  # pixels
    letterbox: bool = False

    def __post_init__(self) -> None:
        if not all(1 <= side <= MAX_INPUT_SIDE for side in self.size):
            raise ValueError(f"size: {list(self.size)} must be two sides from 1 to {MAX_INPUT_SIDE} pixels")

    def scale(self, height: int, width: int) -> float:
        """The factor by which an image of this height and width is scaled."""
        if self.letterbox:
            return min(self.size[0] / height, self.size[1] / width)
        return min(self.size[0] / min(height, width), self.size[1] / max(height, width))

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the resized image in pixels, without padding."""
        return scaled(height, width, self.scale(height, width))

    @property
    def canvas(self) -> tuple[int, int] | None:
        """Height and width that all images are padded to; None: the size of the largest image in the batch."""
        return self.size if self.letterbox else None


def scaled(height: int, width: int, scale: float) -> tuple[int, int]:
    """Height and width times a factor, rounded to whole pixels and at least 1."""
    return max(1, round(height * scale)), max(1, round(width * scale))
