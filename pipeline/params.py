"""The only reader of params.yaml: typed, frozen, validated once."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError

from fcos.config import BoxLoss, ModelConfig
from pipeline.errors import PipelineError
from pipeline.workspace import workspace

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]


@dataclass(frozen=True, kw_only=True)
class DigitsParams:
    train: Positive
    val: Positive
    size: Annotated[int, Field(ge=64, le=400)]


@dataclass(frozen=True, kw_only=True)
class DownloadParams:
    path: str
    format: Literal["auto", "coco", "voc"]
    digits: DigitsParams

    def __post_init__(self) -> None:
        # DVC looks for a relative path in its temporary workspaces too, where nothing outside the project is.
        if ".." in Path(self.path).parts or self.path.startswith("~"):
            raise ValueError(f"path: {self.path!r} leaves the project, so it must be absolute, without .. and ~")


@dataclass(frozen=True, kw_only=True)
class ConvertParams:
    train: str | None
    val: str | None
    test: str | None
    val_fraction: Annotated[float, Field(gt=0, lt=1)]
    classes: tuple[str, ...] | None
    problems: Literal["error", "repair"]


@dataclass(frozen=True, kw_only=True)
class TrainParams:
    device: Literal["auto", "cpu", "cuda"]
    epochs: Positive
    batch_size: Positive
    size: tuple[Positive, Positive]
    workers: Annotated[int, Field(ge=0)]
    optimizer: Literal["adamw", "adam", "sgd"]
    lr: PositiveFloat
    weight_decay: NonNegative
    momentum: Fraction
    schedule: Literal["cosine", "step"]
    steps: tuple[Fraction, ...]
    warmup: Fraction
    clip_norm: NonNegative
    ema: Annotated[float, Field(ge=0, lt=1)]
    flip: Fraction
    scale: tuple[PositiveFloat, PositiveFloat]
    difficult: bool
    empty: bool
    validate_every: Positive
    checkpoint_every: NonNegative

    def __post_init__(self) -> None:
        if self.size[0] > self.size[1]:
            raise ValueError("the shorter side comes first")
        if self.scale[0] > self.scale[1]:
            raise ValueError("the smaller zoom comes first")


@dataclass(frozen=True, kw_only=True)
class EvaluateParams:
    device: Literal["auto", "cpu", "cuda"]
    split: Literal["val", "test"]
    batch_size: Positive
    score_threshold: Fraction
    threshold_on: Literal["class", "score"]
    candidates: Positive
    nms: Literal["hard", "soft_linear", "soft_gaussian"]
    nms_threshold: Fraction
    soft_sigma: PositiveFloat
    max_detections: Positive


@dataclass(frozen=True, kw_only=True)
class InspectParams:
    score_threshold: Fraction
    iou_threshold: Fraction
    worst: Positive


@dataclass(frozen=True, kw_only=True)
class Params:
    dataset: Literal["digits", "custom"]
    loss: BoxLoss
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    download: DownloadParams
    convert: ConvertParams
    model: ModelConfig
    train: TrainParams
    evaluate: EvaluateParams
    inspect: InspectParams

    def flat(self) -> dict[str, Any]:
        """Every parameter under the name that `dvc exp run -S` knows it by: `train.lr`."""
        return dict(_flatten(asdict(self)))


def load(path: Path | None = None) -> Params:
    """Reads and checks params.yaml (of the workspace, where no path is given).

    YAML is read by the parser and the rules (1.2) that DVC reads it by: `1e-05` is a number and `off` a word,
    to both of us.

    Raises:
        PipelineError: one line that names the key, its value and what is allowed there.
    """
    path = path or workspace() / "params.yaml"
    try:
        values = YAML(typ="safe").load(path)
    except FileNotFoundError:
        raise PipelineError(f"{path}: no such file") from None
    except MarkedYAMLError as error:
        where = f" at line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise PipelineError(f"{path}: not YAML: {error.problem}{where}") from None
    try:
        # By way of JSON, for its strictness: a list may be a tuple, but "1" is no number and 1.0 no whole one.
        return _ADAPTER.validate_json(json.dumps(values, default=str), strict=True, extra="forbid")
    except ValidationError as error:
        raise PipelineError(f"{path}: {_first_problem(error)}") from None


def _first_problem(error: ValidationError) -> str:
    # A misspelt key is a missing one too: the misspelling tells more.
    problems = sorted(error.errors(include_url=False), key=lambda problem: problem["type"] == "missing")
    problem = problems[0]
    key = ".".join(str(part) for part in problem["loc"])
    match problem["type"]:
        case "missing":
            return f"{key} is missing"
        case "unexpected_keyword_argument" | "extra_forbidden":
            return f"{key} is not a parameter; known ones: {', '.join(_known(problem['loc'][:-1]))}"
        case "value_error":  # a dataclass's own check: pydantic gives the section, the message the rest
            return f"{key}: {problem['msg'].removeprefix('Value error, ')}"
    message = problem["msg"].removeprefix("Input should be ")
    return f"{key} is {problem['input']!r}, but should be {message}"


def _known(section: tuple[int | str, ...]) -> list[str]:
    kind: Any = Params
    for name in section:
        kind = next(field.type for field in fields(kind) if field.name == name)
    return [field.name for field in fields(kind)]


def _flatten(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, list(value) if isinstance(value, tuple) else value


_ADAPTER = TypeAdapter(Params)
