"""Speed of a detector from pixels to boxes: as it is, fused, compiled, and exported to ONNX in float32 and int8.

    python -m benchmarks.exported tiny 256 256
    python -m benchmarks.exported resnet50 640 640 --rounds 5

Weights are random. All variants take one image at a time, in turn, and the medians are printed: of the time that has
passed, and of CPU time, which other work on the machine changes less.
"""

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
import onnxruntime
import torch

from fcos.config import PAPER, InputSize
from fcos.description import Description
from fcos.detector import build
from fcos.fast.fused import fuse
from fcos.inference import detect
from fcos.onnx_detector import OnnxDetector
from fcos.postprocess import Postprocess
from fcos.weights import save_detector
from pipeline.export import detector_files, images, network, quantization
from pipeline.inference.saved_detector import SavedDetector

_CLASSES = 10


def variants(backbone: str, size: tuple[int, int], folder: Path, *, compiled: bool) -> dict[str, Callable[[], object]]:
    """A function for each variant, which detects objects in one image."""
    input_size, postprocess = InputSize(size), Postprocess(score_threshold=0.3)
    narrow = {"channels": 64, "tower_depth": 2} if backbone == "tiny" else {}
    config = replace(PAPER, backbone=backbone, pretrained=False, batch_norm="trained", frozen_stages=0, **narrow)  # type: ignore[arg-type]
    detector = build(config, _CLASSES).eval()
    categories = tuple((label, str(label)) for label in range(_CLASSES))
    description = Description(model=config, categories=categories, input_size=input_size)
    path = folder / "detector.safetensors"
    save_detector(detector, description, path)
    pixels = images.generate(input_size, 8)
    fused = fuse(detector)
    exported = _export(SavedDetector(fused, description), path, pixels, postprocess)
    calls: dict[str, Callable[[], object]] = {
        "eager": lambda: detect(detector, pixels[:1], input_size, postprocess),
        "fused": lambda: detect(fused, pixels[:1], input_size, postprocess),
    }
    if compiled:
        program: Any = torch.compile(copy.deepcopy(fused), dynamic=False)
        calls["compiled"] = lambda: detect(program, pixels[:1], input_size, postprocess)
    for name, file in exported.items():
        runner = OnnxDetector(file, torch.device("cpu"))
        calls[name] = lambda runner=runner: runner.detect(pixels[:1], input_size, postprocess)  # type: ignore[misc]
    default = OnnxDetector(exported["ONNX Runtime, float32"], torch.device("cpu"))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # no warnings of inputs that have default values
    default.session = onnxruntime.InferenceSession(exported["ONNX Runtime, float32"], options)
    calls["ONNX Runtime, float32, its default options"] = lambda: default.detect(pixels[:1], input_size, postprocess)
    return calls


def _export(model: SavedDetector, path: Path, pixels: list[torch.Tensor], postprocess: Postprocess) -> dict[str, Path]:
    about = detector_files.metadata(model, path, postprocess, raw=False)
    traced = ir.to_proto(network.to_onnx(model.network))
    networks: dict[str, Any] = {
        "ONNX Runtime, float32": ir.from_proto(traced),
        "ONNX Runtime, int8": quantization.quantize(traced, quantization.prepare(model, pixels)),
    }
    files = {name: path.with_name(f"{name.rsplit(' ')[-1]}.onnx") for name in networks}
    for name, file in files.items():
        ir.save(detector_files.complete(networks[name], model, about), file)
    return files


def measure(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, tuple[float, float]]:
    """The median seconds of each variant, of a clock and of CPU time."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {
        name: (statistics.median(wall for wall, _ in seconds), statistics.median(cpu for _, cpu in seconds))
        for name, seconds in times.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("backbone")
    parser.add_argument("size", type=int, nargs=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--no-compile", action="store_true")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        size = (min(arguments.size), max(arguments.size))
        calls = variants(arguments.backbone, size, Path(folder), compiled=not arguments.no_compile)
        found = measure(calls, arguments.rounds)
    first = found["fused"][1]
    print(f"{arguments.backbone}, {size[0]}×{size[1]}, {torch.get_num_threads()} threads")
    for name, (wall, cpu) in found.items():
        print(f"| {name} | {1 / wall:.2f} | {1000 * cpu:.1f} | {first / cpu:.2f} |")


if __name__ == "__main__":
    main()
