"""Saved detectors: weights as safetensors, everything else needed to use them as JSON. No pickle."""

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
    """Description of a file of weights, saved beside it as JSON."""

    model: ModelConfig
    categories: tuple[tuple[int, str], ...]  # ids and names in the data set, in the order of the labels 0…K−1
    input_size: InputSize  # what images are resized to


def save_detector(detector: Detector, description: Description, path: str | Path) -> None:
    """Writes the weights to `path` (.safetensors) and the description beside it (.json).

    The same detector gives the same bytes. Both files are replaced atomically.
    """
    path = Path(path)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in detector.state_dict().items()}
    fields = {
        "version": _VERSION,
        "model": asdict(description.model),
        "categories": [{"id": id, "name": name} for id, name in description.categories],
        "size": list(description.input_size.size),
        "letterbox": description.input_size.letterbox,
        "normalization": {"mean": list(detector.backbone.mean), "std": list(detector.backbone.std)},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(fields, indent=2, ensure_ascii=False) + "\n"
    for file, content in ((path, save(tensors)), (path.with_suffix(".json"), text.encode())):
        partial = file.with_name(f".{file.name}.partial")
        partial.write_bytes(content)
        partial.replace(file)


def load_detector(path: str | Path, device: torch.device | None = None) -> tuple[Detector, Description]:
    """Loads a detector that `save_detector` wrote, in evaluation mode.

    Raises:
        ValueError: a file is missing or invalid; one line with the file and the problem.
    """
    path = Path(path)
    about = path.with_suffix(".json")
    for needed in (path, about):
        if not needed.is_file():
            raise ValueError(f"{needed}: no such file; the weights and their .json file must be in the same folder")
    try:
        fields = _current(json.loads(about.read_text(encoding="utf-8-sig")))
        description = _description(fields)
        detector = build(_without_pretrained(description.model), len(description.categories))
        detector.set_normalization(**fields["normalization"])
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"{about}: not a description of a detector: {error}") from None
    try:
        _load_state(detector, load_file(path))
    except (SafetensorError, RuntimeError) as error:
        first = " ".join(str(error).split()[:40])  # torch lists every tensor, a line each
        raise ValueError(f"{path}: does not hold the weights that {about.name} describes: {first}") from None
    return detector.to(device).eval(), description


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


def _current(text: dict[str, Any]) -> dict[str, Any]:
    """Converts a description of version 3 to the current version; a current one is returned as it is.

    Raises:
        ValueError: unknown version.
    """
    if text["version"] == _VERSION:
        return text
    if text["version"] != 3:
        raise ValueError(f"version {text['version']}, but versions 3 and {_VERSION} can be read")
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
    converted = {
        "levels": tuple(fields["levels"]),
        "regression_ranges": None if ranges is None else tuple(ranges),
        "loss_weights": LossWeights(**fields["loss_weights"]),
    }
    return ModelConfig(**{**fields, **converted})


def _without_pretrained(config: ModelConfig) -> ModelConfig:
    """Without pretrained weights: the file replaces all of them, so they need not be downloaded."""
    return replace(config, pretrained=False, batch_norm=batch_norm_mode(config))


def _load_state(detector: Detector, tensors: dict[str, torch.Tensor]) -> None:
    # Frozen batch norm has no num_batches_tracked; a detector saved with it has none in its file.
    state = detector.state_dict()
    counters = {name: tensor for name, tensor in state.items() if name.endswith("num_batches_tracked")}
    detector.load_state_dict({**counters, **tensors})
