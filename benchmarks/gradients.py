"""Forward and backward passes of training's own depthwise convolutions and group norm against torch's, on a CPU.

    python -m benchmarks.gradients

Both take turns in one process. Writes a dated card; docs/performance.md says what followed.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Side, Times, context, save_card, today
from benchmarks.precision import cell, compare
from fcos.fast.depthwise import depthwise_conv2d
from fcos.fast.group_norm import group_norm
from fcos.training.amp import PRECISIONS

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

    def prepare(self, dtype: torch.dtype) -> tuple[Side, Side]:
        x = _input(self.channels, self.height, self.width, dtype)
        weight = torch.randn(self.channels, 1, self.kernel, self.kernel, dtype=dtype, requires_grad=True)
        padding = self.kernel // 2 if self.stride == 1 else 0

        def reference() -> Tensor:
            return F.conv2d(x, weight, None, self.stride, padding, groups=self.channels)

        def ours() -> Tensor:
            return depthwise_conv2d(x, weight, None, stride=(self.stride,) * 2, padding=(padding,) * 2)

        gradient = torch.randn_like(reference())
        return _both_passes(reference, (x, weight), gradient), _both_passes(ours, (x, weight), gradient)


@dataclass(frozen=True)
class GroupNorm:
    """A group norm in 32 groups."""

    channels: int
    height: int
    width: int

    @property
    def name(self) -> str:
        return f"group norm, {self.channels} channels, {self.height}×{self.width}"

    def prepare(self, dtype: torch.dtype) -> tuple[Side, Side]:
        x = _input(self.channels, self.height, self.width, dtype)
        weight, bias = (torch.ones(self.channels, requires_grad=True) for _ in range(2))

        def reference() -> Tensor:
            return F.group_norm(x, _GROUPS, weight, bias)

        def ours() -> Tensor:
            return group_norm(x, _GROUPS, weight, bias, 1e-5)

        inputs, gradient = (x, weight, bias), torch.randn_like(x)
        return _both_passes(reference, inputs, gradient), _both_passes(ours, inputs, gradient)


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


def _both_passes(forward: Callable[[], Tensor], inputs: Sequence[Tensor], gradient: Tensor) -> Side:
    def side() -> tuple[Tensor, ...]:
        return torch.autograd.grad(forward(), inputs, gradient)

    return side


def card(rows: Mapping[str, Mapping[str, Times]], repeats: int) -> str:
    """The card, in Markdown."""
    lines = []
    for name, measured in rows.items():
        theirs, ours = measured["torch"], measured["ours"]
        lines.append(f"| {name} | {cell(theirs)} | {cell(ours)} | {theirs.median / ours.median:.2f} |")
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=15, help="timed calls of each side")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder for the card")
    options = parser.parse_args()
    rows = {}
    for layer in LAYERS:
        for precision in ("float32", "bf16"):
            theirs, ours = layer.prepare(PRECISIONS[precision] or torch.float32)
            name = f"{layer.name}, {precision}"
            sides = {"torch": theirs, "ours": ours}
            rows[name] = compare(sides, repeats=options.repeats, warmup=min(3, options.repeats))
            print(name, rows[name], flush=True)
    text = card(rows, options.repeats)
    print(f"{text}\n{save_card(text, 'gradients-cpu', options.out)}")


if __name__ == "__main__":
    main()
