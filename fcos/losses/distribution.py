"""The loss of distances that are predicted as distributions."""

import torch
from torch import Tensor

_BELOW = 1e-3  # distances are at most this much less than the largest bin, so that there is a bin above them


def distribution_focal_loss(logits: Tensor, distances: Tensor) -> Tensor:
    """Distribution focal loss (Li et al., GFL, 2006.04388, equation 6), averaged over the four sides.

    −((y_{i+1} − y) · ln S_i + (y − y_i) · ln S_{i+1}) for a distance y between the whole numbers y_i and y_{i+1}.

    Args:
        logits: [..., 4, bins] of the distances 0, 1, …, bins − 1.
        distances: [..., 4] in strides; larger ones count as the largest bin's.

    Returns:
        [...] losses.
    """
    largest = logits.shape[-1] - 1
    distances = distances.clamp(0, largest - _BELOW)
    below = distances.long()
    above_share = distances - below
    log_probability = logits.log_softmax(dim=-1)
    at_below, at_above = (log_probability.gather(-1, bin[..., None]).squeeze(-1) for bin in (below, below + 1))
    return -torch.lerp(at_below, at_above, above_share).mean(dim=-1)
