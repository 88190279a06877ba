"""Necks: from C3, C4, C5 to pyramid levels with equal numbers of channels."""

from collections.abc import Callable

from torch import nn

from fcos.necks.bifpn import BiFPN
from fcos.necks.fpn import FPN
from fcos.necks.pan import PAN

__all__ = ["NECKS"]

NECKS: dict[str, Callable[..., nn.Module]] = {"fpn": FPN, "pan": PAN, "bifpn": BiFPN}
