"""Pretrained weights of a backbone, from torchvision's servers or from a file."""

import pickle
import struct
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fcos.backbones.state_dicts import first_sentence

State = dict[str, Tensor]

# What torch raises, besides its own exceptions, for a pickle whose bytes make no sense.
_INVALID_PICKLE = (ValueError, KeyError, IndexError, TypeError, AttributeError, AssertionError, struct.error)


def torchvision_network(name: str, pretrained: bool | str, *, classifier: str) -> nn.Module:
    """Builds a network of torchvision with its first ImageNet weights, the weights of a file, or random weights.

    Args:
        name: of the network in torchvision, such as resnet50.
        classifier: prefix of the classifier's tensors.

    Raises:
        ValueError: the weights cannot be loaded; one line with a remedy.
    """
    from torchvision import models  # takes a second to import, and most backbones do without

    if isinstance(pretrained, str):
        network: nn.Module = models.get_model(name, weights=None)
        fill(network, pretrained, classifier=(classifier,))
        return network
    weights = models.get_model_weights(name).IMAGENET1K_V1
    try:
        network = models.get_model(name, weights=weights if pretrained else None)
    except (OSError, RuntimeError) as error:  # no connection, or not the bytes that torchvision expects
        raise ValueError(
            f"pretrained: the ImageNet weights could not be fetched ({first_sentence(error)}); "
            f"put {weights.url} into {torch.hub.get_dir()}/checkpoints, or set it to false"
        ) from None
    return network


def fill(network: nn.Module, path: str, *, classifier: tuple[str, ...] = ()) -> None:
    """Loads a file's state dict into a network, except tensors with the prefix `classifier`.

    Raises:
        ValueError: one line with the file and the first tensor that is missing, superfluous or of another shape.
    """
    state = matching_state(network, path, classifier=classifier)
    network.load_state_dict(state, strict=False)  # what may be absent was checked above


def matching_state(network: nn.Module, path: str, *, classifier: tuple[str, ...] = ()) -> State:
    """Reads a file's state dict and checks that it fits a network, except tensors with the prefix `classifier`.

    Raises:
        ValueError: see `fill`.
    """
    theirs, ours = (
        {name: tensor for name, tensor in state.items() if not (classifier and name.startswith(classifier))}
        for state in (read_state(path), network.state_dict())
    )
    difference = _first_difference(ours, theirs)
    if difference:
        raise ValueError(f"pretrained: {path}: not a state dict of this backbone: {difference}")
    return theirs


def read_state(path: str) -> State:
    """Reads the tensors of a .safetensors file or of a state dict saved by torch.save.

    Raises:
        ValueError: one line with the file and what is wrong with it.
    """
    if not Path(path).is_file():
        raise ValueError(f"pretrained: {path}: no such file; give the path of a state dict, or true or false")
    try:
        if path.endswith(".safetensors"):
            return load_file(path)
        state = torch.load(path, weights_only=True, map_location="cpu")
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, *_INVALID_PICKLE) as error:
        raise ValueError(f"pretrained: {path}: can't be read as tensors: {first_sentence(error)}") from None
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ValueError(f"pretrained: {path}: contains no state dict (names and tensors) at its top level")
    return dict(state)


def _first_difference(ours: State, theirs: State) -> str | None:
    for name, tensor in ours.items():
        if name in theirs:
            if theirs[name].shape != tensor.shape:
                return f"{name} has shape {list(theirs[name].shape)} instead of {list(tensor.shape)}"
        elif not name.endswith("num_batches_tracked"):  # old files don't count batches
            return f"{name} is missing"
    return next((f"{name} is unexpected" for name in theirs if name not in ours), None)
