"""Heat maps of a detector's outputs for one image: class probability and quality at the locations of each level."""

from collections.abc import Sequence

import numpy as np
import PIL.Image
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import ImageDraw
from torch import Tensor

from fcos.locations import LevelGrid
from fcos.postprocess import Detections
from fcos.structures import Outputs
from pipeline.analysis.assignment import level_name, split_levels
from pipeline.errors import count_noun
from pipeline.inference import score_thresholds
from pipeline.visualization.boxes import (
    BACKGROUND,
    TEXT_COLOR,
    Box,
    class_color,
    draw_boxes,
    draw_tag,
    object_color,
)
from pipeline.visualization.contact_sheets import Panel, panel_sheet
from pipeline.visualization.fonts import load_font
from pipeline.visualization.heat_colors import color_bar, overlay_heat
from pipeline.visualization.location_maps import enlarge, legend, scale_box

_LONG_SIDE = 560  # pixels of a panel's image
_MIN_PEAK = 0.3  # lowest probability of a peak with a class name
_MAX_PEAKS = 5  # class names per level

_OUTSIDE = "It is trained only inside objects; elsewhere its values have no meaning."
_QUALITY_TEXT = {
    "centerness": f"Centerness: predicted nearness of the location to the middle of its object. {_OUTSIDE}",
    "iou": f"IoU: predicted overlap of the location's box with its object. {_OUTSIDE}",
}


def heat_map(
    image: PIL.Image.Image,
    outputs: Outputs,
    detections: Detections,
    thresholds: Sequence[float],
    truth: Sequence[tuple[Box, str]],
    *,
    names: Sequence[str],
    quality: str,
    title: str,
) -> PIL.Image.Image:
    """The detections and the ground truth of an image, and the class probability and quality on each level.

    Args:
        image: the network input; boxes of `detections` and `truth` are in its pixels.
        outputs: for this image alone.
        thresholds: the lowest score of a detection of each class, which the caption mentions.
        truth: the box and class name of each object.
        names: class names by label.
        quality: the kind of the third output, `quality` of ModelConfig.
    """
    scale = _LONG_SIDE / max(image.size)
    large = enlarge(image, scale)
    locations, grids = outputs.locations, outputs.locations.grids
    probability, label = outputs.logits[0].float().sigmoid().cpu().max(dim=-1)
    probabilities, labels = split_levels(probability, locations), split_levels(label, locations)
    class_panels = [
        _class_panel(large, scale, *level, names) for level in zip(grids, probabilities, labels, strict=True)
    ]
    rows = [[_detection_panel(large, scale, detections, thresholds, names), *class_panels]]
    if outputs.quality is not None:
        levels = split_levels(outputs.quality[0].float().sigmoid().cpu(), locations)
        panels = [
            Panel(_overlay(large, scale, grid, values), f"{level_name(grid.stride)}: {quality}", _highest(values))
            for grid, values in zip(grids, levels, strict=True)
        ]
        rows.append([_truth_panel(large, scale, truth), *panels])
    return panel_sheet(rows, title=title, legend=_heat_legend(quality, (1 + len(grids)) * large.width))


def _detection_panel(
    large: PIL.Image.Image, scale: float, detections: Detections, thresholds: Sequence[float], names: Sequence[str]
) -> Panel:
    labels = detections.labels.tolist()
    picture = draw_boxes(
        large,
        (detections.boxes * scale).tolist(),
        [names[label] for label in labels],
        [class_color(label) for label in labels],
        detections.scores.tolist(),
    )
    scores = score_thresholds.describe(thresholds)
    return Panel(picture, "Detections", f"{count_noun(len(labels), 'detection')} with a score of at least {scores}.")


def _truth_panel(large: PIL.Image.Image, scale: float, truth: Sequence[tuple[Box, str]]) -> Panel:
    boxes, names = [scale_box(box, scale) for box, _ in truth], [name for _, name in truth]
    picture = draw_boxes(large, boxes, names, [object_color(index) for index in range(len(boxes))])
    return Panel(picture, "Ground truth", f"{count_noun(len(truth), 'object')}." if truth else "No object is known.")


def _overlay(large: PIL.Image.Image, scale: float, grid: LevelGrid, values: Tensor) -> PIL.Image.Image:
    """The values of a level over the image, each cell centered on its location."""
    cells: NDArray[np.float32] = values.view(grid.height, grid.width).numpy()
    left, top = (grid.first - grid.step_x / 2) * scale, (grid.first - grid.step_y / 2) * scale
    area = (left, top, left + grid.width * grid.step_x * scale, top + grid.height * grid.step_y * scale)
    return overlay_heat(large, cells, area)


def _class_panel(
    large: PIL.Image.Image, scale: float, grid: LevelGrid, values: Tensor, labels: Tensor, names: Sequence[str]
) -> Panel:
    picture = _overlay(large, scale, grid, values)
    for index in _peaks(grid, values):
        x, y = (grid.xy()[index] * scale).tolist()
        label = int(labels[index])
        draw_tag(picture, (x, y), names[label], class_color(label), 14)
    return Panel(picture, f"{level_name(grid.stride)}: class", f"A location every {grid.stride} px. {_highest(values)}")


def _peaks(grid: LevelGrid, values: Tensor) -> list[int]:
    """Indices of the locations with the highest values that are also higher than their neighbors."""
    neighborhood = F.max_pool2d(values.view(1, grid.height, grid.width), 3, stride=1, padding=1).flatten()
    peaks = values.where((values == neighborhood) & (values >= _MIN_PEAK), 0.0).sort(descending=True, stable=True)
    ranked = zip(peaks.values[:_MAX_PEAKS], peaks.indices, strict=False)
    return [int(index) for value, index in ranked if value > 0]


def _highest(values: Tensor) -> str:
    return f"Highest: {float(values.max()):.2f}."


def _heat_legend(quality: str, width: int) -> PIL.Image.Image:
    bar = PIL.Image.new("RGB", (330, 36), BACKGROUND)
    bar.paste(color_bar(270, 24), (30, 6))
    pen, font = ImageDraw.Draw(bar), load_font(20)
    pen.text((8, 6), "0", fill=TEXT_COLOR, font=font)
    pen.text((308, 6), "1", fill=TEXT_COLOR, font=font)
    text = "Class: the highest probability of any class at a location; peaks are labeled with the class."
    return legend([(bar, text)], _QUALITY_TEXT.get(quality, ""), width)
