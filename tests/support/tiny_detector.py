"""A detector of two classes with random weights and varied scores, saved in a moment."""

from dataclasses import replace
from pathlib import Path

import torch

from fcos.config import PAPER, InputSize
from fcos.detector import build
from fcos.weights import Description, save_detector

CATEGORIES = ((7, "cat"), (3, "dog"))
CONFIG = replace(
    PAPER,
    backbone="tiny",
    pretrained=False,
    channels=16,
    levels=(3, 4, 5),
    tower_depth=1,
    frozen_stages=0,
    batch_norm="auto",
)


def save_tiny_detector(path: Path, size: tuple[int, int] = (64, 96)) -> Path:
    """Writes the weights and their description; on noise, it detects dozens of objects with scores around 0.5."""
    torch.manual_seed(0)
    detector = build(CONFIG, len(CATEGORIES))
    torch.nn.init.normal_(detector.head.class_logits.weight, std=0.1)
    torch.nn.init.zeros_(detector.head.class_logits.bias)
    save_detector(detector, Description(model=CONFIG, categories=CATEGORIES, input_size=InputSize(size)), path)
    return path
