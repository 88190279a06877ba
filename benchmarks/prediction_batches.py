"""How many images should share a batch on a CPU? CPU time of `Predictor.predict` for each image, by size of the batch.

    python -m benchmarks.prediction_batches

Detectors without training, on noise of the size of their input. Writes a dated card.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.harness import context, save_card, today
from fcos.config import PAPER, InputSize, ModelConfig
from fcos.detector import build
from fcos.fast.fused import fuse
from fcos.inference import default_batch_size
from fcos.predictor import Predictor
from fcos.weights import Description

_BATCHES = (1, 2, 4, 8)


@dataclass(frozen=True)
class Case:
    """A detector and its square input."""

    name: str
    config: ModelConfig
    side: int  # pixels


_SMALL = replace(PAPER, pretrained=False, batch_norm="auto", frozen_stages=0, channels=64, tower_depth=2)
CASES = (
    Case("tiny", replace(_SMALL, backbone="tiny", levels=(3, 4, 5)), 256),
    Case("EfficientNet-Lite0", replace(_SMALL, backbone="efficientnet_lite0"), 320),
    Case("ResNet-18", replace(_SMALL, backbone="resnet18", channels=128), 640),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    times = {case: measure(case, arguments.repeats) for case in CASES}
    text = card(times)
    print(text)
    print(save_card(text, "prediction-batches-cpu", arguments.results))


def measure(case: Case, repeats: int, batches: Sequence[int] = _BATCHES) -> dict[int, float]:
    """Seconds of CPU time for each image, the least of some repetitions, by size of the batch."""
    torch.manual_seed(0)
    size = InputSize((case.side, case.side))
    description = Description(model=case.config, categories=((1, "object"),), input_size=size)
    predictor = Predictor(fuse(build(case.config, 1).eval()), description)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*size.size, 3), dtype=np.uint8) for _ in range(max(batches))]
    predictor.predict(images[0])
    times: dict[int, list[float]] = {batch: [] for batch in batches}
    for _ in range(repeats):
        for batch, measured in times.items():
            start = time.process_time()
            predictor.predict(images, batch_size=batch)
            measured.append((time.process_time() - start) / len(images))
    return {batch: min(measured) for batch, measured in times.items()}


def card(times: Mapping[Case, Mapping[int, float]]) -> str:
    """The card, in Markdown."""
    cpu = torch.device("cpu")
    rows = "\n".join(
        f"| {case.name}, {case.side}×{case.side} | "
        + " | ".join(f"{1000 * seconds:.1f} ms" for seconds in measured.values())
        + f" | {default_batch_size(InputSize((case.side, case.side)), cpu)} |"
        for case, measured in times.items()
    )
    return f"""# Batches of prediction on a CPU, {today()}

{context()}

    python -m benchmarks.prediction_batches

CPU time for each image of `Predictor.predict` with 8 images of noise, which need no resizing; the least of some
repetitions.

| detector | {" | ".join(f"batch of {batch}" for batch in _BATCHES)} | default |
|---|{"---|" * (len(_BATCHES) + 1)}
{rows}
"""


if __name__ == "__main__":
    main()
