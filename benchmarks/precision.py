"""Which precision trains faster on this machine's CPU: convolutions and whole training steps, forward and backward.

    python -m benchmarks.precision

The precisions take turns in one process. Writes a dated card; docs/performance.md says what followed.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.harness import Side, Times, context, save_card, seconds_of, times, today
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


def _recipe_step(load: Callable[[], Params], precision: str, backbone: str | None = None) -> Side:
    recipe = load()
    height, width = recipe.train.size
    model = (
        replace(recipe.model, backbone=backbone, pretrained=False, batch_norm="frozen") if backbone else recipe.model
    )
    return training_step(model, (recipe.train.batch_size, height, width), precision)


CONVOLUTIONS = [
    Convolution(3, 64, 32),
    Convolution(3, 128, 16),
    Convolution(1, 96, 40),
    Convolution(3, 96, 40, groups=96),
]
ROWS: dict[str, tuple[Callable[[str], Side], Sequence[str]]] = {
    **{layer.name: (layer.prepare, ("float32", "bf16", "fp16")) for layer in CONVOLUTIONS},
    "training step, default": (partial(_recipe_step, recipes.defaults), ("float32", "bf16")),
    "training step, EfficientNet-Lite0": (
        partial(_recipe_step, partial(recipes.load, "cpu_lite0")),
        ("float32", "bf16"),
    ),
    **{
        f"training step, {backbone}": (
            partial(_recipe_step, partial(recipes.load, "cpu_lite0"), backbone=backbone),
            ("float32", "bf16"),
        )
        for backbone in ("mobilenet_v2", "mobilenet_v3_large", "resnext50_32x4d")
    },
}


def compare(sides: Mapping[str, Side], *, repeats: int, warmup: int) -> dict[str, Times]:
    """The times of calls that take turns."""
    for _ in range(warmup):
        for side in sides.values():
            side()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            seconds[name].append(seconds_of(side))
    return {name: times(values) for name, values in seconds.items()}


def card(rows: Mapping[str, Mapping[str, Times]], repeats: int) -> str:
    """The card, in Markdown."""
    lines = []
    for name, measured in rows.items():
        cells = [cell(measured[precision]) if precision in measured else "" for precision in PRECISIONS]
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


def cell(measured: Times) -> str:
    """Milliseconds, in Markdown."""
    return f"{measured.median * 1e3:.3g} ({measured.low * 1e3:.3g}–{measured.high * 1e3:.3g})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=15, help="timed calls of each precision")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder for the card")
    options = parser.parse_args()
    rows = {}
    for name, (prepare, precisions) in ROWS.items():
        sides = {precision: prepare(precision) for precision in precisions}
        rows[name] = compare(sides, repeats=options.repeats, warmup=min(3, options.repeats))
        print(name, rows[name], flush=True)
    text = card(rows, options.repeats)
    print(f"{text}\n{save_card(text, 'precision-cpu', options.out)}")


if __name__ == "__main__":
    main()
