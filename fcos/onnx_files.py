"""ONNX files: sessions of ONNX Runtime, and the metadata in a file."""

from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

SUFFIX = ".onnx"


def open_session(path: Path, device: "torch.device", *, optimize: bool = True) -> Any:
    """A session of ONNX Runtime, with as many threads as torch uses.

    Args:
        device: a GPU is used only if the package onnxruntime-gpu is installed.
        optimize: False: starts faster and runs slower.

    Raises:
        ValueError: the file is missing, or ONNX Runtime can't run it.
    """
    import torch  # not where only operating points are read

    runtime = _import_runtime()
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # it warns of inputs that have default values
    if not optimize:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    providers = ["CPUExecutionProvider"]
    if device.type == "cuda" and "CUDAExecutionProvider" in runtime.get_available_providers():
        providers.insert(0, "CUDAExecutionProvider")
    try:
        return runtime.InferenceSession(path, options, providers=providers)
    except Exception as error:  # noqa: BLE001 - the exceptions of ONNX Runtime have no other base
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(f"{path}: damaged, or no model that ONNX Runtime can run: {reason}") from None


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a file, by name.

    Raises:
        ValueError: as for `open_session`.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    status = path.stat()
    return dict(_read_metadata(path.resolve(), status.st_mtime_ns, status.st_size))


@lru_cache(maxsize=4)
def _read_metadata(path: Path, _time: int, _size: int) -> tuple[tuple[str, str], ...]:
    import torch

    session = open_session(path, torch.device("cpu"), optimize=False)
    return tuple(session.get_modelmeta().custom_metadata_map.items())


def _import_runtime() -> Any:
    try:
        return import_module("onnxruntime")
    except ModuleNotFoundError:
        raise ValueError("ONNX files need a package: pip install onnxruntime") from None
