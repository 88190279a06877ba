"""`fcos import-weights`: converts weights of torchvision's `fcos_resnet50_fpn` to a detector of this project."""

import pickle
import struct
import sys
import warnings
from _compat_pickle import IMPORT_MAPPING
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from fcos.backbones.state_dicts import first_sentence
from fcos.config import InputSize
from fcos.detector import Detector
from fcos.torchvision_weights import CLASSES, COCO_ROWS, coco_categories, count_rows, from_torchvision
from fcos.weights import Description, save_detector
from pipeline.errors import PipelineError, count_noun
from pipeline.files import read_json

_SIZE = (800, 1333)  # torchvision's model resizes images to this size, in pixels

# Modules of Python's whose objects checkpoints contain: arguments, paths, counters of schedules, dates.
_DATA_MODULES = frozenset({"argparse", "collections", "datetime", "enum", "pathlib"})
# What the arguments of training scripts are made of; Python 3.13 has paths in another module.
_OLD_CLASSES = (
    "argparse.Namespace",
    *(f"{module}.{name}" for module in ("pathlib", "pathlib._local") for name in ("PosixPath", "WindowsPath")),
)
# What torch raises, besides its own exceptions, for a pickle whose bytes make no sense.
_INVALID_PICKLE = (
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    AssertionError,
    MemoryError,
    struct.error,
)


def import_weights(file: Path, out: Path, categories: Path | None = None) -> Description:
    """Converts a weights file, and writes a detector: `out` (.safetensors) and the JSON file beside it.

    Args:
        file: a state dict as .safetensors, or as .pth from torch.save: at the top level or under the key "model" or
            "state_dict", with or without the prefix of DataParallel. Whatever else the file contains is ignored.
        categories: a COCO JSON with the classes that the weights were trained on. By default, weights with 91 rows
            get COCO's classes, and others get class_1, class_2, …

    Raises:
        PipelineError: the file does not contain such weights, or the categories do not match them.
    """
    if out.suffix != ".safetensors":
        raise PipelineError(f"{out}: the name of a detector's file must end in .safetensors")
    detector, classes = read_detector(file, categories)
    description = Description(model=detector.config, categories=classes, input_size=InputSize(_SIZE))
    save_detector(detector, description, out)
    return description


def read_detector(file: Path, categories: Path | None = None) -> tuple[Detector, tuple[tuple[int, str], ...]]:
    """The detector in a weights file, and the ids and names of its categories in order of their labels.

    Arguments and errors are those of `import_weights`.
    """
    state = read_state_dict(file)
    try:
        rows = count_rows(state)
        classes = _categories(rows, categories)
        # torchvision trains on COCO with its category ids as class indices, unused ids included; 0 is the background.
        ids_are_rows = all(0 < id < rows for id, _ in classes)
        return from_torchvision(state, [id for id, _ in classes] if ids_are_rows else range(1, rows)), classes
    except ValueError as error:
        raise PipelineError(f"{file}: {error}") from None


def _categories(rows: int, source: Path | None) -> tuple[tuple[int, str], ...]:
    if source is None:
        return coco_categories() if rows == COCO_ROWS else tuple((row, f"class_{row}") for row in range(1, rows))
    classes = _read_categories(source)
    if len(classes) != rows - 1 and not all(0 < id < rows for id, _ in classes):
        raise PipelineError(
            f"{source}: {count_noun(len(classes), 'category', 'categories')}, but the weights have "
            f"{count_noun(rows - 1, 'class', 'classes')} besides the background, "
            f"and the category ids are not all between 1 and {rows - 1}: give the categories of the training data"
        )
    return classes


def _read_categories(source: Path) -> tuple[tuple[int, str], ...]:
    content = read_json(source)
    try:
        classes = tuple(sorted((category["id"], category["name"]) for category in content["categories"]))
    except (KeyError, TypeError):
        classes = ()
    if not classes or not all(type(id) is int and type(name) is str for id, name in classes):
        raise PipelineError(f"{source}: not a COCO JSON: it needs categories, each with an id and a name")
    return classes


def read_state_dict(file: Path) -> dict[str, Tensor]:
    """The state dict in a file, with torchvision's names if it is of torchvision's FCOS. No code of the file runs.

    Raises:
        PipelineError: the file is missing or contains none.
    """
    if not file.is_file():
        raise PipelineError(f"{file}: no such file")
    content = _load_safetensors(file) if file.suffix == ".safetensors" else _unpickle(file)
    for key in ("model", "state_dict"):
        content = content.get(key, content) if isinstance(content, dict) else None
    state = content if isinstance(content, dict) else {}
    tensors = {name: value for name, value in state.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if not tensors:
        raise PipelineError(f"{file}: contains no state dict (names mapped to tensors): save model.state_dict()")
    return strip_prefix(tensors)


def _load_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise PipelineError(f"{file}: damaged, or not a safetensors file: {first_sentence(error)}") from None


class _Ignored:
    """Stands for an object of any class but tensors and plain containers, such as the arguments of a training script.

    It takes the arguments and the state that the file has for the object, and does nothing with them.
    """

    def __new__(cls, *_: object) -> Self:
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


def _unpickle(file: Path) -> object:
    """Loads tensors and plain containers. No code of the file runs: other objects are replaced by `_Ignored`."""
    _check_compression(file)
    try:
        names = _other_classes(file)
        for name in names:
            if not _is_data(name):
                raise PipelineError(f"{file}: reading it would run code ({name}): get the weights from another source")
        with safe_globals([(_Ignored, name) for name in names]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sparse tensors, which no detector has
            return torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, *_INVALID_PICKLE):
        # torch's message advises to load the file without protection.
        raise PipelineError(
            f"{file}: damaged, or not a file that torch.save wrote, or with objects that can't be read safely: save "
            "model.state_dict()"
        ) from None


def _check_compression(file: Path) -> None:
    """Refuses what torch.save never writes: a small file that unpacks to any size."""
    with suppress(BadZipFile), ZipFile(file) as archive:
        if any(member.compress_type != ZIP_STORED for member in archive.infolist()):
            raise PipelineError(f"{file}: its tensors are compressed, so torch.save did not write it")


def _other_classes(file: Path) -> list[str]:
    """Names of the classes and functions in a checkpoint that torch does not load as safe."""
    try:
        return get_unsafe_globals_in_checkpoint(file)
    except ValueError:  # written by torch before 1.6
        return list(_OLD_CLASSES)


def _is_data(name: str) -> bool:
    """Whether a class is one of data, such as argparse.Namespace, and not, such as os.system, a way to run code."""
    module = name.partition(".")[0]
    module = IMPORT_MAPPING.get(module, module)  # the protocol that torch.save uses has the names of Python 2
    return module in _DATA_MODULES or module not in sys.stdlib_module_names


def strip_prefix(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Removes what wrappers put before torchvision's names, such as `module.` by DataParallel.

    Tensors without this prefix belong to something else than the model and are left out.
    """
    prefix = next((name.removesuffix(CLASSES) for name in tensors if name.endswith(CLASSES)), "")
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
