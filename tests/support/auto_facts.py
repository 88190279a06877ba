"""Facts for `fcos recipes auto`, and the choices that follow from them."""

import json
import math
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from pipeline import params, recipes
from pipeline.analysis.auto_facts import Facts, MemoryUse, Speed
from pipeline.analysis.auto_rules import choose
from pipeline.params import Params
from tests.support.parameters import set_value

DEFAULTS = json.loads(json.dumps(asdict(recipes.defaults())))
GIB = 2**30
LITE0 = frozenset({"efficientnet_lite0"})


def make_facts(
    images: int,
    size: tuple[int, int],
    boxes: dict[str, list[float]],
    *,
    minutes: float = 10,
    milliseconds: float = 2.0,
    **changes: Any,
) -> Facts:
    """Images of one height and width, with square objects of these sides by class, equally many in each image.

    Args:
        milliseconds: of training for each thousand pixels of the input; validation takes a third.
    """
    classes = tuple(boxes)
    pairs = [(side, label) for label, name in enumerate(classes) for side in boxes[name]]
    val_images = changes.pop("val_images", max(1, images // 4))
    batch = 4 if images < 100 else 8
    pixels = size[0] * size[1]
    speed = Speed(
        size=(min(size), max(size)),
        steps=math.ceil(images / batch),
        epoch=images * pixels * milliseconds * 1e-6,
        validation=val_images * pixels * milliseconds * 1e-6 / 3,
    )
    facts = Facts(
        dataset="custom",
        classes=classes,
        images=np.full((images, 2), size, dtype=np.float64),
        boxes=np.array([(side, side) for side, _ in pairs] * images, dtype=np.float64).reshape(-1, 2),
        box_images=np.repeat(np.arange(images), len(pairs)),
        box_classes=np.array([label for _, label in pairs] * images, dtype=np.int64),
        val_images=val_images,
        device="cpu",
        cores=2,
        processes=1,
        cached=False,
        memory=16 * GIB,
        weights=LITE0,
        seconds=minutes * 60,
        memory_use=MemoryUse(size=(480, 640), fixed=GIB // 8, per_image=GIB // 4),
        speed=speed,
    )
    return replace(facts, **changes)


def choices(facts: Facts) -> dict[str, Any]:
    return {choice.key: choice.value for choice in choose(facts)}


def values_of(chosen: dict[str, Any]) -> Params:
    """The defaults with the choices, checked as a parameter file is."""
    tree = json.loads(json.dumps(DEFAULTS))
    for key, value in chosen.items():
        set_value(tree, key, value)
    return params.validate(tree, "choices")
