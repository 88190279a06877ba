"""YAML files with one-line errors, also for files that are made to fill the memory."""

import json
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, NodeEvent

from pipeline.errors import PipelineError
from pipeline.files import to_utf8

# Far more than the files of this project need.
_MAX_BYTES = 1 << 17
_MAX_DEPTH = 50  # of nested lists and mappings
_MAX_MESSAGE = 200  # letters
_MAX_VALUES = 100_000  # with those that aliases repeat


def read_yaml(path: Path) -> Any:
    """Reads a YAML file by the rules that DVC uses, YAML 1.2: `1e-05` is a number, and `off` is a string.

    Raises:
        PipelineError: one line; the file is missing, can't be read, isn't UTF-8 text or not YAML, or has no end.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise PipelineError(f"{path}: no such file") from None
    except OSError as error:
        raise PipelineError(f"{path}: can't be read: {error.strerror}") from None
    try:
        return parse_yaml(to_utf8(content).decode(), path)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise PipelineError(f"{path}: not UTF-8 text at line {line}; save it as UTF-8") from None


def parse_yaml(text: str, path: Path) -> Any:
    """Parses the text of a YAML file; `path` names it in messages.

    Raises:
        PipelineError: as for `read_yaml`.
    """
    try:
        return deepcopy(_load(text))
    except MarkedYAMLError as error:
        position = f" at line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise PipelineError(f"{path}: not YAML: {_shorten(error.problem)}{position}") from None
    except (YAMLError, ValueError, TypeError, ArithmeticError, LookupError, RecursionError) as error:
        # Not only YAML's own errors: a date of month 13, a number of 10,000 digits, base64 that is none.
        raise PipelineError(f"{path}: not YAML: {_shorten(str(error)) or type(error).__name__}") from None


@lru_cache(maxsize=8)  # a stage reads params.yaml several times, a tenth of a second each
def _load(text: str) -> Any:
    check_structure(text)
    return YAML(typ="safe").load(text)


def _shorten(text: str | None) -> str:
    """The first line, and not all of a tag of a hundred thousand letters."""
    line = next(iter((text or "").splitlines()), "")
    return line if len(line) <= _MAX_MESSAGE else f"{line[:_MAX_MESSAGE]}…"


def to_json(values: Any, source: str) -> str:
    """The content of a YAML file as JSON, dates as text; `source` begins the message of an error.

    Raises:
        PipelineError: JSON can't represent the content.
    """
    try:
        text = json.dumps(values, default=str, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (TypeError, ValueError):  # a list as a key, infinity, half of a surrogate pair
        raise PipelineError(f"{source}: keys should be words, and values words, finite numbers or lists") from None
    return text


def check_structure(text: str) -> None:
    """Makes sure that the content of a YAML file is finite and small, before it is built in memory.

    An alias stands for all values of its anchor, so nested aliases can describe billions of values ("billion laughs").

    Raises:
        ValueError: it is not.
        YAMLError: the text is not YAML.
    """
    if len(text) > _MAX_BYTES:
        raise ValueError(f"the file has over {_MAX_BYTES:,} characters")
    sizes: dict[str, int] = {}  # of the values with an anchor
    opened: list[tuple[str | None, int]] = []  # anchors of the collections around the event, and the values before them
    count = 0
    for event in YAML(typ="safe", pure=True).parse(text):
        line = event.start_mark.line + 1
        if isinstance(event, AliasEvent) and event.anchor in (anchor for anchor, _ in opened):
            raise ValueError(f"*{event.anchor} at line {line} refers to a value that contains it")
        if isinstance(event, CollectionEndEvent):
            anchor, before = opened.pop()
            if anchor is not None:
                sizes[anchor] = count - before
            continue
        if isinstance(event, NodeEvent):
            count += sizes.get(event.anchor, 1) if isinstance(event, AliasEvent) else 1
            if isinstance(event, CollectionStartEvent):
                opened.append((event.anchor, count - 1))
        if count > _MAX_VALUES:
            raise ValueError(f"over {_MAX_VALUES:,} values at line {line}, with those that aliases repeat")
        if len(opened) > _MAX_DEPTH:
            raise ValueError(f"nested over {_MAX_DEPTH} levels deep at line {line}")
