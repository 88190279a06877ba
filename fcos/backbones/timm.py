"""Any model of timm (Wightman) that gives features of strides 8, 16 and 32."""

import difflib
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fcos.backbones.backbone import Backbone
from fcos.backbones.pretrained import first_line, matching_state

_STRIDES = (8, 16, 32)
_SIZE = (96, 160)  # pixels, of the image that shows whether a model takes any multiple of 32


class Features(nn.Module):
    """timm's features, channels first: some of its models, Swin among them, put the channels last."""

    def __init__(self, network: nn.Module, *, channels_last: bool) -> None:
        super().__init__()
        self.network, self.channels_last = network, channels_last

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """C3, C4, C5."""
        features = self.network(images)
        return tuple(feature.permute(0, 3, 1, 2) if self.channels_last else feature for feature in features)


@dataclass(frozen=True)
class _Layout:
    """What a model without weights tells."""

    options: dict[str, Any]  # to build it with
    indices: tuple[int, ...]  # of C3, C4, C5 among its features
    channels: tuple[int, ...]  # of C3, C4, C5
    channels_last: bool
    stages: tuple[frozenset[str], ...]  # names of the parameters that each feature up to C5 is the first to need


def timm_backbone(name: str, *, pretrained: bool | str) -> Backbone:
    """timm's model `name`, `resnet18` or `resnet18.a1_in1k`, with the normalization it was trained with.

    Its stages are what leads from one of its features to the next; a model without a feature of stride 2 has its stem
    and its C2 in one.

    Raises:
        ValueError: there is no such model, its features don't fit, or its weights can't be had.
    """
    timm = _library()
    _check_name(timm, name)
    layout = _layout(timm, name)
    network = _network(timm, name, pretrained, layout)
    features = Features(network, channels_last=layout.channels_last)
    needed = frozenset[str]().union(*layout.stages)
    for parameter_name, parameter in features.named_parameters():
        if parameter_name not in needed:  # HRNet has some for its finer features: they would wait for gradients
            parameter.requires_grad_(False)
    config = timm.get_pretrained_cfg(name)
    return Backbone(features, channels=layout.channels, mean=config.mean, std=config.std, stages=layout.stages)


def _library() -> Any:
    try:
        return importlib.import_module("timm")
    except ModuleNotFoundError:
        raise ValueError("backbone: timm:NAME needs a package: pip install timm") from None


def _check_name(timm: Any, name: str) -> None:
    known = {*timm.list_models(), *timm.list_pretrained()}
    if name not in known:
        close = difflib.get_close_matches(name, sorted(known))
        hint = f"did you mean {', '.join(close)}?" if close else "timm.list_models() names them all"
        raise ValueError(f"backbone: timm has no model {name!r}; {hint}")


def _layout(timm: Any, name: str) -> _Layout:
    problems = []
    # Swin takes images of any size if told so; most others know no such option.
    for options in ({}, {"strict_img_size": False}):
        try:
            return _measured(timm, name, options)
        except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as error:
            problems.append(first_line(error))
    raise ValueError(
        f"backbone: timm:{name} gives no features of strides 8, 16 and 32 for images of any size ({problems[0]})"
    )


def _measured(timm: Any, name: str, options: dict[str, Any]) -> _Layout:
    with torch.device("meta"):  # shapes alone: no memory, no arithmetic
        network = timm.create_model(name, features_only=True, **options).eval()
        info = network.feature_info
        strides = info.reduction()
        at = {stride: index for index, stride in enumerate(strides)}  # the last one of each stride
        if not at.keys() >= {*_STRIDES}:
            raise ValueError(f"their strides are {', '.join(map(str, strides))}")
        features = network(torch.empty(1, 3, *_SIZE))
    chosen = [at[stride] for stride in _STRIDES]
    layout = _Layout(
        options=options,
        indices=tuple(info.out_indices[index] for index in chosen),
        channels=tuple(info.channels()[index] for index in chosen),
        channels_last=str(getattr(network, "output_fmt", "")).endswith("NHWC"),
        stages=_stages(network, features[: chosen[-1] + 1], chosen),
    )
    _check_shapes(features, chosen, layout)
    return layout


def _check_shapes(features: Sequence[Tensor], chosen: Sequence[int], layout: _Layout) -> None:
    for index, stride, channels in zip(chosen, _STRIDES, layout.channels, strict=True):
        height, width = _SIZE[0] // stride, _SIZE[1] // stride
        right = (height, width, channels) if layout.channels_last else (channels, height, width)
        if features[index].shape[1:] != right:
            raise ValueError(f"at stride {stride} it gives {list(features[index].shape[1:])} instead of {list(right)}")


def _stages(network: nn.Module, features: Sequence[Tensor], chosen: Sequence[int]) -> tuple[frozenset[str], ...]:
    """What each feature depends on and none before it does: autograd knows, however a model is built."""
    names, parameters = zip(*network.named_parameters(), strict=True)
    used = []
    for feature in features:
        gradients = torch.autograd.grad(feature.sum(), parameters, retain_graph=True, allow_unused=True)
        used.append({name for name, gradient in zip(names, gradients, strict=True) if gradient is not None})
    needed = set[str]().union(*(used[index] for index in chosen))
    new = [(used[index] & needed).difference(*used[:index]) for index in range(len(used))]
    return tuple(frozenset(f"network.{name}" for name in stage) for stage in new)


def _network(timm: Any, name: str, pretrained: bool | str, layout: _Layout) -> nn.Module:
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
            f"pretrained: timm could not load the weights of {name} ({first_line(error)}); "
            "fetch them once with a connection to huggingface.co, give a file with its state dict, or set it to false"
        ) from None
    return network


def _check_file(timm: Any, name: str, path: str, options: dict[str, Any]) -> None:
    """Compares a file's tensors with those of timm's whole model; timm itself would be lenient."""
    with torch.device("meta"):
        model = timm.create_model(name, **options)
    classifiers = model.pretrained_cfg["classifier"] or ()
    prefixes = [classifiers] if isinstance(classifiers, str) else classifiers
    matching_state(model, path, classifier=tuple(f"{prefix}." for prefix in prefixes))
