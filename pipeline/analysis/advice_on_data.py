"""Advice on classes, sizes of objects and input size. A rule is a function from a context to a line, or None."""

import math
from collections.abc import Sequence

import numpy as np

from fcos.config import DEFAULT_RANGE, MAX_DISTRIBUTION
from fcos.locations import size_ranges
from pipeline.analysis.advice_context import Context
from pipeline.analysis.assignment import level_name
from pipeline.analysis.tiling import Floats, propose_tiles, resize_factors

_MAX_NAMES = 5  # class names in a line
_SMALL_BOX = 8  # pixels


def untrained_classes(context: Context) -> str | None:
    """Classes that are evaluated but never trained."""
    names = [name for name, count in context.val_counts.items() if count and not context.train_counts[name]]
    if not names:
        return None
    return (
        f"val has objects of {_list_names(names)} but train has none, so all of them will be missed: change the split "
        "(convert.val_fraction, convert.split_seed)"
    )


def missing_classes(context: Context) -> str | None:
    """Classes without any object."""
    names = [name for name, count in context.train_counts.items() if not count and not context.val_counts[name]]
    if not names:
        return None
    return (
        f"{len(names)} of {len(context.train_counts)} classes have no objects ({_list_names(names)}): leave them out "
        "with convert.classes"
    )


def imbalanced_classes(context: Context) -> str | None:
    """A class with over a thousand times as many objects as another."""
    ranked = [(name, count) for name, count in context.train_counts.most_common() if count]
    if not ranked or ranked[0][1] <= 1000 * ranked[-1][1]:
        return None
    (most, most_count), (fewest, fewest_count) = ranked[0], ranked[-1]
    return (
        f"{most} has {most_count:,} objects and {fewest} has {fewest_count:,}: check the AP of the rare classes; add "
        "images of them, raise train.repeat_threshold, or leave them out with convert.classes"
    )


def small_boxes(context: Context) -> str | None:
    """Boxes smaller than the stride of P3, of which little is left in a feature map."""
    sizes = np.sqrt(context.box_sizes.prod(axis=1))
    share = float((sizes < _SMALL_BOX).mean()) if len(sizes) else 0.0
    if share < 0.1:
        return None
    add_level = "" if context.params.model.levels[0] == 3 else ", and start model.levels at 3"
    return (
        f"{share:.0%} of the boxes are under {_SMALL_BOX} px at the input size: increase {context.size_text}{add_level}"
    )


def small_boxes_in_large_images(context: Context) -> str | None:
    """Many small boxes in images that are shrunk: a larger input or tiles show them."""
    line = propose_tiles(context.train, context.box_sizes, context.image_sizes, context.device)
    uncached = " -S machine.cache=false" if line and "tiles=" in line and context.machine.cache else ""
    return line and line + uncached


def untiled_evaluation(context: Context) -> str | None:
    """A detector of small objects that is evaluated on whole images only, where it can't find them."""
    tiles = context.train.tiles
    if tiles is None or context.params.evaluate.tiles:
        return None
    return f"training is on tiles, but evaluation isn't: -S 'evaluate.tiles=[{tiles[0]}, {tiles[1]:g}]'"


def empty_levels(context: Context) -> str | None:
    """Levels whose size range contains no object at any zoom."""
    if context.params.model.assigner != "fcos" or not len(context.box_sizes):
        return None
    model, reached = context.params.model, _reached_levels(context)
    unused = [index for index, is_reached in enumerate(reached) if not is_reached]
    names = ", ".join(level_name(model.strides[index]) for index in unused)
    if not unused:
        return None
    if unused != list(range(unused[0], len(reached))):  # only the last levels can be left out
        return f"no object falls on {names}: adapt model.regression_ranges and model.levels to the sizes of the objects"
    low = size_ranges(model.strides, model.regression_ranges)[unused[0]][0]
    return (
        f"no object falls on {names} (sizes over {low:g} px): leave it out of model.levels, or increase "
        f"{context.size_text}"
    )


def _reached_levels(context: Context) -> list[bool]:
    """Whether a location of each level could be assigned to any object, by size.

    The largest distance from a location to the sides of an object is at least half the longer side. It is at most half
    the longer side plus the center sampling radius, and at most the longer side.
    """
    model, (smallest, largest) = context.params.model, _zoomed_sides(context)
    radii = [
        model.center_sampling_radius * stride if model.center_sampling_radius else np.inf for stride in model.strides
    ]
    return [
        bool(((smallest / 2 <= high) & (np.minimum(largest, largest / 2 + radius) > low)).any())
        for (low, high), radius in zip(size_ranges(model.strides, model.regression_ranges), radii, strict=True)
    ]


def _zoomed_sides(context: Context) -> tuple[Floats, Floats]:
    """[M], [M] the longer sides of the objects at the smallest and at the largest zoom of the augmentation."""
    augment, train = context.train.augment, context.train
    sizes = [side / train.size[0] for side in train.multi_scale or (train.size[0], train.size[0])]
    low, high = augment.scale
    low, high = low / (2 if augment.mosaic else 1), high / (augment.min_crop if augment.crop else 1)
    sides = context.long_sides
    return sides * low * sizes[0], np.minimum(sides * high, max(train.size)) * sizes[1]


def unlearnable_objects(context: Context) -> str | None:
    """Objects without a location: the best possible recall is low (ICCV paper, section 4.1.1)."""
    if context.recall is None or not context.recall.objects["all"]:
        return None
    recall = context.recall.assigned["all"] / context.recall.objects["all"]
    if recall >= 0.95:
        return None
    return (
        f"{1 - recall:.1%} of the objects have no location and can't be learned (`fcos summary` shows their sizes, "
        f"`fcos explain` the reasons): increase {context.size_text}, add finer model.levels, or increase "
        "model.center_sampling_radius"
    )


def capped_boxes(context: Context) -> str | None:
    """Objects of which even a location in the center is farther from a side than the largest distance of its level."""
    model, sides = context.params.model, np.minimum(context.long_sides, max(context.train.size))
    if model.box_output != "distribution" or not len(sides):
        return None
    needed = sides / 2 / model.strides[-1]
    share = float((needed > model.distribution_max).mean())
    if share < 0.01:
        return None
    add_level = "" if model.levels[-1] == 7 else ", or add coarser model.levels"
    # Locations are up to half a stride from the center, and the mean of a distribution is below its largest value.
    most = min(MAX_DISTRIBUTION, math.ceil(needed.max()) + 1)
    return (
        f"{share:.0%} of the objects need more than model.distribution_max {model.distribution_max} strides of "
        f"{model.strides[-1]} px, so their boxes would be too small: -S model.distribution_max={most}{add_level}"
    )


def missing_coarse_levels(context: Context) -> str | None:
    """Objects that FCOS's size ranges give to a coarser level than there is, with an assigner without size ranges."""
    model, sides = context.params.model, np.minimum(context.long_sides, max(context.train.size))
    if model.assigner == "fcos" or model.levels[-1] == 7 or not len(sides) or capped_boxes(context):
        return None
    strides = 2 * DEFAULT_RANGE  # the range is one of distances, which are at least half the longer side
    share = float((sides > strides * model.strides[-1]).mean())
    if share < 0.05:
        return None
    return (
        f"{share:.0%} of the objects are longer than {strides * model.strides[-1]} px at the input size, {strides} "
        f"strides of {level_name(model.strides[-1])}: add coarser model.levels, at least {model.levels[-1] + 1}"
    )


def large_images(context: Context) -> str | None:
    """Images that are decoded at many times the input size, unless tiles are proposed, which exclude the cache."""
    scale = float(np.median(resize_factors(context.train, context.image_sizes)))
    if scale > 0.25 or context.machine.cache or context.train.tiles:
        return None
    if "tiles=" in (small_boxes_in_large_images(context) or ""):
        return None
    return (
        f"images are {1 / scale:.0f} times as large as {context.size_text}: with machine.cache true they are decoded "
        "and resized only once"
    )


def _list_names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(names[:_MAX_NAMES]) + more
