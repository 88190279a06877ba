"""The detector: from normalized images to one prediction per location."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fcos.backbones import Backbone, build_backbone
from fcos.backbones.batch_norm import convert_batch_norm
from fcos.config import ModelConfig
from fcos.head import Head
from fcos.locations import make_locations
from fcos.necks import NECKS
from fcos.structures import Outputs

_MULTIPLE = 32  # batches are padded to this many pixels, the coarsest stride a backbone has


def padded_size(height: int, width: int) -> tuple[int, int]:
    """Height and width, in pixels, of a batch of images up to this size."""
    return -(-height // _MULTIPLE) * _MULTIPLE, -(-width // _MULTIPLE) * _MULTIPLE


def batch_images(images: Sequence[Tensor], canvas: tuple[int, int] | None = None) -> tuple[Tensor, Tensor]:
    """Pads images at the right and the bottom and stacks them to a batch.

    Args:
        images: uint8 [3, H, W] each.
        canvas: minimum height and width of the batch; None: those of the largest image.

    Returns:
        uint8 [B, 3, H', W'], channels last in memory like decoded images, which makes copying an image ten times as
        fast; and int64 [B, 2], the height and width of each image without padding.
    """
    sizes = [(image.shape[-2], image.shape[-1]) for image in images]
    largest = [max(sides) for sides in zip(*sizes, *([canvas] if canvas else []), strict=True)]
    pixels = images[0].new_zeros(len(images), *padded_size(*largest), 3).permute(0, 3, 1, 2)
    for padded, image, (height, width) in zip(pixels, images, sizes, strict=True):
        padded[:, :height, :width] = image
    return pixels, torch.tensor(sizes)


class Detector(nn.Module):
    """Backbone, neck and head, applied one after another."""

    mean: Tensor
    std: Tensor

    def __init__(self, *, backbone: Backbone, neck: nn.Module, head: Head, config: ModelConfig) -> None:
        super().__init__()
        self.backbone, self.neck, self.head, self.config = backbone, neck, head, config
        self.memory_format = torch.channels_last
        self.register_buffer("mean", torch.tensor(backbone.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(backbone.std).view(3, 1, 1), persistent=False)

    def set_memory_format(self, memory_format: torch.memory_format) -> None:
        """Sets the memory format of weights and batches. It changes the rounding of results."""
        self.memory_format = memory_format
        self.to(memory_format=memory_format)

    def set_normalization(self, *, mean: Sequence[float], std: Sequence[float]) -> None:
        """Sets the mean and standard deviation of each channel (of pixels in 0…1) that images are normalized with."""
        self.backbone.mean, self.backbone.std = tuple(mean), tuple(std)
        for buffer, values in ((self.mean, mean), (self.std, std)):
            buffer.copy_(torch.tensor(values).view(3, 1, 1))

    def prepare(self, images: Sequence[Tensor], canvas: tuple[int, int] | None = None) -> Tensor:
        """Pads images to a batch and normalizes it.

        Args:
            images: uint8 [3, H, W] each, RGB.
            canvas: minimum height and width of the batch; None: those of the largest image.

        Returns:
            float32 [B, 3, H', W'] on the detector's device, 0 in the padding.
        """
        return self.normalize_batch(*batch_images(images, canvas))

    def normalize_batch(self, pixels: Tensor, sizes: Tensor) -> Tensor:
        """Normalizes a batch for `forward`, without waiting for a GPU.

        Args:
            pixels, sizes: a batch from `batch_images`, on any device; its padding must be 0.

        Returns:
            float32 [B, 3, H', W'] on the detector's device, 0 in the padding.
        """
        pixels, sizes = (tensor.to(self.mean.device, non_blocking=True) for tensor in (pixels, sizes))
        width = pixels.shape[3]
        # A row of pixels as one dimension: an innermost dimension of three channels takes a CPU three times as long.
        rows = pixels.permute(0, 2, 3, 1).flatten(2).float()
        rows.mul_((1 / (255 * self.std)).flatten().repeat(width))
        # Padding is 0 already: the mean is subtracted inside the images only.
        down, across = (torch.arange(side, device=rows.device) for side in (rows.shape[1], width))
        inside = (across < sizes[:, 1, None])[:, :, None] * (self.mean / self.std).flatten()
        rows.addcmul_((down < sizes[:, 0, None])[:, :, None].float(), inside.flatten(1)[:, None], value=-1)
        batch = rows.view(*rows.shape[:2], width, 3).permute(0, 3, 1, 2)
        return batch.contiguous(memory_format=self.memory_format)

    def forward(self, batch: Tensor) -> Outputs:
        """Normalized images [B, 3, H, W], H and W multiples of 32 (see `prepare`), to Outputs."""
        levels = self.neck(self.backbone(batch))
        shapes = [(level.shape[-2], level.shape[-1]) for level in levels]
        locations = make_locations(
            shapes,
            self.config.strides,
            mode=self.config.locations,
            ends=self.config.regression_ranges,
            device=batch.device,
        )
        logits, ltrb, quality, distributions = self.head(levels)
        return Outputs(logits, ltrb, quality, locations, distributions)


def build(config: ModelConfig, num_classes: int) -> Detector:
    """Builds a detector from its configuration; random weights come from torch's global generator.

    Raises:
        ValueError: see `build_backbone`.
    """
    backbone = build_backbone(config)
    neck, head = NECKS[config.neck](backbone.channels, config), Head(config, num_classes)
    if config.batch_norm == "synchronized":
        convert_batch_norm(neck, "synchronized")
        convert_batch_norm(head, "synchronized")
    detector = Detector(backbone=backbone, neck=neck, head=head, config=config)
    return detector.to(memory_format=torch.channels_last)
