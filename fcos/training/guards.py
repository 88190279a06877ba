"""What stops a training that learns nothing, or nothing right.

All processes look at the same numbers, so all of them come to the same end.
"""

import math
from collections.abc import Sequence

from fcos.training.distributed import Processes
from fcos.training.history import Row
from fcos.training.step_metrics import Step

FIRST_STEPS = 20  # in which something must be learned
_SKIPPED = 30  # steps in a row: from 2^16, fp16's loss scale has then fallen far below 1, and goes on falling


class NonFiniteLossError(RuntimeError):
    """A loss became NaN or infinite; the message names the step, the losses and the images."""


class NothingToLearnError(RuntimeError):
    """The first steps had no object, or no location that learns one; the message says which."""


def refuse_non_finite(
    row: Row, step: Step, earlier: Sequence[Row], *, processes: Processes, skips: bool, kept: str
) -> None:
    """Makes sure that a step's numbers are finite.

    Args:
        row: the step's numbers.
        earlier: those of the steps before.
        skips: whether a step whose gradients overflow is left out, and that is no fault, unless too many of them are.
        kept: where the last good state is, to end the message.

    Raises:
        NonFiniteLossError: they aren't.
    """
    wrong = [name for name, value in row.items() if not math.isfinite(value)]
    if wrong == ["gradient_norm"] and skips:
        _refuse_skipping(row, earlier, kept)
    elif wrong:
        names = processes.all_gather_object(step.names)
        raise NonFiniteLossError(
            f"step {row['step']:g}: {', '.join(f'{name} {row[name]:g}' for name in wrong)}: the loss is not finite "
            f"any more ({_listed(row)}); images {', '.join(n for own in names for n in own)}; "
            "try a lower train.lr, a longer train.warmup or a smaller train.clip_grad_norm"
            + (", or train.precision bf16" if skips else "")
            + kept
        )


def _refuse_skipping(row: Row, earlier: Sequence[Row], kept: str) -> None:
    last = [one["gradient_norm"] for one in earlier[-_SKIPPED + 1 :]]
    if len(last) + 1 == _SKIPPED and not any(math.isfinite(norm) for norm in last):
        raise NonFiniteLossError(
            f"step {row['step']:g}: the gradients of {_SKIPPED} steps in a row were not finite in fp16, at an ever "
            f"smaller loss scale, so that none of them was learned from ({_listed(row)}); "
            "set train.precision to bf16 or float32, or try a lower train.lr" + kept
        )


def refuse_nothing(steps: Sequence[Row]) -> None:
    """Makes sure that something is learned: after the first steps, or after the first epoch where it is shorter.

    Raises:
        NothingToLearnError: no object is left after augmentation, or no location learns any.
    """
    first = steps[:FIRST_STEPS]
    annotated, objects, positives = (sum(row[name] for row in first) for name in ("annotated", "objects", "positives"))
    if annotated and not objects:
        raise NothingToLearnError(
            f"none of the {annotated:g} objects of the first {len(first)} steps is left after augmentation; "
            "look at `fcos show-batches`, and weaken train.augment"
        )
    if objects and not positives:
        raise NothingToLearnError(
            f"no location learns any of the {objects:g} objects of the first {len(first)} steps; look at "
            "`fcos explain`, and see whether model.levels and model.ranges fit the objects' sizes at train.size"
        )


def _listed(row: Row) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in row.items() if name != "step")
