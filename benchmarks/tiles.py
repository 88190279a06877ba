"""What `train.tiles` gains for small objects in large images: digits of 8 to 16 pixels in scenes of 2,000.

    python -m benchmarks.tiles

One detector is trained on tiles and another one on whole images, at the same input size and for the same CPU time.
Both are measured on whole images and on tiles. The scenes are made of the digits and photographs of the default data
set, which training and validation don't share. The default takes about an hour on one core; a dated card is written.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Pillow

from benchmarks.harness import context, save_card, today
from fcos.training.history import NullCallback
from fcos.training.trainer import Trainer
from pipeline import recipes
from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image
from pipeline.datasets import digits
from pipeline.datasets.digits import Material, Split
from pipeline.overrides import override
from pipeline.params import Params
from pipeline.training.build import make_batches, make_trainer, make_validation

_SCENE, _HEIGHTS, _TILES = 2000, (8, 16), (256, 0.1)  # pixels; side and overlap
_TRIES = 20  # to place a digit


@dataclass(frozen=True)
class Outcome:
    """A training on tiles or on whole images, and what it reaches in the validation scenes."""

    name: str
    epochs: int
    steps: int
    seconds: float  # CPU time, without validation
    whole: float  # AP50 with detection in whole images
    tiles: float  # AP50 with detection in tiles, too


def scene(
    material: Material, rng: np.random.Generator, count: int
) -> tuple[NDArray[np.uint8], list[tuple[int, digits.Box]]]:
    """A scene of small digits that don't overlap: pixels, and the label and box of each digit."""
    canvas = digits.background(material.photographs, rng, _SCENE)
    owner = np.zeros((_SCENE, _SCENE), np.uint8)
    objects: list[tuple[int, digits.Box]] = []
    colors: list[digits.Floats] = []
    for _ in range(count):
        row = int(rng.choice(material.digits))
        ink = digits.glyph(material.images[row], rng, int(rng.integers(_HEIGHTS[0], _HEIGHTS[1] + 1)))
        height, width = ink.shape
        for _ in range(_TRIES):
            x, y = int(rng.integers(0, _SCENE - width)), int(rng.integers(0, _SCENE - height))
            if not owner[y : y + height, x : x + width].any():
                colors.append(digits.paint(canvas, owner, ink, (x, y), colors, rng))
                objects.append((int(material.labels[row]), (x, y, width, height)))
                break
    return np.clip(canvas, 0, 255).astype(np.uint8), objects


def make_split(folder: Path, name: Split, scenes: int, count: int) -> AnnotationSet:
    """Writes the scenes of a split, and returns their annotations."""
    material = digits.load_material(name, seed=0)
    images: list[Image] = []
    items: list[Annotation] = []
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, scenes + 1):
        pixels, objects = scene(material, np.random.default_rng((0, digits.SPLITS.index(name), number)), count)
        images.append(Image(number, f"{name}-{number}.jpg", _SCENE, _SCENE))
        Pillow.fromarray(pixels).save(folder / images[-1].file_name, quality=92)
        for label, (x, y, w, h) in objects:
            box = (float(x), float(y), float(w), float(h))
            items.append(Annotation(len(items) + 1, number, label + 1, box, float(w * h)))
    categories = tuple(Category(label + 1, name) for label, name in enumerate(digits.NAMES))
    return AnnotationSet(categories, tuple(images), tuple(items))


class Comparison:
    """Trainings on the same scenes."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder = folder
        self.train = make_split(folder, "train", options.train, options.digits)
        self.val = make_split(folder, "val", options.val, options.digits)

    def run(self, name: str, params: Params) -> Outcome:
        started = time.process_time()
        trainer = self._trainer(params)
        trainer.fit()
        seconds = time.process_time() - started
        whole, tiles = (
            make_validation(_with(params, tiles=value), self.val, self.folder)(trainer.result)["AP50"]
            for value in (None, _TILES)
        )
        return Outcome(name, params.train.epochs, trainer.step, seconds, whole, tiles)

    def _trainer(self, params: Params) -> Trainer:
        batches = make_batches(params, self.train, self.folder)
        names = [category.name for category in self.train.categories]
        # The measurements after the training take the place of validations.
        return make_trainer(
            params,
            batches=batches,
            validate=lambda _: {"AP": 0.0, "AP50": 0.0},
            classes=names,
            callback=NullCallback(),
            checkpoint=None,
        )


def _with(params: Params, **train: object) -> Params:
    return replace(params, train=replace(params.train, **train))  # type: ignore[arg-type]


def compare(folder: Path, options: argparse.Namespace) -> list[Outcome]:
    """The training on tiles, then one on whole images that takes as much CPU time."""
    values = override(recipes.defaults(), ["machine.device=cpu", "train.empty_tiles=0.1"])
    values = _with(values, epochs=options.epochs, validate_every=options.epochs)
    comparison = Comparison(folder, options)
    tiled = comparison.run("tiles", _with(values, tiles=_TILES))
    print(tiled, flush=True)
    # A short training tells the time of an epoch.
    short = comparison.run("whole images", _with(values, epochs=options.probe, validate_every=options.probe))
    epochs = max(1, round(tiled.seconds / short.seconds * short.epochs))
    whole = comparison.run("whole images", _with(values, epochs=epochs, validate_every=epochs))
    print(whole, flush=True)
    return [whole, tiled]


def card(outcomes: Sequence[Outcome], options: argparse.Namespace) -> str:
    rows = "\n".join(
        f"| {item.name} | {item.epochs:,} | {item.steps:,} | {item.seconds:.0f} | {100 * item.whole:.1f} "
        f"| {100 * item.tiles:.1f} |"
        for item in outcomes
    )
    whole, tiled = outcomes
    gain = 100 * (tiled.tiles - whole.whole)
    return f"""# Training on tiles, {today()}

{context()}

    python -m benchmarks.tiles --train {options.train} --val {options.val} --digits {options.digits} \\
        --epochs {options.epochs} --probe {options.probe}

{options.train} training and {options.val} validation scenes of {_SCENE}×{_SCENE} pixels, each with {options.digits}
digits of {_HEIGHTS[0]} to {_HEIGHTS[1]} pixels; the default detector at an input of 256×256; tiles of {_TILES[0]}
pixels that overlap by {_TILES[1]:g}. One seed. AP50 in percent.

| trained on | epochs | steps | CPU s | AP50, detected in whole images | AP50, detected in tiles |
|---|---|---|---|---|---|
{rows}

With tiles in training and evaluation against none in either, at equal CPU time: {gain:+.1f} points of AP50 (goal: +20).
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tiles", description=__doc__)
    parser.add_argument("--train", type=int, default=60, help="training scenes")
    parser.add_argument("--val", type=int, default=20, help="validation scenes")
    parser.add_argument(
        "--digits", type=int, default=60, help="digits in a scene, at most the 100 detections of an image that are kept"
    )
    parser.add_argument("--epochs", type=int, default=4, help="of the training on tiles")
    parser.add_argument("--probe", type=int, default=4, help="epochs that measure the time of whole images")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="tiles-") as folder:
        outcomes = compare(Path(folder), options)
    print(save_card(card(outcomes, options), "tiles", Path(__file__).parent / "results"))


if __name__ == "__main__":
    main()
