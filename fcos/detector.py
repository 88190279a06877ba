"""The detector: normalised images in, one prediction a location out."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fcos.backbones import Backbone, build_backbone
from fcos.config import ModelConfig
from fcos.head import Head
from fcos.necks import NECKS
from fcos.outputs import Outputs
from fcos.points import points

_MULTIPLE = 32  # batches are padded to this many pixels, the coarsest stride a backbone has


def padded_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of the batch that images up to this size become, in pixels."""
    return -(-height // _MULTIPLE) * _MULTIPLE, -(-width // _MULTIPLE) * _MULTIPLE


class Detector(nn.Module):
    """Backbone, neck and head in a row."""

    mean: Tensor
    std: Tensor

    def __init__(self, *, backbone: Backbone, neck: nn.Module, head: Head, config: ModelConfig) -> None:
        super().__init__()
        self.backbone, self.neck, self.head, self.config = backbone, neck, head, config
        self.register_buffer("mean", torch.tensor(backbone.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(backbone.std).view(3, 1, 1), persistent=False)

    def normalise(self, *, mean: Sequence[float], std: Sequence[float]) -> None:
        """Prepares images from now on with this mean and standard deviation of each channel, in 0…1."""
        self.backbone.mean, self.backbone.std = tuple(mean), tuple(std)
        for buffer, values in ((self.mean, mean), (self.std, std)):
            buffer.copy_(torch.tensor(values).view(3, 1, 1))

    def prepare(self, images: Sequence[Tensor]) -> Tensor:
        """Normalises images and pads them, at the right and the bottom, to one batch.

        Args:
            images: uint8 [3, H, W] each, RGB, on any device.

        Returns:
            float32 [B, 3, H', W'] on the detector's device, 0 where it is padding.
        """
        height, width = padded_size(*(max(image.shape[side] for image in images) for side in (-2, -1)))
        batch = self.mean.new_zeros(len(images), 3, height, width)
        for padded, image in zip(batch, images, strict=True):
            pixels = image.to(batch.device, non_blocking=True).float().div_(255)
            padded[:, : image.shape[1], : image.shape[2]] = (pixels - self.mean) / self.std
        return batch.contiguous(memory_format=torch.channels_last)

    def forward(self, batch: Tensor) -> Outputs:
        """[B, 3, H, W] as `prepare` gives it to Outputs."""
        levels = self.neck(self.backbone(batch))
        shapes = [(level.shape[-2], level.shape[-1]) for level in levels]
        places = points(
            shapes,
            self.config.strides,
            locations=self.config.locations,
            ends=self.config.ranges,
            device=batch.device,
        )
        logits, ltrb, quality = self.head(levels)
        return Outputs(logits, ltrb, quality, places)


def build(config: ModelConfig, num_classes: int) -> Detector:
    """The detector that a configuration describes, its weights drawn from torch's global generator.

    Raises:
        ValueError: see `build_backbone`.
    """
    backbone = build_backbone(config)
    neck = NECKS[config.neck](backbone.channels, config)
    detector = Detector(backbone=backbone, neck=neck, head=Head(config, num_classes), config=config)
    return detector.to(memory_format=torch.channels_last)
