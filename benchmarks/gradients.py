"""Forward and backward passes of training's own depthwise convolutions and group norm against torch's, on a CPU.

    python -m benchmarks.gradients

Both take turns in one process. Writes a dated card; docs/performance.md says what followed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import turns
from benchmarks.harness import Side, context, today
from fcos.fast.depthwise import depthwise_conv2d
from fcos.fast.group_norm import group_norm

_IMAGES = 8
_GROUPS = 32


@dataclass(frozen=True)
class Depthwise:
    """A depthwise convolution of images that are padded before, as with TensorFlow's padding, if the stride is 2."""

    channels: int
    height: int
    width: int
    kernel: int
    stride: int = 1

    @property
    def name(self) -> str:
        kernel, size = f"{self.kernel}×{self.kernel}", f"{self.height}×{self.width}"
        return f"depthwise {kernel}, stride {self.stride}, {self.channels} channels, {size}"

    def prepare(self, dtype: torch.dtype) -> dict[str, Side]:
        x = _input(self.channels, self.height, self.width, dtype)
        weight = torch.randn(self.channels, 1, self.kernel, self.kernel, dtype=dtype, requires_grad=True)
        padding = self.kernel // 2 if self.stride == 1 else 0

        def reference() -> Tensor:
            return F.conv2d(x, weight, None, self.stride, padding, groups=self.channels)

        def ours() -> Tensor:
            return depthwise_conv2d(x, weight, None, stride=(self.stride,) * 2, padding=(padding,) * 2)

        return _both_passes(reference, ours, (x, weight))


@dataclass(frozen=True)
class GroupNorm:
    """A group norm in 32 groups."""

    channels: int
    height: int
    width: int

    @property
    def name(self) -> str:
        return f"group norm, {self.channels} channels, {self.height}×{self.width}"

    def prepare(self, dtype: torch.dtype) -> dict[str, Side]:
        x = _input(self.channels, self.height, self.width, dtype)
        weight, bias = (torch.ones(self.channels, requires_grad=True) for _ in range(2))

        def reference() -> Tensor:
            return F.group_norm(x, _GROUPS, weight, bias)

        def ours() -> Tensor:
            return group_norm(x, _GROUPS, weight, bias, 1e-5)

        return _both_passes(reference, ours, (x, weight, bias))


# Those of EfficientNet-Lite0 at 312×416 pixels, and the norms of its head and the default's at 256×256.
LAYERS: Sequence[Depthwise | GroupNorm] = [
    Depthwise(144, 80, 104, 3),
    Depthwise(96, 161, 209, 3, stride=2),
    Depthwise(240, 40, 52, 5),
    Depthwise(672, 20, 26, 5),
    Depthwise(1152, 10, 13, 5),
    Depthwise(144, 83, 107, 5, stride=2),
    Depthwise(672, 23, 29, 5, stride=2),
    Depthwise(160, 20, 26, 7),
    GroupNorm(96, 40, 52),
    GroupNorm(64, 32, 32),
]


def _input(channels: int, height: int, width: int, dtype: torch.dtype) -> Tensor:
    torch.manual_seed(0)
    x = torch.randn(_IMAGES, channels, height, width, dtype=dtype)
    return x.to(memory_format=torch.channels_last).requires_grad_()


def _both_passes(
    reference: Callable[[], Tensor], ours: Callable[[], Tensor], inputs: Sequence[Tensor]
) -> dict[str, Side]:
    gradient = torch.randn_like(reference())

    def passes(forward: Callable[[], Tensor]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(forward(), inputs, gradient)

    return {"torch": partial(passes, reference), "ours": partial(passes, ours)}


ROWS = {
    f"{layer.name}, {name}": partial(layer.prepare, dtype)
    for layer in LAYERS
    for name, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16))
}


def card(rows: turns.Rows, repeats: int) -> str:
    """The card, in Markdown."""
    lines = []
    for name, measured in rows.items():
        theirs, ours = measured["torch"], measured["ours"]
        lines.append(f"| {name} | {turns.cell(theirs)} | {turns.cell(ours)} | {theirs.median / ours.median:.2f} |")
    table = "\n".join(lines)
    return f"""# Gradients of depthwise convolutions and group norm on a CPU, {today()}

{context()}

    python -m benchmarks.gradients --repeats {repeats}

Forward and backward pass of one layer, {_IMAGES} images, channels last. Milliseconds: medians of {repeats} calls in
turn in one process, quartiles in parentheses. Above a ratio of 1, ours is faster. Where torch's gradient is fast, as of
3×3 kernels in float32, both are the same.

| | torch's | ours | ratio |
|---|---|---|---|
{table}
"""


if __name__ == "__main__":
    turns.main(ROWS, card, kind="gradients-cpu", about=__doc__.partition("\n")[0])
