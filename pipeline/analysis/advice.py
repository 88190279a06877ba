"""Advice before a training: one line for each problem of data and parameters, with what to change.

The advice follows from annotations and parameters; no image is read. Only what is certainly wrong, or certainly wasted,
is worth a line.
"""

from collections.abc import Callable

from pipeline.analysis import advice_on_data, advice_on_training
from pipeline.analysis.advice_context import Context, make_context
from pipeline.data.annotations import AnnotationSet
from pipeline.params import Params

Rule = Callable[[Context], str | None]
RULES: tuple[Rule, ...] = (
    advice_on_data.untrained_classes,
    advice_on_data.missing_classes,
    advice_on_data.imbalanced_classes,
    advice_on_data.unlearnable_objects,
    advice_on_data.small_boxes,
    advice_on_data.small_boxes_in_large_images,
    advice_on_data.untiled_evaluation,
    advice_on_data.empty_levels,
    advice_on_data.capped_boxes,
    advice_on_data.missing_coarse_levels,
    advice_on_training.high_learning_rate,
    advice_on_training.long_warmup,
    advice_on_training.late_drops,
    advice_on_training.large_batch,
    advice_on_training.frozen_backbone,
    advice_on_training.no_mosaic_epochs,
    advice_on_training.costly_validation,
    advice_on_training.no_gpu,
    advice_on_training.many_workers,
    advice_on_training.no_workers,
    advice_on_data.large_images,
)
# Rules about the data and the input size, as opposed to the course of the training.
DATA_RULES: tuple[Rule, ...] = (
    advice_on_data.untrained_classes,
    advice_on_data.missing_classes,
    advice_on_data.imbalanced_classes,
    advice_on_data.unlearnable_objects,
    advice_on_data.small_boxes,
    advice_on_data.small_boxes_in_large_images,
    advice_on_data.empty_levels,
    advice_on_data.capped_boxes,
    advice_on_data.missing_coarse_levels,
    advice_on_data.large_images,
)


def advice(params: Params, train: AnnotationSet, val: AnnotationSet, *, steps: int) -> list[str]:
    """Lines of advice, most important first.

    Args:
        train: the training split.
        val: the validation split.
        steps: number of steps per epoch.
    """
    context = make_context(params, train, val, steps=steps)
    return [line for rule in RULES if (line := rule(context))]
