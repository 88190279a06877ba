"""Assigners: outputs and objects in, what each location has to learn out."""

from collections.abc import Callable

from fcos.assigners.fcos import assign_fcos
from fcos.config import ModelConfig
from fcos.outputs import Outputs
from fcos.targets import Assignment, Targets

ASSIGNERS: dict[str, Callable[[Outputs, Targets, ModelConfig], Assignment]] = {"fcos": assign_fcos}
