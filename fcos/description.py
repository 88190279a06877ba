"""The description of a saved detector: a JSON file beside its weights, read with every value checked."""

import hashlib
import json
import math
import reprlib
import types
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from fcos.config import InputSize, ModelConfig

_VERSION = 4
_CHECKSUM = "sha256"  # of all other values: without it, a damaged or edited number would be read as valid
_NOT_SAVED = ("start_from",)  # of the model: may be a path of the machine that trained, and loading does not need it


@dataclass(frozen=True, kw_only=True)
class Description:
    """Description of a file of weights, saved beside it as JSON."""

    model: ModelConfig
    categories: tuple[tuple[int, str], ...]  # ids and names in the data set, in the order of the labels 0…K−1
    input_size: InputSize  # what images are resized to
    precision: Literal["float32", "bf16", "fp16"] | None = None  # of the training; None: unknown


@dataclass(frozen=True)
class Normalization:
    """The mean and standard deviation of each channel, of pixels in 0…1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if min(self.std) <= 0:
            raise ValueError(f"std: {list(self.std)} must be positive")


@dataclass(frozen=True)
class _Category:
    id: int
    name: str


@dataclass(frozen=True)
class _File:
    """The content of the JSON file."""

    version: int
    model: ModelConfig
    categories: tuple[_Category, ...]
    size: tuple[int, int]
    letterbox: bool
    normalization: Normalization
    precision: Literal["float32", "bf16", "fp16"] | None


def to_json(description: Description, *, mean: Sequence[float], std: Sequence[float]) -> str:
    """The text of the JSON file. The same description gives the same text; `start_from` of the model is left out."""
    model = asdict(description.model)
    for name in _NOT_SAVED:
        del model[name]
    content = {
        "version": _VERSION,
        "model": model,
        "categories": [{"id": id, "name": name} for id, name in description.categories],
        "size": list(description.input_size.size),
        "letterbox": description.input_size.letterbox,
        "normalization": {"mean": list(mean), "std": list(std)},
        "precision": description.precision,
    }
    return json.dumps(content | {_CHECKSUM: _checksum(content)}, indent=2, ensure_ascii=False) + "\n"


def _checksum(values: Mapping[str, Any]) -> str:
    """SHA-256 of the values, however the file is formatted."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def from_json(content: bytes) -> tuple[Description, Normalization]:
    """Parses the content of the JSON file. One without a checksum, which earlier versions wrote, is read as well.

    Raises:
        ValueError: one line that names the first invalid value, and what is right.
    """
    try:
        values = json.loads(content.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at line {error.lineno} column {error.colno}") from None
    except UnicodeDecodeError:
        raise ValueError("not JSON: it is not UTF-8 text") from None
    except RecursionError:
        raise ValueError("its lists are nested too deeply") from None
    except ValueError as error:  # an integer of thousands of digits
        raise ValueError(str(error).split(";")[0]) from None
    if not isinstance(values, dict) or "version" not in values:
        raise ValueError("version is missing")
    saved = {key: value for key, value in values.items() if key != _CHECKSUM}
    file: _File = parse(_current(saved), _File, "")
    _check_categories(file.categories)
    categories = tuple((category.id, category.name) for category in file.categories)
    size = InputSize(file.size, letterbox=file.letterbox)
    if values.get(_CHECKSUM, checksum := _checksum(saved)) != checksum:
        raise ValueError(
            f"its values are not those that were saved; restore the file, or remove {_CHECKSUM} from it if you have "
            "changed it on purpose"
        )
    description = Description(model=file.model, categories=categories, input_size=size, precision=file.precision)
    return description, file.normalization


def _check_categories(categories: tuple[_Category, ...]) -> None:
    if not categories:
        raise ValueError("categories: there are none")
    for key in ("id", "name"):
        seen = set()
        for value in (getattr(category, key) for category in categories):
            if value in seen:
                raise ValueError(f"categories: the {key} {reprlib.repr(value)} is used twice")
            seen.add(value)


# Names that changed after version 3: keys of the description, keys of its model, values of its model.
_RENAMED_IN_4 = {"normalisation": "normalization"}
_MODEL_RENAMED_IN_4 = {
    "top_down": "upsample_mode",
    "centre_radius": "center_sampling_radius",
    "ranges": "regression_ranges",
    "atss_candidates": "atss_topk",
    "aligned_candidates": "task_aligned_topk",
    "aligned_alpha": "task_aligned_alpha",
    "aligned_beta": "task_aligned_beta",
    "box_weight": "box_loss_weighting",
}
_VALUES_RENAMED_IN_4 = {"locations": {"centre": "center"}, "batch_norm": {"synchronised": "synchronized"}}
# What older files of this version mean: keys of the model, and of its loss weights.
_ADDED_TO_MODEL_IN_4 = {"tower_convolution": "standard", "distribution_max": 16}
_ADDED_TO_LOSS_WEIGHTS_IN_4 = {"distribution": 0.25}


def _current(values: dict[str, Any]) -> dict[str, Any]:
    """Converts a description of version 3 to the current version, and adds keys that older files lack.

    Raises:
        ValueError: unknown version.
    """
    values = {"precision": None} | values  # which older files of this version lack
    if isinstance(values.get("model"), dict):
        model = values["model"] = _ADDED_TO_MODEL_IN_4 | values["model"]
        if isinstance(model.get("loss_weights"), dict):
            model["loss_weights"] = _ADDED_TO_LOSS_WEIGHTS_IN_4 | model["loss_weights"]
    if values["version"] == _VERSION:
        return values
    if values["version"] != 3:
        raise ValueError(f"version {reprlib.repr(values['version'])}, but versions 3 and {_VERSION} can be read")
    current = {_RENAMED_IN_4.get(key, key): value for key, value in values.items()}
    model = current.get("model")
    if isinstance(model, dict):
        model = {_MODEL_RENAMED_IN_4.get(key, key): value for key, value in model.items()}
        for key, renamed in _VALUES_RENAMED_IN_4.items():
            if isinstance(model.get(key), str):
                model[key] = renamed.get(model[key], model[key])
        current["model"] = model
    return current


def parse(value: Any, type: Any, key: str) -> Any:
    """A value of JSON as an instance of a type: of a data class, or of what its fields may be.

    Raises:
        ValueError: it is none; the message starts with the key.
    """
    if is_dataclass(type):
        return _parse_dataclass(value, type, key)
    origin, arguments = get_origin(type), get_args(type)
    if origin is tuple and isinstance(value, list):
        types_ = [arguments[0]] * len(value) if arguments[-1] is ... else list(arguments)
        if len(types_) == len(value):
            items = zip(value, types_, strict=True)
            return tuple(parse(item, item_type, f"{key}[{index}]") for index, (item, item_type) in enumerate(items))
    if origin in (types.UnionType, Union):
        for option in arguments:
            try:
                return parse(value, option, key)
            except ValueError:
                continue
    if origin is Literal and isinstance(value, str) and value in arguments:
        return value
    if type is float and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return value
    if type in (int, str, bool, types.NoneType) and value.__class__ is type:
        return value
    raise ValueError(f"{key} is {reprlib.repr(value)}, but should be {_describe(type)}")


def _parse_dataclass(value: Any, type: Any, key: str) -> Any:
    prefix = f"{key}." if key else ""
    if not isinstance(value, Mapping):
        raise ValueError(f"{key} is {reprlib.repr(value)}, but should have the keys {', '.join(_names(type))}")
    for name in _names(type):
        if name not in value:
            raise ValueError(f"{prefix}{name} is missing")
    for name in value:
        if name not in _names(type):
            raise ValueError(f"{prefix}{reprlib.repr(name)[1:-1]} is unknown")
    hints = get_type_hints(type)
    parsed = {name: parse(value[name], hints[name], f"{prefix}{name}") for name in _names(type)}
    try:
        return type(**parsed)
    except ValueError as error:
        raise ValueError(f"{prefix}{error}") from None


def _names(type: Any) -> list[str]:
    return [field.name for field in fields(type) if field.name not in _NOT_SAVED]


def _describe(type: Any) -> str:
    """A type for people."""
    origin, arguments = get_origin(type), get_args(type)
    if origin is Literal:
        return " or ".join(arguments)
    if origin in (types.UnionType, Union):
        return " or ".join(map(_describe, arguments))
    if origin is tuple:
        return "a list" if arguments[-1] is ... else f"a list of {len(arguments)}"
    names = {
        int: "a whole number",
        float: "a finite number",
        str: "a text",
        bool: "a true or false",
    }
    return names.get(type, "null")
