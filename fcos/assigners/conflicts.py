"""Conflicts between objects: a location learns the object with the lowest cost."""

import torch
from torch import Tensor

from fcos.locations import Locations
from fcos.ops.boxes import ltrb_from_boxes
from fcos.structures import Assignment, Targets


def resolve(cells: Tensor, costs: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Assigns each location to the object with the lowest cost; of equal costs, to the first object.

    The result does not depend on the order in which a device processes the candidates.

    Args:
        cells: [B, M, C] int64, indices of the C candidate locations of each object.
        costs: [B, M, C] the cost of assigning the location to the object; infinite: not possible.
        count: P, the number of locations.

    Returns:
        The object's index [B, P] int64, 0 if there is none, and whether there is one [B, P].
    """
    images, objects, _ = cells.shape
    lowest = costs.new_full((images, count), torch.inf).scatter_reduce_(1, cells.flatten(1), costs.flatten(1), "amin")
    is_lowest = (costs == per_candidate(lowest, cells)) & costs.isfinite()
    candidates = torch.arange(objects, device=cells.device)[:, None].expand_as(cells).where(is_lowest, objects)
    first = torch.full_like(lowest, objects, dtype=torch.int64)
    first.scatter_reduce_(1, cells.flatten(1), candidates.flatten(1), "amin")
    positive = first < objects
    return first.where(positive, 0), positive


def per_candidate(values: Tensor, cells: Tensor) -> Tensor:
    """Gathers values [B, P] of locations at their indices `cells` [B, M, C]: [B, M, C]."""
    return values.gather(1, cells.flatten(1)).view_as(cells)


def assignment(
    locations: Locations, batch: Targets, index: Tensor, positive: Tensor, alignment: Tensor | None = None
) -> Assignment:
    """Builds the assignment from each location's object index and whether it is positive, both [B, P]."""
    boxes = batch.boxes.gather(1, index[..., None].expand(-1, -1, 4))
    return Assignment(
        positive=positive,
        labels=batch.labels.gather(1, index),
        ltrb=ltrb_from_boxes(locations.xy, boxes).where(positive[..., None], boxes.new_ones(())),
        index=index,
        alignment=alignment,
    )
