"""The weights that a training starts from: random, pretrained, or those of another detector (`model.start_from`)."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from fcos.backbones.backbone import IMAGENET_MEAN, IMAGENET_STD
from fcos.config import ARCHITECTURE, ModelConfig
from fcos.detector import Detector, build
from fcos.torchvision_weights import COCO_ROWS, TORCHVISION, coco_categories, count_rows, rename_tensor
from fcos.training.transfer import Source, transfer
from fcos.weights import load_detector, without_pretrained
from pipeline.errors import PipelineError
from pipeline.inference.import_weights import read_state_dict
from pipeline.params import Params
from pipeline.workspace import from_root, root, workspace

START_FROM, EXTEND_FROM = "model.start_from", "train.extend_from"
_DETECTOR = "detector.safetensors"  # in a folder of models, beside the best or the last weights
_SUFFIXES = (".safetensors", ".pth", ".pt")
_DEFAULT_FOLDERS = ("data/start_from", "data/extend_from")  # DVC alone needs them to exist


def make_detector(
    params: Params, classes: Sequence[str], device: torch.device, warn: Callable[[str], None], *, world_size: int = 1
) -> Detector:
    """The detector that the parameters describe, its weights initialized from the seed or taken from a file.

    Args:
        classes: names of the classes, in the order of their labels.
        warn: receives lines for people, such as what was taken from a file.
        world_size: number of processes that train together.

    Raises:
        PipelineError: weights to start from are missing or unusable.
    """
    model = _resolve_batch_norm(_resolve_pretrained(params.model), device, warn, world_size)
    file, key = find_start(params)
    seed = params.seed
    detector = _start_from(file, key, model, seed, classes, warn) if file else _build(model, seed, classes)
    detector.to(device)
    if not params.train.channels_last:
        detector.set_memory_format(torch.contiguous_format)
    return detector


def _build(model: ModelConfig, seed: int, classes: Sequence[str]) -> Detector:
    torch.manual_seed(seed)
    try:
        return build(model, len(classes))
    except ValueError as error:
        raise PipelineError(f"params.yaml: model.{error}") from None


def _start_from(
    file: Path, key: str, model: ModelConfig, seed: int, classes: Sequence[str], warn: Callable[[str], None]
) -> Detector:
    source = read_source(file)
    if key == EXTEND_FROM:
        _check_same(file, source, model, classes)
    try:
        # Pretrained weights are loaded only if the file does not have the whole backbone.
        detector = _build(without_pretrained(model), seed, classes)
        taken = transfer(detector, classes, source)
        if model.pretrained and "backbone" in taken.new:
            detector = _build(model, seed, classes)
            taken = transfer(detector, classes, source)
    except ValueError as error:
        raise PipelineError(f"{key}: {file}: {error}") from None
    unnamed = "" if source.rows else "; the file does not name its classes (`fcos import-weights --categories` does)"
    warn(f"{key}: {file}: {taken}{unnamed}")
    return detector


def _resolve_pretrained(model: ModelConfig) -> ModelConfig:
    """Makes the path of a weights file relative to the main repository: temporary workspaces have no copy of it."""
    return replace(model, pretrained=str(from_root(model.pretrained))) if isinstance(model.pretrained, str) else model


def _resolve_batch_norm(
    model: ModelConfig, device: torch.device, warn: Callable[[str], None], world_size: int
) -> ModelConfig:
    """Replaces synchronized batch norm, which torch supports on GPUs only, by unsynchronized on a CPU."""
    if model.batch_norm != "synchronized" or device.type != "cpu" or world_size == 1:
        return model
    reason = "torch synchronizes batch norm on GPUs only: each process uses the statistics of its own images"
    warn(f"model.batch_norm: {reason}")
    return replace(model, batch_norm="trained")


def find_start(params: Params) -> tuple[Path | None, str]:
    """The file of weights that training starts from, if there is one, and the parameter that names it.

    Raises:
        PipelineError: two parameters name weights, or one of them names nothing usable.
    """
    start = find_weights(params.model.start_from, START_FROM)
    extended = find_weights(params.train.extend_from, EXTEND_FROM)
    if extended and extended.parent != workspace() / params.train.extend_from:
        raise PipelineError(f"{EXTEND_FROM}: {extended} is a file: name the folder with it")
    if start and extended:
        raise PipelineError(
            f"{START_FROM} and {EXTEND_FROM} both have weights ({start}, {extended}): empty one of them"
        )
    return start or extended, EXTEND_FROM if extended else START_FROM


def _check_same(file: Path, source: Source, model: ModelConfig, classes: Sequence[str]) -> None:
    """Makes sure that a detector has this architecture and these classes, so that its training can be extended."""
    remedy = f"only the same detector is trained longer; for another one, use {START_FROM}"
    for name in ARCHITECTURE:
        if name == "distribution_max" and model.box_output != "distribution":
            continue
        theirs, ours = getattr(source.config, name), getattr(model, name)
        if theirs != ours:
            raise PipelineError(f"{EXTEND_FROM}: {file}: its {name} is {theirs}, not {ours}: {remedy}")
    if tuple(source.rows) != tuple(classes):
        raise PipelineError(f"{EXTEND_FROM}: {file}: it has other classes, or in another order: {remedy}")


def find_weights(path: str | None, key: str) -> Path | None:
    """The file of weights that a parameter names: a file, or the only one in a folder.

    In a folder with several, such as `models/` of another project, it is the detector.

    Args:
        path: relative to the workspace, in which DVC resolves it too, or absolute; None: none.
        key: the parameter, for messages.

    Returns:
        The file; None if there is none: the folder is empty, but for files of git, or is the default one and missing.

    Raises:
        PipelineError: the path does not exist, or names no single file of weights.
    """
    if path is None:
        return None
    place, outside = workspace() / path, from_root(path)
    if root() != workspace().resolve() and not _has_content(place) and _has_content(outside):
        # DVC would record the folder of the temporary workspace, which lacks what git ignores.
        raise PipelineError(f"{key}: with --queue and --temp it must be absolute; set it to {outside}")
    if place.is_file():
        return place
    if not place.exists() and path in _DEFAULT_FOLDERS:
        return None
    if not place.is_dir():
        raise PipelineError(f"{key}: {place}: no such file or folder")
    return _only_file(place, key) if _has_content(place) else None


def _has_content(path: Path) -> bool:
    """Whether there is more than hidden files, such as .gitignore and those of file managers."""
    return path.is_file() or (path.is_dir() and any(not entry.name.startswith(".") for entry in path.iterdir()))


def _only_file(folder: Path, key: str) -> Path:
    if (folder / _DETECTOR).is_file():
        return folder / _DETECTOR
    files = sorted(file for file in folder.iterdir() if file.suffix in _SUFFIXES and file.is_file())
    if not files:
        raise PipelineError(f"{key}: {folder}: holds no weights ({', '.join(_SUFFIXES)}); if DVC tracks them: dvc pull")
    if len(files) > 1:
        raise PipelineError(f"{key}: {folder}: holds {files[0].name} and {files[1].name}: set it to one of the files")
    return files[0]


def read_source(file: Path) -> Source:
    """Reads weights to start from: a detector of this project, or a state dict of torchvision's FCOS.

    No code of the file runs.

    Raises:
        PipelineError: one line with the file and the problem.
    """
    if file.suffix == ".safetensors" and file.with_suffix(".json").is_file():
        return _read_detector(file)
    state = read_state_dict(file)
    try:
        rows = count_rows(state)
    except ValueError:
        raise PipelineError(
            f"{file}: neither a detector (.safetensors, its .json beside it) nor a state dict of torchvision's FCOS; "
            "weights of a backbone alone belong to model.pretrained"
        ) from None
    return Source(
        # torchvision's head has no scales, which is the same as scales of 1.
        tensors={"head.scales": torch.ones(len(TORCHVISION.levels))}
        | {rename_tensor(name): tensor for name, tensor in state.items()},
        config=TORCHVISION,
        rows={name: row for row, name in coco_categories()} if rows == COCO_ROWS else {},
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )


def _read_detector(file: Path) -> Source:
    try:
        detector, description = load_detector(file)
    except ValueError as error:
        raise PipelineError(str(error)) from None
    return Source(
        tensors=detector.state_dict(),
        config=description.model,
        rows={name: label for label, (_, name) in enumerate(description.categories)},
        mean=detector.backbone.mean,
        std=detector.backbone.std,
    )
