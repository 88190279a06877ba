"""Advice on the course of a training and on the machine. A rule is a function from a context to a line, or None."""

from pipeline.analysis.advice_context import Context
from pipeline.errors import count_noun
from pipeline.training.build import learning_rate, to_iterations
from pipeline.training.initial_weights import find_start

_LARGE_INPUT = 500_000  # pixels of an image; larger inputs need a GPU


def large_batch(context: Context) -> str | None:
    if context.train.batch_size <= context.images:
        return None
    images = count_noun(context.images, "image")
    return f"train.batch_size {context.train.batch_size} exceeds the {images}: set it to at most {context.images}"


def high_learning_rate(context: Context) -> str | None:
    """Learning rates at which no detector is known to train."""
    rate, images = learning_rate(context.train), context.train.batch_size
    is_adam = context.train.optimizer in ("adam", "adamw")
    limit, usual = (0.01, 0.001) if is_adam else (0.1 * max(1.0, images / 16), 0.01)
    if rate < limit or (rate == limit and not is_adam):
        return None
    base = context.train.base_batch_size
    scaled = f" (train.lr {context.train.lr:g} for {base} images)" if base else ""
    return f"a learning rate of {rate:g}{scaled} is far too high for {context.train.optimizer}: try train.lr {usual:g}"


def long_warmup(context: Context) -> str | None:
    steps = context.train.epochs * context.steps
    warmup = to_iterations(context.train, context.steps, context.train.warmup)
    if warmup <= max(1, steps // 2):
        return None
    return f"train.warmup takes {warmup:,} of {steps:,} steps (a tenth is usual): check train.schedule_unit"


def late_drops(context: Context) -> str | None:
    """A step schedule that was chosen for a larger data set may never lower the learning rate."""
    if context.train.schedule not in ("step", "multi_step"):
        return None
    first = to_iterations(context.train, context.steps, min(context.train.steps))
    steps = context.train.epochs * context.steps
    if first < steps:
        return None
    return (
        f"the learning rate drops first at step {first:,} of {steps:,}: lower train.steps, or check train.schedule_unit"
    )


def frozen_backbone(context: Context) -> str | None:
    epochs = context.train.backbone_frozen_epochs
    if epochs and not context.params.model.pretrained and not find_start(context.params)[0]:
        return f"train.backbone_frozen_epochs {epochs} freezes a backbone without pretrained weights: set it to 0"
    if epochs < context.train.epochs:
        return None
    return (
        f"train.backbone_frozen_epochs {epochs} of {context.train.epochs} epochs: the backbone never trains; lower it"
    )


def no_mosaic_epochs(context: Context) -> str | None:
    augment = context.train.augment
    if augment.close_mosaic_epochs < context.train.epochs or not (augment.mosaic or augment.mixup):
        return None
    return (
        f"train.augment.close_mosaic_epochs {augment.close_mosaic_epochs} of {context.train.epochs} epochs: mosaic and "
        "mixup are never applied; lower it"
    )


def costly_validation(context: Context) -> str | None:
    """Validating an image takes about a third of the time of training on it: there is no backward pass."""
    validations = -(-context.train.epochs // context.train.validate_every)
    validated = context.val_images * validations
    trained = context.train.epochs * context.steps * context.train.batch_size
    share = validated / (validated + 3 * trained)
    if share < 0.4 or context.train.validate_every >= context.train.epochs:
        return None
    return (
        f"validation takes about {share:.0%} of the time: increase train.validate_every "
        f"(now {context.train.validate_every})"
    )


def no_gpu(context: Context) -> str | None:
    pixels = context.train.size[0] * context.train.size[1]
    if context.device != "cpu" or pixels < _LARGE_INPUT or context.train.epochs * context.images < 1000:
        return None
    return (
        f"inputs of {pixels / 1e6:.1f} megapixels without a GPU: decrease {context.size_text}, or use a recipe for "
        "CPUs (cpu_lite0)"
    )


def many_workers(context: Context) -> str | None:
    if context.machine.workers <= context.cores:
        return None
    cores = context.cores
    return f"machine.workers {context.machine.workers} exceeds the {cores} cores: set it to at most {cores}"


def no_workers(context: Context) -> str | None:
    if context.device == "cpu" or context.machine.workers or context.train.overfit:
        return None
    return f"machine.workers 0: the GPU waits while images are decoded; try {max(1, min(8, context.cores - 1))}"
