"""Checks that stop a training that diverges or learns nothing.

All processes check the same numbers, so all of them raise the same error at the same step.
"""

import math
from collections.abc import Sequence
from typing import Literal

from fcos.training.distributed import Processes
from fcos.training.history import Row
from fcos.training.step_metrics import Step

FIRST_STEPS = 20  # in which something must be learned
_MAX_SKIPPED = 30  # consecutive steps: from 2^16, fp16's loss scale has then fallen far below 1 and keeps falling


class NonFiniteLossError(RuntimeError):
    """A loss or a gradient became NaN or infinite.

    Args:
        row: the step's number, losses, gradient norm and learning rate.
        images: names of the step's images, of all processes.
        loss_scaling: whether fp16 training scales the loss.
        skipped_steps: consecutive steps whose gradients overflowed in fp16; 0 if a loss is not finite.
        saved_state: where the last good state is; empty if there is none.
    """

    def __init__(
        self, row: Row, images: Sequence[str], *, loss_scaling: bool, skipped_steps: int = 0, saved_state: str = ""
    ) -> None:
        self.row, self.images = dict(row), list(images)
        self.loss_scaling, self.skipped_steps, self.saved_state = loss_scaling, skipped_steps, saved_state
        if skipped_steps:
            problem = f"the gradients of {skipped_steps} consecutive steps overflowed in fp16 ({_format(row)})"
        else:
            wrong = ", ".join(f"{name} {value:g}" for name, value in row.items() if not math.isfinite(value))
            problem = f"the loss is not finite: {wrong} ({_format(row)}); images {', '.join(images)}"
        super().__init__(f"step {row['step']:g}: {problem}" + (f"; {saved_state}" if saved_state else ""))


class NothingToLearnError(RuntimeError):
    """The first steps have no object, or no location that learns an object.

    Args:
        reason: `no_objects`: augmentation removed every object; `no_positives`: no location is assigned to an object.
        objects: number of objects in these steps, for `no_objects` before augmentation.
        steps: number of steps.
    """

    def __init__(self, reason: Literal["no_objects", "no_positives"], *, objects: int, steps: int) -> None:
        self.reason, self.objects, self.steps = reason, objects, steps
        within = f"of the {objects} objects in the first {steps} steps"
        super().__init__(
            f"augmentation removed all {within}"
            if reason == "no_objects"
            else f"no location is assigned to any {within}"
        )


def check_finite(
    row: Row, step: Step, earlier: Sequence[Row], *, processes: Processes, loss_scaling: bool, saved_state: str
) -> None:
    """Checks that a step's numbers are finite.

    Args:
        row: the step's numbers.
        step: the step itself.
        earlier: the rows of the steps before.
        processes: the processes that train together.
        loss_scaling: whether the loss is scaled (fp16). A step whose gradients overflow is then skipped, which is an
            error only after many such steps in a row.
        saved_state: see `NonFiniteLossError`.

    Raises:
        NonFiniteLossError: a number is NaN or infinite.
    """
    wrong = [name for name, value in row.items() if not math.isfinite(value)]
    if wrong == ["gradient_norm"] and loss_scaling:
        norms = [previous["gradient_norm"] for previous in earlier[-_MAX_SKIPPED + 1 :]]
        if len(norms) + 1 == _MAX_SKIPPED and not any(map(math.isfinite, norms)):
            raise NonFiniteLossError(row, [], loss_scaling=True, skipped_steps=_MAX_SKIPPED, saved_state=saved_state)
    elif wrong:
        names = [name for part in processes.all_gather_object(step.names) for name in part]
        raise NonFiniteLossError(row, names, loss_scaling=loss_scaling, saved_state=saved_state)


def check_learning(steps: Sequence[Row]) -> None:
    """Checks that something is learned: after the first steps, or after the first epoch if it is shorter.

    Raises:
        NothingToLearnError: augmentation left no object, or no location is assigned to one.
    """
    first = steps[:FIRST_STEPS]
    annotated, objects, positives = (
        int(sum(row[name] for row in first)) for name in ("annotated", "objects", "positives")
    )
    if annotated and not objects:
        raise NothingToLearnError("no_objects", objects=annotated, steps=len(first))
    if objects and not positives:
        raise NothingToLearnError("no_positives", objects=objects, steps=len(first))


def _format(row: Row) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in row.items() if name != "step")
