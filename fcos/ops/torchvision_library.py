"""torchvision's compiled operators without its Python package.

The package imports torch's compiler, which takes as long as importing torch: 1.3 s of CPU time.
"""

import importlib
import importlib.util
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Literal

import torch

_MODULES = {"_C": "torchvision.ops", "image": "torchvision.io"}


def load_operators(library: Literal["_C", "image"]) -> None:
    """Registers a library's operators: `_C` as `torch.ops.torchvision`, `image` as `torch.ops.image`."""
    path = _find(library)
    if path is None:  # a version with other file names
        importlib.import_module(_MODULES[library])
    else:
        torch.ops.load_library(path)  # type: ignore[no-untyped-call]


def _find(library: str) -> Path | None:
    package = importlib.util.find_spec("torchvision")  # does not import it
    folders = (package and package.submodule_search_locations) or ()
    # torchvision 0.29 and later, earlier versions
    names = [f"{stem}{suffix}" for stem in (f"{library}_stable", library) for suffix in EXTENSION_SUFFIXES]
    return next((path for folder in folders for name in names if (path := Path(folder, name)).is_file()), None)
