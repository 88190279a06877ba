"""The backbone's interface: features C3, C4 and C5, and their channels, strides and normalization."""

from collections.abc import Sequence

from torch import Tensor, nn

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Backbone(nn.Module):
    """A feature extractor and the properties that the rest of the detector uses.

    Args:
        parts: [B, 3, H, W] normalized images to C3, C4, C5.
        channels: of C3, C4, C5.
        mean, std: of each channel, in 0…1, that its weights were trained with.
        stages: names of the parameters in `parts`, stage by stage from the input on; `frozen_stages` counts these.
    """

    def __init__(
        self,
        parts: nn.Module,
        *,
        channels: Sequence[int],
        mean: Sequence[float],
        std: Sequence[float],
        stages: Sequence[frozenset[str]],
    ) -> None:
        super().__init__()
        self.parts = parts
        self.channels, self.strides = tuple(channels), (8, 16, 32)
        self.mean, self.std = tuple(mean), tuple(std)
        self.stages = tuple(stages)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """[B, 3, H, W] normalized images to C3, C4, C5: [B, C, ⌈H/s⌉, ⌈W/s⌉] for strides s of 8, 16, 32."""
        features: tuple[Tensor, ...] = self.parts(images)
        return features


class StageSequence(nn.ModuleList):
    """Stages that run one after another; the last three have strides 8, 16 and 32."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images [B, 3, H, W] to C3, C4, C5."""
        features = [images]
        for stage in self:
            features.append(stage(features[-1]))
        return tuple(features[-3:])


def backbone_of(
    stages: Sequence[nn.Module],
    channels: tuple[int, int, int],
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Backbone:
    """Builds a backbone from consecutive stages (stem, C2, C3, C4, C5)."""
    names = [frozenset(f"{index}.{name}" for name, _ in stage.named_parameters()) for index, stage in enumerate(stages)]
    return Backbone(StageSequence(stages), channels=channels, mean=mean, std=std, stages=names)
