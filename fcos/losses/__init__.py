"""Classification, box and quality losses; the criterion weights and normalizes them."""

from fcos.losses.box import BOX_LOSSES
from fcos.losses.classification import CLASSIFICATION_LOSSES
from fcos.losses.distribution import distribution_focal_loss
from fcos.losses.quality import QUALITY_LOSSES, centerness

__all__ = ["BOX_LOSSES", "CLASSIFICATION_LOSSES", "QUALITY_LOSSES", "centerness", "distribution_focal_loss"]
