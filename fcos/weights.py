"""Saved detectors: safetensors for the numbers, JSON for everything needed to use them. No pickle."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from fcos.backbones.batch_norm import batch_norm_mode
from fcos.config import InputSize, LossWeights, ModelConfig
from fcos.detector import Detector, build

_VERSION = 4


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a file of weights is: written beside it, as JSON."""

    model: ModelConfig
    categories: tuple[tuple[int, str], ...]  # the data set's ids and names, in the order of the labels 0…K−1
    input_size: InputSize  # what images are resized to


def save_detector(detector: Detector, description: Description, path: Path) -> None:
    """Writes `path` (.safetensors) and the JSON beside it; the same detector gives the same bytes."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in detector.state_dict().items()}
    text = {
        "version": _VERSION,
        "model": asdict(description.model),
        "categories": [{"id": id, "name": name} for id, name in description.categories],
        "size": list(description.input_size.size),
        "letterbox": description.input_size.letterbox,
        "normalization": {"mean": list(detector.backbone.mean), "std": list(detector.backbone.std)},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    written = json.dumps(text, indent=2, ensure_ascii=False) + "\n"
    for file, content in ((path, save(tensors)), (path.with_suffix(".json"), written.encode())):
        partial = file.with_name(f".{file.name}.partial")
        partial.write_bytes(content)
        partial.replace(file)


def load_detector(path: Path, device: torch.device | None = None) -> tuple[Detector, Description]:
    """Reads what `save_detector` wrote, ready to detect (in evaluation mode).

    Raises:
        ValueError: one line that names the file and what is wrong with it.
    """
    about = path.with_suffix(".json")
    for needed in (path, about):
        if not needed.is_file():
            raise ValueError(f"{needed}: no such file; the weights and their .json lie side by side")
    try:
        text = _current(json.loads(about.read_text(encoding="utf-8")))
        description = _description(text)
        detector = build(_without_pretrained(description.model), len(description.categories))
        detector.set_normalization(**text["normalization"])
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"{about}: not a detector's description: {error}") from None
    try:
        _load_state(detector, load_file(path))
    except (SafetensorError, RuntimeError) as error:
        first = " ".join(str(error).split()[:40])  # torch lists every tensor, a line each
        raise ValueError(f"{path}: does not hold the weights that {about.name} describes: {first}") from None
    return detector.to(device).eval(), description


# What version 3 called differently: keys of the description, keys of its model, values of its model.
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


def _current(text: dict[str, Any]) -> dict[str, Any]:
    """A description as this version writes it, made from one of this or the last version.

    Raises:
        ValueError: it is of another version.
    """
    if text["version"] == _VERSION:
        return text
    if text["version"] != 3:
        raise ValueError(f"version {text['version']}, but this program reads versions 3 and {_VERSION}")
    model = {_MODEL_RENAMED_IN_4.get(key, key): value for key, value in text["model"].items()}
    for key, values in _VALUES_RENAMED_IN_4.items():
        model[key] = values.get(model[key], model[key])
    return {_RENAMED_IN_4.get(key, key): value for key, value in text.items()} | {"model": model}


def _description(text: dict[str, Any]) -> Description:
    return Description(
        model=_model(text["model"]),
        categories=tuple((category["id"], category["name"]) for category in text["categories"]),
        input_size=InputSize((text["size"][0], text["size"][1]), letterbox=text["letterbox"]),
    )


def _model(fields: dict[str, Any]) -> ModelConfig:
    ranges = fields["regression_ranges"]
    exact = {
        "levels": tuple(fields["levels"]),
        "regression_ranges": None if ranges is None else tuple(ranges),
        "loss_weights": LossWeights(**fields["loss_weights"]),
    }
    return ModelConfig(**{**fields, **exact})


def _without_pretrained(config: ModelConfig) -> ModelConfig:
    """The weights are all in the file: ImageNet's would only be fetched to be overwritten."""
    return replace(config, pretrained=False, batch_norm=batch_norm_mode(config))


def _load_state(detector: Detector, tensors: dict[str, torch.Tensor]) -> None:
    own = detector.state_dict()
    # Counts that only training's batch norm has are absent where it was frozen.
    counters = {name: tensor for name, tensor in own.items() if name.endswith("num_batches_tracked")}
    detector.load_state_dict({**counters, **tensors})
