"""`train.overfit`: some images learned by heart, which shows whether everything before the training is right."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from fcos.training.batch import Batch
from fcos.training.history import History
from pipeline.data.annotations import AnnotationSet
from pipeline.errors import PipelineError
from pipeline.loading.batches import Batches
from pipeline.loading.dataset import trainable_annotations
from pipeline.loading.transforms import generator
from pipeline.params import Params

TARGET_AP50 = 0.95  # AP50 from which images count as learned by heart
STEPS_PER_EPOCH = 50  # of an epoch
_EPOCHS = 20  # at most


@dataclass(frozen=True)
class RepeatedBatches:
    """Epochs of so many steps, each made of as many passes over few images as that takes."""

    batches: Batches
    steps: int

    def __len__(self) -> int:
        return self.steps

    def __call__(self, epoch: int, first: int = 0) -> Iterator[list[Batch]]:
        """An epoch's steps, from the first-th on."""
        for step in range(epoch * self.steps + first, (epoch + 1) * self.steps):
            pass_, place = divmod(step, len(self.batches))
            yield next(self.batches(pass_, place))


def overfit_subset(params: Params, split: AnnotationSet, world_size: int = 1) -> tuple[Params, AnnotationSet]:
    """For `train.overfit`: so many images with objects, chosen by the seed, and parameters that change none of them.

    The images are also those to be judged on. A batch is no larger than they are, but where processes and
    parts need it to be.
    """
    train = params.train
    unit = world_size * train.accumulate
    plain = replace(
        train.augment,
        flip=0.0,
        scale=(1.0, 1.0),
        color_jitter=0.0,
        affine=0.0,
        perspective=0.0,
        crop=0.0,
        mosaic=0.0,
        mixup=0.0,
    )
    return replace(
        params,
        train=replace(
            train,
            epochs=_EPOCHS,
            batch_size=max(unit, min(train.batch_size, train.overfit) // unit * unit),
            max_images=None,
            early_stopping=0,
            multi_scale=None,
            backbone_frozen_epochs=0,
            augment=plain,
            validate_every=1,
        ),
        machine=replace(params.machine, workers=0),  # a pass over a few images is too short to start one for
    ), _some(split, params)


def _some(split: AnnotationSet, params: Params) -> AnnotationSet:
    """As many images with objects as `train.overfit` says, or all where there are fewer; and what is in them."""
    groups, train = split.by_image(), params.train
    fit = [
        image
        for image in split.images
        if trainable_annotations(own := groups[image.id], include_difficult=train.include_difficult)
        and (train.include_crowd or not any(a.iscrowd for a in own))
    ]
    order = torch.randperm(len(fit), generator=generator(params.seed, "overfit")).tolist()
    return split.subset(fit[index] for index in sorted(order[: train.overfit]))


def check_overfit(history: History, split: AnnotationSet) -> None:
    """Makes sure that the images were learned.

    Raises:
        PipelineError: AP50 stayed too low.
    """
    best = max(row["AP50"] for row in history.epochs)
    if best < TARGET_AP50:
        names = ", ".join(image.file_name for image in split.images[:4])
        more = f" and {len(split.images) - 4} more" if len(split.images) > 4 else ""
        raise PipelineError(
            f"train.overfit: AP50 came to {best:.3f}, not to {TARGET_AP50}, in {len(history.steps):,} steps on "
            f"{len(split.images)} images ({names}{more}): see whether boxes and classes are right and some location "
            "learns each object (`fcos explain`), then whether train.lr fits (plots and `fcos check`)"
        )
