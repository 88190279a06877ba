"""Changes of parameters by their key."""

from typing import Any


def set_value(parameters: Any, key: str, value: object) -> None:
    """Changes a parameter, by a key such as `train.lr`, in the nested mappings of a parameter file."""
    *sections, last = key.split(".")
    for name in sections:
        parameters = parameters[name]
    assert last in parameters, key
    parameters[last] = value
