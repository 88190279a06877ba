"""Backbones from timm: any model that returns features of strides 8, 16 and 32."""

import difflib
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fcos.backbones.backbone import Backbone
from fcos.backbones.pretrained import matching_state
from fcos.backbones.state_dicts import first_sentence

_STRIDES = (8, 16, 32)
_PROBE_SIZE = (96, 160)  # height and width in pixels of an image that tests whether a model accepts multiples of 32


class Features(nn.Module):
    """A timm model whose features are returned with channels first; some models, such as Swin, have them last."""

    def __init__(self, network: nn.Module, *, channels_last: bool) -> None:
        super().__init__()
        self.network, self.channels_last = network, channels_last

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images [B, 3, H, W] to C3, C4, C5."""
        features = self.network(images)
        return tuple(feature.permute(0, 3, 1, 2) if self.channels_last else feature for feature in features)


@dataclass(frozen=True)
class _Layout:
    """Properties of a model that can be determined without its weights."""

    options: dict[str, Any]  # keyword arguments of timm.create_model
    indices: tuple[int, ...]  # of C3, C4, C5 among the model's features
    channels: tuple[int, ...]  # of C3, C4, C5
    channels_last: bool
    stages: tuple[
        frozenset[str], ...
    ]  # for each feature up to C5: parameters that it depends on and earlier ones don't


def timm_backbone(name: str, *, pretrained: bool | str) -> Backbone:
    """Builds a timm model, with the normalization that its weights were trained with.

    A stage consists of the layers between two consecutive features. If a model has no feature of stride 2, its first
    stage contains both stem and C2.

    Args:
        name: a model of timm, such as `resnet18`, or a model and its weights, such as `resnet18.a1_in1k`.
        pretrained: True: timm's weights; False: random weights; a string: the path of a state dict.

    Raises:
        ValueError: the model is unknown, its features have other strides, or its weights can't be loaded.
    """
    timm = _import_timm()
    _check_name(timm, name)
    layout = _find_layout(timm, name)
    network = _build_network(timm, name, pretrained, layout)
    features = Features(network, channels_last=layout.channels_last)
    used = frozenset[str]().union(*layout.stages)
    for parameter_name, parameter in features.named_parameters():
        if parameter_name not in used:  # such as those of HRNet's finer features, which would never get a gradient
            parameter.requires_grad_(False)
    config = timm.get_pretrained_cfg(name)
    return Backbone(features, channels=layout.channels, mean=config.mean, std=config.std, stages=layout.stages)


def _import_timm() -> Any:
    try:
        return importlib.import_module("timm")
    except ModuleNotFoundError:
        raise ValueError("backbone: timm:NAME needs a package: pip install timm") from None


def _check_name(timm: Any, name: str) -> None:
    known = {*timm.list_models(), *timm.list_pretrained()}
    if name not in known:
        close = difflib.get_close_matches(name, sorted(known))
        hint = f"did you mean {', '.join(close)}?" if close else "timm.list_models() lists all models"
        raise ValueError(f"backbone: timm has no model {name!r}; {hint}")


def _find_layout(timm: Any, name: str) -> _Layout:
    problems = []
    # Swin accepts images of any size only with an option that most other models don't have.
    for options in ({}, {"strict_img_size": False}):
        try:
            return _measure_layout(timm, name, options)
        except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as error:
            problems.append(first_sentence(error))
    raise ValueError(
        f"backbone: timm:{name} returns no features of strides 8, 16 and 32 for images of any size ({problems[0]})"
    )


def _measure_layout(timm: Any, name: str, options: dict[str, Any]) -> _Layout:
    with torch.device("meta"):  # shapes only, no memory or compute
        network = timm.create_model(name, features_only=True, **options).eval()
        info = network.feature_info
        strides = info.reduction()
        last_index = {stride: index for index, stride in enumerate(strides)}
        if not last_index.keys() >= {*_STRIDES}:
            raise ValueError(f"their strides are {', '.join(map(str, strides))}")
        features = network(torch.empty(1, 3, *_PROBE_SIZE))
    indices = [last_index[stride] for stride in _STRIDES]
    layout = _Layout(
        options=options,
        indices=tuple(info.out_indices[index] for index in indices),
        channels=tuple(info.channels()[index] for index in indices),
        channels_last=str(getattr(network, "output_fmt", "")).endswith("NHWC"),
        stages=_find_stages(network, features[: indices[-1] + 1], indices),
    )
    _check_shapes(features, indices, layout)
    return layout


def _check_shapes(features: Sequence[Tensor], indices: Sequence[int], layout: _Layout) -> None:
    for index, stride, channels in zip(indices, _STRIDES, layout.channels, strict=True):
        height, width = _PROBE_SIZE[0] // stride, _PROBE_SIZE[1] // stride
        expected = (height, width, channels) if layout.channels_last else (channels, height, width)
        shape = features[index].shape[1:]
        if shape != expected:
            raise ValueError(f"the shape at stride {stride} is {list(shape)} instead of {list(expected)}")


def _find_stages(network: nn.Module, features: Sequence[Tensor], indices: Sequence[int]) -> tuple[frozenset[str], ...]:
    """For each feature, the parameters that it depends on and earlier features don't, found by autograd."""
    names, parameters = zip(*network.named_parameters(), strict=True)
    dependencies = []
    for feature in features:
        gradients = torch.autograd.grad(feature.sum(), parameters, retain_graph=True, allow_unused=True)
        dependencies.append({name for name, gradient in zip(names, gradients, strict=True) if gradient is not None})
    used = set[str]().union(*(dependencies[index] for index in indices))
    stages = [(dependencies[index] & used).difference(*dependencies[:index]) for index in range(len(dependencies))]
    return tuple(frozenset(f"network.{name}" for name in stage) for stage in stages)


def _build_network(timm: Any, name: str, pretrained: bool | str, layout: _Layout) -> nn.Module:
    if isinstance(pretrained, str):
        _check_file(timm, name, pretrained, layout.options)
    overlay = {"file": pretrained} if isinstance(pretrained, str) else {}
    try:
        network: nn.Module = timm.create_model(
            name,
            pretrained=bool(pretrained),
            pretrained_cfg_overlay=overlay,
            features_only=True,
            out_indices=layout.indices,
            **layout.options,
        )
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"pretrained: timm could not load the weights of {name} ({first_sentence(error)}); "
            "download them once with a connection to huggingface.co, give the file of a state dict, or set it to false"
        ) from None
    return network


def _check_file(timm: Any, name: str, path: str, options: dict[str, Any]) -> None:
    """Compares a file's tensors with those of timm's complete model; timm's own loading is lenient."""
    with torch.device("meta"):
        model = timm.create_model(name, **options)
    classifiers = model.pretrained_cfg["classifier"] or ()
    prefixes = [classifiers] if isinstance(classifiers, str) else classifiers
    matching_state(model, path, classifier=tuple(f"{prefix}." for prefix in prefixes))
