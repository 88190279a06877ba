"""Parameters on the command line: `-S key=value`, with the grammar and the meaning that `dvc exp run` gives them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pipeline import params
from pipeline.errors import PipelineError
from pipeline.params import Params


def override(values: Params, overrides: Sequence[str]) -> Params:
    """The parameters with some of them replaced.

    Args:
        overrides: such as `convert.issues=repair` or `convert.classes=[car, van]`.

    Raises:
        PipelineError: one is no `key=value`, its key is unknown, or its value is not allowed.
    """
    if not overrides:
        return values
    tree = json.loads(json.dumps(asdict(values)))
    for text in overrides:
        _apply(tree, text)
    return params.validate(tree, " ".join(f"-S {text}" for text in overrides))


def _apply(tree: dict[str, Any], text: str) -> None:
    key, value = _parse(text)
    *sections, last = key.split(".")
    section: Any = tree
    for name in sections:
        section = section.get(name) if isinstance(section, dict) else None
    if not isinstance(section, dict) or last not in section:
        known = section if isinstance(section, dict) else tree
        raise PipelineError(f"-S {text}: {key} is unknown; known ones: {', '.join(known)}")
    section[last] = _merge(section[last], value, f"-S {text}")


def _merge(old: Any, new: Any, option: str) -> Any:
    """The new value; as in DVC, a mapping replaces the values of its own keys only, and adds none."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    if unknown := next((key for key in new if key not in old), None):
        key = option.partition("=")[0]
        raise PipelineError(f"{option}: there is no {unknown!r} to replace; {key}=null before it drops the old mapping")
    return {**old, **{key: _merge(old[key], value, option) for key, value in new.items()}}


def _parse(text: str) -> tuple[str, Any]:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_override(text)
    except HydraException as error:
        raise PipelineError(
            f"-S {text}: not key=value: {str(error).splitlines()[0]}; a value with special characters needs quotes "
            "inside those of the shell, as in \"-S key='a value'\""
        ) from None
    if parsed.is_sweep_override():
        raise PipelineError(f"-S {text}: several values are for `dvc exp run --queue`; give one")
    if not parsed.type or parsed.type.name != "CHANGE":
        raise PipelineError(f"-S {text}: parameters can be neither added nor removed; give key=value")
    return parsed.key_or_group, _plain(parsed.value())


def _plain(value: Any) -> Any:
    """The value without hydra's types for quoted strings and keys."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value
