"""Assigners: from outputs and objects to the training target of each location."""

from collections.abc import Callable

from fcos.assigners.atss import assign_atss
from fcos.assigners.fcos import assign_fcos
from fcos.assigners.task_aligned import assign_task_aligned
from fcos.config import ModelConfig
from fcos.structures import Assignment, Outputs, Targets

ASSIGNERS: dict[str, Callable[[Outputs, Targets, ModelConfig], Assignment]] = {
    "fcos": assign_fcos,
    "atss": assign_atss,
    "task_aligned": assign_task_aligned,
}
