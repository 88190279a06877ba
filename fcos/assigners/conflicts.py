"""A location learns one object: who wins it, and what follows from that."""

import torch
from torch import Tensor

from fcos.locations import Locations
from fcos.ops.boxes import ltrb_from_boxes
from fcos.structures import Assignment, Targets


def resolve(cells: Tensor, costs: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Gives every location to the object that bids least for it; of equal ones, to the first.

    The order in which a device works through the bids changes nothing.

    Args:
        cells: [B, M, C] int64: C locations of each object.
        costs: [B, M, C] the object's bid for each of them; infinite: none.
        count: P, the number of locations.

    Returns:
        The winner's index [B, P] int64, 0 where nobody bids, and whether anybody does [B, P].
    """
    images, objects, _ = cells.shape
    least = costs.new_full((images, count), torch.inf).scatter_reduce_(1, cells.flatten(1), costs.flatten(1), "amin")
    won = (costs == per_candidate(least, cells)) & costs.isfinite()
    bidders = torch.arange(objects, device=cells.device)[:, None].expand_as(cells).where(won, objects)
    first = torch.full_like(least, objects, dtype=torch.int64)
    first.scatter_reduce_(1, cells.flatten(1), bidders.flatten(1), "amin")
    positive = first < objects
    return first.where(positive, 0), positive


def per_candidate(values: Tensor, cells: Tensor) -> Tensor:
    """Values [B, P] of the locations that `cells` [B, M, C] names: [B, M, C]."""
    return values.gather(1, cells.flatten(1)).view_as(cells)


def assignment(
    locations: Locations, batch: Targets, index: Tensor, positive: Tensor, alignment: Tensor | None = None
) -> Assignment:
    """What every location learns, given its object's index and whether it has one, both [B, P]."""
    boxes = batch.boxes.gather(1, index[..., None].expand(-1, -1, 4))
    return Assignment(
        positive=positive,
        labels=batch.labels.gather(1, index),
        ltrb=ltrb_from_boxes(locations.xy, boxes).where(positive[..., None], boxes.new_ones(())),
        index=index,
        alignment=alignment,
    )
