"""The only reader of params.yaml: typed, frozen, validated once."""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError

from fcos.config import BoxLoss, InputSize, ModelConfig
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
class ZooParams:
    splits: tuple[str, ...] | None
    classes: tuple[str, ...] | None
    samples: Positive | None


@dataclass(frozen=True, kw_only=True)
class DownloadParams:
    path: str
    format: str  # checked where it is used, like `dataset`: rooms know their members
    mirror: str | None
    zoo: ZooParams
    digits: DigitsParams

    def __post_init__(self) -> None:
        # DVC looks for a relative path in its temporary workspaces too, where nothing outside the project is.
        if ".." in Path(self.path).parts or self.path.startswith("~"):
            raise ValueError(f"path: {self.path!r} leaves the project, so it must be absolute, without .. and ~")


@dataclass(frozen=True, kw_only=True)
class CheckParams:
    """What each check of `pipeline.conversion.checks` does about what it finds."""

    missing_image: Literal["default", "error", "skip"]
    ambiguous_image: Literal["default", "error", "skip"]
    undecodable_image: Literal["default", "error", "skip"]
    truncated_image: Literal["default", "error", "skip"]
    size: Literal["default", "error", "repair", "skip"]
    turned: Literal["default", "error", "repair", "skip"]
    exif: Literal["default", "error", "skip", "note"]
    repeated_image: Literal["default", "error", "skip"]
    missing_annotation: Literal["default", "error", "skip"]
    record: Literal["default", "error", "skip"]
    xml: Literal["default", "error", "skip"]
    orphan: Literal["default", "error", "skip"]
    repeated_id: Literal["default", "error", "note"]
    not_finite: Literal["default", "error", "skip"]
    degenerate: Literal["default", "error", "skip"]
    swapped: Literal["default", "error", "repair", "skip"]
    thin: Literal["default", "error", "skip"]
    outside: Literal["default", "error", "repair", "skip"]
    repeated_box: Literal["default", "error", "skip", "note"]
    unknown_class: Literal["default", "error", "skip"]
    unused_class: Literal["default", "error", "note"]
    alike_classes: Literal["default", "error", "note"]
    equal_image: Literal["default", "error", "skip", "note"]
    leak: Literal["default", "error", "repair", "note"]
    alike_leak: Literal["default", "error", "repair", "note"]
    unfair_split: Literal["default", "error", "note"]


@dataclass(frozen=True, kw_only=True)
class ConvertParams:
    train: str | None
    val: str | None
    test: str | None
    val_fraction: Annotated[float, Field(gt=0, lt=1)]
    split_seed: Literal["auto"] | Annotated[int, Field(ge=0)]
    folds: Annotated[int, Field(ge=2)] | None
    fold: Annotated[int, Field(ge=0)]
    groups: str | None
    classes: tuple[str, ...] | None
    images: Literal["decode", "header", "trust"]
    problems: Literal["error", "repair"]
    checks: CheckParams

    def __post_init__(self) -> None:
        if self.folds and self.fold >= self.folds:
            raise ValueError(f"fold: {self.fold} is not one of {self.folds} folds, counted from 0")
        if self.fold and not self.folds:
            raise ValueError(f"fold: {self.fold} needs folds, which is null")
        if self.folds and self.val:
            raise ValueError(f"folds: val names the split {self.val!r} already; one of them must be null")
        if self.groups is not None:
            _check_groups(self.groups)


def _check_groups(pattern: str) -> None:
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise ValueError(f"groups: {pattern!r} is no regular expression: {error}") from None
    if groups != 1:
        raise ValueError(f"groups: {pattern!r} needs one group in brackets, such as ^(.*)_frame; it has {groups}")


@dataclass(frozen=True, kw_only=True)
class AugmentParams:
    flip: Fraction
    scale: tuple[PositiveFloat, PositiveFloat]
    jitter: Fraction
    jitter_strength: tuple[Fraction, Fraction, Fraction, Annotated[float, Field(ge=0, le=0.5)]]
    affine: Fraction
    degrees: Annotated[float, Field(ge=0, le=180)]
    shear: Annotated[float, Field(ge=0, lt=90)]
    translate: Fraction
    perspective: Fraction
    distortion: Fraction
    crop: Fraction
    crop_least: Annotated[float, Field(gt=0, le=1)]
    mosaic: Fraction
    mixup: Fraction
    plain_epochs: Annotated[int, Field(ge=0)]

    def __post_init__(self) -> None:
        if self.scale[0] > self.scale[1]:
            raise ValueError("scale: the smaller zoom comes first")


@dataclass(frozen=True, kw_only=True)
class TrainParams:
    device: Literal["auto", "cpu", "cuda"]
    devices: Literal["auto"] | Positive
    precision: Literal["float32", "bf16", "fp16"]
    channels_last: bool
    compile: bool
    workers: Annotated[int, Field(ge=0)]
    cache: bool
    epochs: Positive
    batch_size: Positive
    accumulate: Positive
    limit: Positive | None
    overfit: Annotated[int, Field(ge=0)]
    early_stopping: Annotated[int, Field(ge=0)]
    keep: Literal["last", "best"]
    size: tuple[Positive, Positive]
    letterbox: bool
    multi_scale: tuple[Positive, Positive] | None
    group_shapes: bool
    optimizer: Literal["adamw", "adam", "sgd"]
    lr: PositiveFloat
    lr_batch: Positive | None
    weight_decay: NonNegative
    momentum: Fraction
    schedule: Literal["cosine", "one_cycle", "multi_step", "step", "constant"]
    steps: tuple[PositiveFloat, ...]
    counted_in: Literal["shares", "epochs", "iterations"]
    gamma: Annotated[float, Field(gt=0, le=1)]
    warmup: NonNegative
    clip_norm: NonNegative
    ema: Annotated[float, Field(ge=0, lt=1)]
    frozen_epochs: Annotated[int, Field(ge=0)]
    difficult: bool
    empty: bool
    crowd: bool
    augment: AugmentParams
    validate_every: Positive
    checkpoint_every: NonNegative
    checkpoint_steps: Positive

    def __post_init__(self) -> None:
        if not self.letterbox and self.size[0] > self.size[1]:
            raise ValueError("size: the shorter side comes first")
        if self.multi_scale and self.multi_scale[0] > self.multi_scale[1]:
            raise ValueError("multi_scale: the smaller side comes first")
        if self.multi_scale and self.letterbox:
            raise ValueError("multi_scale: with letterbox, augment.scale does that")
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate: {self.accumulate} parts don't divide batch_size {self.batch_size}")
        if self.counted_in == "shares" and max(*self.steps, self.warmup) > 1:
            raise ValueError("steps and warmup are shares of the training, up to 1, unless counted_in says otherwise")
        if self.schedule in ("step", "multi_step") and not self.steps:
            raise ValueError(f"steps: {self.schedule} needs at least one")

    @property
    def input_size(self) -> InputSize:
        """What images are resized to."""
        return InputSize(self.size, letterbox=self.letterbox)


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
    dataset: str
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
