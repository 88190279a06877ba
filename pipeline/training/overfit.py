"""`train.overfit`: trains on a few images until it fits them, as a check of data, assignment and learning rate."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from fcos.training.batch import Batch
from fcos.training.history import History
from pipeline.data.annotations import AnnotationSet
from pipeline.errors import PipelineError, count_noun
from pipeline.loading.batches import Batches
from pipeline.loading.dataset import trainable_annotations
from pipeline.loading.transforms import torch_generator
from pipeline.params import Params

TARGET_AP50 = 0.95  # training ends here; a lower AP50 at the end is an error
STEPS_PER_EPOCH = 50
_MAX_EPOCHS = 20


@dataclass(frozen=True)
class RepeatedBatches:
    """Epochs of a given number of steps, which repeat the batches of a few images."""

    batches: Batches
    steps: int

    def __len__(self) -> int:
        return self.steps

    def __call__(self, epoch: int, first: int = 0) -> Iterator[list[Batch]]:
        """The steps of an epoch, from the step `first` on."""
        for step in range(epoch * self.steps + first, (epoch + 1) * self.steps):
            repetition, index = divmod(step, len(self.batches))
            yield next(self.batches(repetition, index))


def overfit_subset(params: Params, split: AnnotationSet, world_size: int = 1) -> tuple[Params, AnnotationSet]:
    """Parameters and images for `train.overfit`: no augmentation, and images with objects, chosen by the seed.

    The images serve for training and validation. The batch size is at most their number, rounded to what can be divided
    among processes and parts.

    Returns:
        The changed parameters, and the subset of the split.
    """
    train = params.train
    unit = world_size * train.accumulate
    no_augmentation = replace(
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
            epochs=_MAX_EPOCHS,
            batch_size=max(unit, min(train.batch_size, train.overfit) // unit * unit),
            max_images=None,
            early_stopping=0,
            multi_scale=None,
            backbone_frozen_epochs=0,
            augment=no_augmentation,
            validate_every=1,
        ),
        machine=replace(params.machine, workers=0),  # starting workers takes longer than reading a few images
    ), _choose_images(split, params)


def _choose_images(split: AnnotationSet, params: Params) -> AnnotationSet:
    """A subset of `train.overfit` images with trainable objects, or of all such images if there are fewer."""
    groups, train = split.by_image(), params.train
    usable = [
        image
        for image in split.images
        if trainable_annotations(groups[image.id], include_difficult=train.include_difficult)
        and (train.include_crowd or not any(annotation.iscrowd for annotation in groups[image.id]))
    ]
    order = torch.randperm(len(usable), generator=torch_generator(params.seed, "overfit")).tolist()
    return split.subset(usable[index] for index in sorted(order[: train.overfit]))


def check_overfit(history: History, split: AnnotationSet) -> None:
    """Makes sure that training has fit the images.

    Raises:
        PipelineError: the AP50 of every validation is below the target.
    """
    best = max(row["AP50"] for row in history.epochs)
    if best < TARGET_AP50:
        names = ", ".join(image.file_name for image in split.images[:4])
        more = f" and {len(split.images) - 4} more" if len(split.images) > 4 else ""
        raise PipelineError(
            f"train.overfit: AP50 reached only {best:.3f} of {TARGET_AP50} in {count_noun(len(history.steps), 'step')} "
            f"on {count_noun(len(split.images), 'image')} ({names}{more}): check the boxes and classes, whether each "
            "object is assigned a location (`fcos explain`), and train.lr (`fcos check`)"
        )
