"""Planted label errors, and how many of them `fcos cross-check` ranks first: `python -m benchmarks.label_errors FOLDER`.

The training scenes of `digits` with 5 % of the labels changed in each of four ways. FOLDER becomes a clone of the last
commit, in which the cross-check trains its folds; run again, it continues. A dated card is written.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.harness import context, save_card, today

Kind = Literal["missing", "spurious", "wrong_class", "poor_box"]
KINDS: tuple[Kind, ...] = ("missing", "spurious", "wrong_class", "poor_box")
REQUIRED: Mapping[Kind, float] = {"missing": 0.6, "spurious": 0.5, "wrong_class": 0.7, "poor_box": 0.5}
SHARE = 0.05  # of the labels, for each kind
POOR_IOU = (0.3, 0.7)  # of a badly drawn box with the object
MAX_SPURIOUS_IOU = 0.1  # with any object
FOLDS = 3
SETTINGS = ("train.epochs=7", "train.validate_every=7", "machine.device=cpu")

Box = tuple[float, float, float, float]  # x, y, width, height in pixels


@dataclass(frozen=True)
class Label:
    image: int  # id
    category: int  # id
    box: Box


@dataclass(frozen=True)
class Planted:
    """One error: the label that is wrong, or the one that is missing."""

    kind: Kind
    label: Label


def plant(
    labels: Sequence[Label], sizes: Mapping[int, tuple[int, int]], categories: Sequence[int], rng: np.random.Generator
) -> tuple[list[Label], list[Planted]]:
    """Labels with errors, and the errors; no label has two of them.

    Args:
        sizes: width and height of each image by its id.
        categories: the ids of all classes.
    """
    count = round(SHARE * len(labels))
    parts = np.split(rng.permutation(len(labels))[: 3 * count], 3)
    chosen = {int(index): kind for kind, part in zip(("missing", "wrong_class", "poor_box"), parts, strict=True) for index in part}
    changed: list[Label] = []
    planted: list[Planted] = []
    for index, label in enumerate(labels):
        kind = chosen.get(index)
        if kind == "wrong_class":
            label = replace(label, category=int(rng.choice([item for item in categories if item != label.category])))
        elif kind == "poor_box":
            label = replace(label, box=_draw_badly(label.box, sizes[label.image], rng))
        if kind:
            planted.append(Planted(kind, label))
        if kind != "missing":
            changed.append(label)
    spurious = [_add_spurious(labels, sizes, categories, rng) for _ in range(count)]
    return changed + spurious, planted + [Planted("spurious", label) for label in spurious]


def _draw_badly(box: Box, size: tuple[int, int], rng: np.random.Generator) -> Box:
    """The box with its sides moved by up to half its width and height, until the IoU with it is in POOR_IOU."""
    x, y, width, height = box
    while True:
        left, right = x + width * rng.uniform(-0.5, 0.5), x + width * (1 + rng.uniform(-0.5, 0.5))
        top, bottom = y + height * rng.uniform(-0.5, 0.5), y + height * (1 + rng.uniform(-0.5, 0.5))
        left, right = (float(np.clip(value, 0, size[0]).round()) for value in (left, right))
        top, bottom = (float(np.clip(value, 0, size[1]).round()) for value in (top, bottom))
        moved = (left, top, right - left, bottom - top)
        if min(moved[2:]) >= 2 and POOR_IOU[0] <= iou(moved, box) <= POOR_IOU[1]:
            return moved


def _add_spurious(
    labels: Sequence[Label], sizes: Mapping[int, tuple[int, int]], categories: Sequence[int], rng: np.random.Generator
) -> Label:
    """A label of a random class, as large as a random object, in a random image, where no object is."""
    while True:
        image = int(rng.choice(list(sizes)))
        width, height = labels[rng.integers(len(labels))].box[2:]
        if width > sizes[image][0] or height > sizes[image][1]:
            continue
        x, y = float(rng.integers(0, sizes[image][0] - width + 1)), float(rng.integers(0, sizes[image][1] - height + 1))
        box = (x, y, width, height)
        if all(iou(box, label.box) <= MAX_SPURIOUS_IOU for label in labels if label.image == image):
            return Label(image, int(rng.choice(categories)), box)


def iou(a: Box, b: Box) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)
