"""Which precision trains faster on this machine's CPU: convolutions and whole training steps, forward and backward.

    python -m benchmarks.precision

The precisions take turns in one process. Writes a dated card; docs/performance.md says what followed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks import turns
from benchmarks.harness import Side, context, today
from benchmarks.training import our_step
from fcos.config import ModelConfig
from fcos.detector import build
from fcos.training.amp import PRECISIONS, fastest_precision
from pipeline import recipes
from pipeline.params import Params

_CLASSES, _OBJECTS = 10, 6  # as in `digits`


@dataclass(frozen=True)
class Convolution:
    """A convolution of a batch of 8 images, forward and backward, as autocast computes it."""

    kernel: int
    channels: int  # in and out
    side: int  # pixels of the square feature map
    groups: int = 1

    @property
    def name(self) -> str:
        kind = f"depthwise {self.kernel}×{self.kernel}" if self.groups > 1 else f"{self.kernel}×{self.kernel}"
        channels = f"{self.channels} channels" if self.groups > 1 else f"{self.channels} to {self.channels} channels"
        return f"{kind}, {channels}, {self.side}×{self.side}"

    def prepare(self, precision: str) -> Side:
        torch.manual_seed(0)
        layer = nn.Conv2d(
            self.channels, self.channels, self.kernel, padding=self.kernel // 2, groups=self.groups, bias=False
        ).to(memory_format=torch.channels_last)
        shape = (8, self.channels, self.side, self.side)
        images = torch.randn(shape).to(memory_format=torch.channels_last).requires_grad_()
        dtype = PRECISIONS[precision]
        gradient = torch.ones(shape, dtype=dtype).to(memory_format=torch.channels_last)

        def side() -> tuple[Tensor, ...]:
            with torch.autocast("cpu", dtype, enabled=dtype is not None):
                output = layer(images)
            return torch.autograd.grad(output, (images, layer.weight), gradient)

        return side


def training_step(config: ModelConfig, shape: tuple[int, int, int], precision: str) -> Side:
    """A step of a detector, from pixels to updated weights.

    Args:
        shape: number, height and width of the images.
    """
    torch.manual_seed(0)
    images, height, width = shape
    pixels = torch.randint(0, 256, (images, 3, height, width), dtype=torch.uint8)
    low = torch.rand(images, _OBJECTS, 2) * torch.tensor([width, height]) * 0.8
    boxes = torch.cat([low, low + 8 + 40 * torch.rand(images, _OBJECTS, 2)], dim=-1)
    labels = torch.randint(_CLASSES, (images, _OBJECTS))
    detector = build(config, _CLASSES).to(memory_format=torch.channels_last).train()
    return our_step(detector, pixels, list(boxes), list(labels), precision, lambda network: network)


def _recipe_step(recipe: Params, precision: str, backbone: str | None = None) -> Side:
    model, (height, width) = recipe.model, recipe.train.size
    if backbone:
        model = replace(model, backbone=backbone, pretrained=False, batch_norm="frozen")
    return training_step(model, (recipe.train.batch_size, height, width), precision)


def _sides(prepare: Callable[[str], Side], precisions: Sequence[str]) -> dict[str, Side]:
    return {precision: prepare(precision) for precision in precisions}


def _steps(recipe: str | None, backbone: str | None = None) -> dict[str, Side]:
    params = recipes.load(recipe) if recipe else recipes.defaults()
    return _sides(partial(_recipe_step, params, backbone=backbone), ("float32", "bf16"))


CONVOLUTIONS = [
    Convolution(3, 64, 32),
    Convolution(3, 128, 16),
    Convolution(1, 96, 40),
    Convolution(3, 96, 40, groups=96),
]
ROWS: dict[str, Callable[[], dict[str, Side]]] = {
    **{layer.name: partial(_sides, layer.prepare, ("float32", "bf16", "fp16")) for layer in CONVOLUTIONS},
    "training step, default": partial(_steps, None),
    "training step, EfficientNet-Lite0": partial(_steps, "cpu_lite0"),
    **{
        f"training step, {backbone}": partial(_steps, "cpu_lite0", backbone)
        for backbone in ("mobilenet_v2", "mobilenet_v3_large", "resnext50_32x4d")
    },
}


def card(rows: turns.Rows, repeats: int) -> str:
    """The card, in Markdown."""
    lines = []
    for name, measured in rows.items():
        cells = [turns.cell(measured[precision]) if precision in measured else "" for precision in PRECISIONS]
        ratio = measured["float32"].median / measured["bf16"].median
        lines.append(f"| {' | '.join((name, *cells, f'{ratio:.2f}'))} |")
    table = "\n".join(lines)
    return f"""# Precision of training on a CPU, {today()}

{context()}

    python -m benchmarks.precision --repeats {repeats}

Forward and backward pass of one convolution, 8 images, channels last, weights in float32 under autocast, and whole
training steps at the size and batch of the recipes `defaults` and `cpu_lite0`. Milliseconds: medians of {repeats} calls
in turn in one process, quartiles in parentheses. The last column is float32 ÷ bf16: above 1, bf16 is faster.

| | {" | ".join(PRECISIONS)} | float32 ÷ bf16 |
|---|---|---|---|---|
{table}

Here, `train.precision: auto` chooses {fastest_precision(torch.device("cpu"))}.
"""


if __name__ == "__main__":
    turns.main(ROWS, card, kind="precision-cpu", about=__doc__.partition("\n")[0])
