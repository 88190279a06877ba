"""Changes of parameters by their key, and the defaults with the paper's own assignment and losses."""

from typing import Any

from pipeline import recipes
from pipeline.overrides import override
from pipeline.params import Params

# Lines of the default params.yaml, and what they are with FCOS's own assignment, focal loss and centerness. Most tests
# use these: everything that is specific to FCOS then has something to do, and a short training detects something.
PAPER = {
    "  levels: [3, 4]": "  levels: [3, 4, 5]",
    "  assigner: task_aligned": "  assigner: fcos",
    "  classification_loss: quality_focal": "  classification_loss: focal",
    "  box_loss_weighting: none": "  box_loss_weighting: centerness",
    "  quality: none": "  quality: centerness",
}


def paper_defaults() -> Params:
    """The default parameters with the values of PAPER."""
    return override(recipes.defaults(), [f"model.{line.strip().replace(': ', '=')}" for line in PAPER.values()])


def replace_lines(text: str, lines: dict[str, str]) -> str:
    """Replaces the beginnings of lines of a parameter file, each of which must occur once."""
    for line, replacement in lines.items():
        assert text.count(f"\n{line} ") == 1, line
        text = text.replace(f"\n{line} ", f"\n{replacement} ")
    return text


def set_value(parameters: Any, key: str, value: object) -> None:
    """Changes a parameter, by a key such as `train.lr`, in the nested mappings of a parameter file."""
    *sections, last = key.split(".")
    for name in sections:
        parameters = parameters[name]
    assert last in parameters, key
    parameters[last] = value
