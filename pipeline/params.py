"""The parameters of params.yaml, typed and validated. The only module that reads that file."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from fcos.config import MAX_INPUT_SIDE, BoxLoss, InputSize, ModelConfig
from pipeline.errors import Key, PipelineError, describe_validation_error
from pipeline.workspace import workspace
from pipeline.yaml_files import parse_yaml, read_yaml, to_json

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
# New class names, each with the data set's own classes that it replaces.
ClassMapping = Annotated[
    dict[str, Annotated[tuple[str, ...], Field(min_length=1)]],
    Field(min_length=1),
]
_InputSide = Annotated[int, Field(ge=1, le=MAX_INPUT_SIDE)]
Sizes = Annotated[tuple[tuple[_InputSide, _InputSide], ...], Field(min_length=1)]
TileSize = tuple[Positive, Annotated[float, Field(ge=0, le=0.9)]]  # side in pixels, overlap as a fraction
Seed = Annotated[int, Field(ge=0, lt=2**32)]


# Names of parameters before version 0.2, with the new name that the error message gives.
RENAMED = {
    "download.zoo.samples": "download.zoo.max_samples",
    "convert.groups": "convert.group_pattern",
    "convert.images": "convert.image_check",
    "convert.problems": "convert.issues",
    "convert.checks.size": "convert.checks.size_mismatch",
    "convert.checks.turned": "convert.checks.exif_rotated",
    "convert.checks.exif": "convert.checks.exif_orientation",
    "convert.checks.repeated_image": "convert.checks.duplicate_record",
    "convert.checks.record": "convert.checks.invalid_record",
    "convert.checks.xml": "convert.checks.invalid_xml",
    "convert.checks.orphan": "convert.checks.missing_image_id",
    "convert.checks.repeated_id": "convert.checks.duplicate_id",
    "convert.checks.not_finite": "convert.checks.non_finite_box",
    "convert.checks.degenerate": "convert.checks.degenerate_box",
    "convert.checks.swapped": "convert.checks.swapped_corners",
    "convert.checks.thin": "convert.checks.tiny_box",
    "convert.checks.outside": "convert.checks.out_of_bounds_box",
    "convert.checks.repeated_box": "convert.checks.duplicate_box",
    "convert.checks.alike_classes": "convert.checks.similar_class_names",
    "convert.checks.equal_image": "convert.checks.duplicate_image",
    "convert.checks.alike_leak": "convert.checks.near_duplicate_leak",
    "convert.checks.unfair_split": "convert.checks.unbalanced_split",
    "model.top_down": "model.upsample_mode",
    "model.centre_radius": "model.center_sampling_radius",
    "model.ranges": "model.regression_ranges",
    "model.atss_candidates": "model.atss_topk",
    "model.aligned_candidates": "model.task_aligned_topk",
    "model.aligned_alpha": "model.task_aligned_alpha",
    "model.aligned_beta": "model.task_aligned_beta",
    "model.box_weight": "model.box_loss_weighting",
    "train.device": "machine.device",
    "train.devices": "machine.devices",
    "train.workers": "machine.workers",
    "train.cache": "machine.cache",
    "train.checkpoint_every": "machine.checkpoint_seconds",
    "train.checkpoint_steps": "machine.checkpoint_steps",
    "train.limit": "train.max_images",
    "train.keep": "train.final_weights",
    "train.group_shapes": "train.group_by_aspect_ratio",
    "train.lr_batch": "train.base_batch_size",
    "train.counted_in": "train.schedule_unit",
    "train.clip_norm": "train.clip_grad_norm",
    "train.ema": "train.ema_decay",
    "train.frozen_epochs": "train.backbone_frozen_epochs",
    "train.difficult": "train.include_difficult",
    "train.empty": "train.include_empty",
    "train.crowd": "train.include_crowd",
    "train.augment.jitter": "train.augment.color_jitter",
    "train.augment.jitter_strength": "train.augment.color_jitter_strength",
    "train.augment.distortion": "train.augment.perspective_distortion",
    "train.augment.crop_least": "train.augment.min_crop",
    "train.augment.plain_epochs": "train.augment.close_mosaic_epochs",
    "evaluate.device": "machine.device",
    "evaluate.score_threshold": "postprocess.score_threshold",
    "evaluate.threshold_on": "postprocess.score_mode",
    "evaluate.candidates": "postprocess.pre_nms_topk",
    "evaluate.nms": "postprocess.nms",
    "evaluate.nms_threshold": "postprocess.nms_iou_threshold",
    "evaluate.soft_sigma": "postprocess.soft_nms_sigma",
    "evaluate.max_detections": "postprocess.max_detections",
    "evaluate.split": "inspect.split",
    "inspect.worst": "inspect.max_images",
}


@dataclass(frozen=True, kw_only=True)
class DigitsParams:
    seed: Seed
    train: Positive
    val: Positive
    size: Annotated[int, Field(ge=64, le=400)]


@dataclass(frozen=True, kw_only=True)
class ZooParams:
    splits: tuple[str, ...] | None
    classes: tuple[str, ...] | None
    max_samples: Positive | None


@dataclass(frozen=True, kw_only=True)
class DownloadParams:
    path: str
    format: str  # validated where it is used, as `dataset` is
    mirror: str | None
    follow_links: bool
    zoo: ZooParams
    digits: DigitsParams

    def __post_init__(self) -> None:
        _check_path("path", self.path)


def _check_path(key: str, path: str) -> None:
    # DVC also resolves a relative path in its temporary workspaces, which contain nothing outside the project.
    if ".." in Path(path).parts or path.startswith("~"):
        raise ValueError(f"{key}: {path!r} leaves the project, so it must be absolute, without .. and ~")


@dataclass(frozen=True, kw_only=True)
class CheckParams:
    """The action of each check in `pipeline.conversion.checks`."""

    missing_image: Literal["default", "error", "skip"]
    ambiguous_image: Literal["default", "error", "skip"]
    undecodable_image: Literal["default", "error", "skip"]
    truncated_image: Literal["default", "error", "skip"]
    oversized_image: Literal["default", "error", "skip"]
    size_mismatch: Literal["default", "error", "repair", "skip"]
    exif_rotated: Literal["default", "error", "repair", "skip"]
    exif_orientation: Literal["default", "error", "skip", "note"]
    duplicate_record: Literal["default", "error", "skip"]
    missing_annotation: Literal["default", "error", "skip"]
    invalid_record: Literal["default", "error", "skip"]
    invalid_xml: Literal["default", "error", "skip"]
    missing_image_id: Literal["default", "error", "skip"]
    duplicate_id: Literal["default", "error", "note"]
    non_finite_box: Literal["default", "error", "skip"]
    degenerate_box: Literal["default", "error", "skip"]
    swapped_corners: Literal["default", "error", "repair", "skip"]
    tiny_box: Literal["default", "error", "skip"]
    out_of_bounds_box: Literal["default", "error", "repair", "skip"]
    duplicate_box: Literal["default", "error", "skip", "note"]
    unknown_class: Literal["default", "error", "skip"]
    different_class_lists: Literal["default", "error", "note"]
    unused_class: Literal["default", "error", "note"]
    similar_class_names: Literal["default", "error", "note"]
    duplicate_image: Literal["default", "error", "skip", "note"]
    leak: Literal["default", "error", "repair", "note"]
    near_duplicate_leak: Literal["default", "error", "repair", "note"]
    unbalanced_split: Literal["default", "error", "note"]
    stale_correction: Literal["default", "error", "skip"]


@dataclass(frozen=True, kw_only=True)
class ConvertParams:
    train: str | None
    val: str | None
    test: str | None
    val_fraction: Annotated[float, Field(gt=0, lt=1)]
    split_seed: Literal["auto"] | Annotated[int, Field(ge=0)]
    folds: Annotated[int, Field(ge=2)] | None
    fold: Annotated[int, Field(ge=0)]
    group_pattern: str | None
    classes: Annotated[tuple[str, ...], Field(min_length=1)] | ClassMapping | None
    image_check: Literal["decode", "header", "trust"]
    max_megapixels: PositiveFloat
    issues: Literal["error", "repair"]
    checks: CheckParams

    def __post_init__(self) -> None:
        if self.folds and self.fold >= self.folds:
            raise ValueError(f"fold: {self.fold} is not one of {self.folds} folds, counted from 0")
        if self.fold and not self.folds:
            raise ValueError(f"fold: {self.fold} needs folds, which is null")
        if self.folds and self.val:
            raise ValueError(f"folds: val names the split {self.val!r} already; one of them must be null")
        if self.group_pattern is not None:
            _check_group_pattern(self.group_pattern)


def _check_group_pattern(pattern: str) -> None:
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise ValueError(f"group_pattern: {pattern!r} is no regular expression: {error}") from None
    if groups != 1:
        raise ValueError(
            f"group_pattern: {pattern!r} needs one group in brackets, such as ^(.*)_frame; it has {groups}"
        )


@dataclass(frozen=True, kw_only=True)
class AugmentParams:
    flip: Fraction
    scale: tuple[PositiveFloat, PositiveFloat]
    color_jitter: Fraction
    color_jitter_strength: tuple[Fraction, Fraction, Fraction, Annotated[float, Field(ge=0, le=0.5)]]
    affine: Fraction
    degrees: Annotated[float, Field(ge=0, le=180)]
    shear: Annotated[float, Field(ge=0, lt=90)]
    translate: Fraction
    perspective: Fraction
    perspective_distortion: Fraction
    crop: Fraction
    min_crop: Annotated[float, Field(gt=0, le=1)]
    mosaic: Fraction
    mixup: Fraction
    close_mosaic_epochs: Annotated[int, Field(ge=0)]

    def __post_init__(self) -> None:
        if self.scale[0] > self.scale[1]:
            raise ValueError("scale: the smaller zoom comes first")


@dataclass(frozen=True, kw_only=True)
class TrainParams:
    precision: Literal["auto", "float32", "bf16", "fp16"]
    channels_last: bool
    compile: bool
    epochs: Positive
    batch_size: Positive
    accumulate: Positive
    max_images: Positive | None
    overfit: Annotated[int, Field(ge=0)]
    early_stopping: Annotated[int, Field(ge=0)]
    extend_from: str
    keep_state: bool
    final_weights: Literal["last", "best"]
    size: tuple[Positive, Positive]
    letterbox: bool
    multi_scale: tuple[Positive, Positive] | None
    tiles: TileSize | None
    min_visibility: Fraction
    empty_tiles: Fraction
    group_by_aspect_ratio: bool
    optimizer: Literal["adamw", "adam", "sgd", "muon"]
    lr: PositiveFloat
    backbone_lr_factor: PositiveFloat
    base_batch_size: Positive | None
    weight_decay: NonNegative
    momentum: Fraction
    schedule: Literal["cosine", "one_cycle", "multi_step", "step", "plateau", "constant"]
    steps: tuple[PositiveFloat, ...]
    schedule_unit: Literal["fraction", "epochs", "iterations"]
    gamma: Annotated[float, Field(gt=0, le=1)]
    plateau_patience: Positive
    warmup: NonNegative
    clip_grad_norm: NonNegative
    ema_decay: Annotated[float, Field(ge=0, lt=1)]
    backbone_frozen_epochs: Annotated[int, Field(ge=0)]
    include_difficult: bool
    include_empty: bool
    include_crowd: bool
    repeat_threshold: Annotated[float, Field(ge=0, le=1)]
    augment: AugmentParams
    validate_every: Positive

    def __post_init__(self) -> None:
        if not self.letterbox and self.size[0] > self.size[1]:
            raise ValueError("size: the shorter side comes first")
        _check_path("extend_from", self.extend_from)
        InputSize(self.size)  # checks the sides
        if self.multi_scale and self.multi_scale[0] > self.multi_scale[1]:
            raise ValueError("multi_scale: the smaller side comes first")
        if self.multi_scale and self.letterbox:
            raise ValueError("multi_scale: with letterbox, augment.scale does that")
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate: {self.accumulate} parts don't divide batch_size {self.batch_size}")
        if self.schedule_unit == "fraction" and max([*self.steps, self.warmup]) > 1:
            raise ValueError("steps and warmup are fractions of the training, up to 1, where schedule_unit is fraction")
        if self.schedule in ("step", "multi_step") and not self.steps:
            raise ValueError(f"steps: {self.schedule} needs at least one")

    @property
    def input_size(self) -> InputSize:
        """The size that images are resized to."""
        return InputSize(self.size, letterbox=self.letterbox)


@dataclass(frozen=True, kw_only=True)
class EvaluateParams:
    batch_size: Positive
    test: bool
    sizes: Sizes | None
    flip: bool
    tiles: TileSize | None
    merge: Literal["nms", "wbf"]
    merge_iou_threshold: Fraction


@dataclass(frozen=True, kw_only=True)
class PostprocessParams:
    score_threshold: Fraction
    score_mode: Literal["class", "combined"]
    pre_nms_topk: Positive
    nms: Literal["hard", "soft_linear", "soft_gaussian"]
    nms_iou_threshold: Fraction
    soft_nms_sigma: PositiveFloat
    max_detections: Positive


@dataclass(frozen=True, kw_only=True)
class InspectParams:
    split: Literal["val", "test"]
    score_threshold: Fraction | None
    iou_threshold: Fraction
    max_images: Positive
    embeddings: Literal["tsne", "umap", "pca"] | None
    fiftyone: bool


@dataclass(frozen=True, kw_only=True)
class MachineParams:
    """Parameters that may differ between machines without changing the result."""

    device: Literal["auto", "cpu", "cuda"]
    devices: Literal["auto"] | Positive
    workers: Annotated[int, Field(ge=0)]
    cache: bool
    checkpoint_seconds: NonNegative
    checkpoint_steps: Positive


@dataclass(frozen=True, kw_only=True)
class Params:
    dataset: str
    loss: BoxLoss
    seed: Seed
    download: DownloadParams
    convert: ConvertParams
    model: ModelConfig
    train: TrainParams
    postprocess: PostprocessParams
    evaluate: EvaluateParams
    inspect: InspectParams
    machine: MachineParams

    def __post_init__(self) -> None:
        if not self.model.start_from:
            raise ValueError(
                "model.start_from must be a path, for DVC; the empty folder data/start_from stands for none"
            )
        _check_path("model.start_from", self.model.start_from)
        if self.machine.cache and self.train.tiles:
            raise ValueError(
                "machine.cache: it keeps images at train.size, and tiles have others; "
                "set it to false, or train.tiles to null"
            )

    def flat(self) -> dict[str, Any]:
        """Every parameter by its dotted name, as in `dvc exp run -S train.lr=0.001`."""
        return dict(_flatten(self))


def load(path: Path | None = None) -> Params:
    """Reads and validates a parameter file; default: the workspace's params.yaml.

    The file is parsed as DVC parses it, by YAML 1.2: `1e-05` is a number, and `off` is a string.

    Raises:
        PipelineError: one line that names the key, its value and what is allowed.
    """
    path = path or workspace() / "params.yaml"
    return validate(read_yaml(path), str(path))


def parse(text: str, path: Path) -> Params:
    """Validates the text of a parameter file; `path` names it in messages.

    Raises:
        PipelineError: as for `load`.
    """
    return validate(parse_yaml(text, path), str(path))


def validate(values: Any, source: str) -> Params:
    """Validates the content of a parameter file; `source` begins the message of an error.

    Raises:
        PipelineError: as for `load`.
    """
    try:
        # JSON's strict mode accepts a list as a tuple, but neither "1" as a number nor 1.0 as an integer.
        return _ADAPTER.validate_json(to_json(values, source), strict=True, extra="forbid")
    except ValidationError as error:
        raise PipelineError(f"{source}: {_describe(error)}") from None


def load_postprocess(path: Path) -> PostprocessParams | None:
    """Reads and validates the section `postprocess` only; None if the file has none.

    `fcos predict` needs no other section, and may run in a project whose params.yaml is not this pipeline's.

    Raises:
        PipelineError: as for `load`.
    """
    values = read_yaml(path)
    if not isinstance(values, dict) or "postprocess" not in values:
        return None
    try:
        text = to_json(values["postprocess"], str(path))
        return _POSTPROCESS_ADAPTER.validate_json(text, strict=True, extra="forbid")
    except ValidationError as error:
        raise PipelineError(f"{path}: {_describe(error, ('postprocess',))}") from None


def _describe(error: ValidationError, section: Key = ()) -> str:
    return describe_validation_error(error, _known_keys, section=section, renamed=RENAMED)


def _known_keys(section: Key) -> list[str]:
    kind: Any = Params
    for name in section:
        kind = next(field.type for field in fields(kind) if field.name == name)
    return [field.name for field in fields(kind)]


def _flatten(section: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for field in fields(section):
        value = getattr(section, field.name)
        if is_dataclass(value):
            yield from _flatten(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, _to_lists(value)


def _to_lists(value: Any) -> Any:
    return [_to_lists(item) for item in value] if isinstance(value, tuple) else value


_ADAPTER = TypeAdapter(Params)
_POSTPROCESS_ADAPTER = TypeAdapter(PostprocessParams)
