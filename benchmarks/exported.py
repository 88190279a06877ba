"""Speed of a detector from pixels to boxes: as it is, fused, compiled, and exported to ONNX in float32 and int8.

    python -m benchmarks.exported tiny 256 256
    python -m benchmarks.exported resnet50 640 640 --rounds 5
    python -m benchmarks.exported efficientnet_lite0 320 320 --torchvision

Weights are random. With `--torchvision` those of the backbone are ImageNet's, torchvision's FCOS has the same layers
and weights, and all start from an image file. All variants take one image at a time, several in a row as in a folder
of images, in turn, and the medians are printed: of the time that has passed, and of CPU time, which other work on the
machine changes less. The first image of a row is not counted, since the others' memory is in the caches then.
"""

import argparse
import copy
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
import onnxruntime
import torch
from torch import Tensor
from torchvision.io import decode_image
from torchvision.models.detection import FCOS

from benchmarks.loader import photographs
from benchmarks.training import CLASSES, MODELS
from fcos.config import PAPER, InputSize
from fcos.description import Description
from fcos.detector import Detector, build
from fcos.fast.fused import fuse
from fcos.inference import detect
from fcos.onnx_detector import OnnxDetector
from fcos.postprocess import Postprocess
from fcos.weights import save_detector
from pipeline.data.images import read_image
from pipeline.export import detector_files, images, network, quantization
from pipeline.inference.saved_detector import SavedDetector

_CLASSES = 10
_ROW = 4  # images that a variant detects in a row
_POSTPROCESS = Postprocess(score_threshold=0.3)
Calls = dict[str, Callable[[], object]]


def random_detector(backbone: str) -> Detector:
    narrow = {"channels": 64, "tower_depth": 2} if backbone == "tiny" else {}
    config = replace(PAPER, backbone=backbone, pretrained=False, batch_norm="trained", frozen_stages=0, **narrow)  # type: ignore[arg-type]
    return build(config, _CLASSES).eval()


def variants(
    detector: Detector, classes: int, input_size: InputSize, read: Callable[[], Tensor], folder: Path, *, compiled: bool
) -> Calls:
    """A function for each variant of a detector, which detects objects in the image that `read` returns."""
    categories = tuple((label, str(label)) for label in range(classes))
    description = Description(model=detector.config, categories=categories, input_size=input_size)
    path = folder / "detector.safetensors"
    save_detector(detector, description, path)
    fused = fuse(detector)
    exported = _export(SavedDetector(fused, description), path, images.generate(input_size, 8))
    calls: Calls = {
        "eager": lambda: detect(detector, [read()], input_size, _POSTPROCESS),
        "fused": lambda: detect(fused, [read()], input_size, _POSTPROCESS),
    }
    if compiled:
        program: Any = torch.compile(copy.deepcopy(fused), dynamic=False)
        calls["compiled"] = lambda: detect(program, [read()], input_size, _POSTPROCESS)
    for name, file in exported.items():
        runner = OnnxDetector(file, torch.device("cpu"))
        calls[name] = lambda runner=runner: runner.detect([read()], input_size, _POSTPROCESS)  # type: ignore[misc]
    default = OnnxDetector(exported["ONNX Runtime, float32"], torch.device("cpu"))
    default.session = _default_session(exported["ONNX Runtime, float32"])
    calls["ONNX Runtime, float32, its default options but for threads"] = lambda: default.detect(
        [read()], input_size, _POSTPROCESS
    )
    return calls


def torchvision_variants(model: FCOS, image: Path, folder: Path) -> Calls:
    """torchvision's FCOS as it is, and exported to ONNX for images as large as this one, from an image file."""
    model.eval().score_thresh = _POSTPROCESS.score_threshold
    path = folder / "torchvision.onnx"
    pixels = decode_image(str(image)) / 255
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sizes that become constants
        # By tracing: torch.export can't handle numbers of candidates that depend on the image.
        torch.onnx.export(model, ([pixels],), path, dynamo=False, opset_version=18)
    session = _default_session(path)
    name = session.get_inputs()[0].name

    @torch.inference_mode()
    def eager() -> object:
        return model([decode_image(str(image)) / 255])

    return {
        "torchvision, eager": eager,
        "torchvision, ONNX Runtime": lambda: session.run(None, {name: (decode_image(str(image)) / 255).numpy()}),
    }


def _default_session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # no warnings of inputs that have default values
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(path, options)


def _export(model: SavedDetector, path: Path, pixels: list[Tensor]) -> dict[str, Path]:
    about = detector_files.metadata(model, path, _POSTPROCESS, raw=False)
    traced = ir.to_proto(network.to_onnx(model.network))
    networks: dict[str, Any] = {
        "ONNX Runtime, float32": ir.from_proto(traced),
        "ONNX Runtime, int8": quantization.quantize(traced, quantization.prepare(model, pixels)),
    }
    files = {name: path.with_name(f"{name.rsplit(' ')[-1]}.onnx") for name in networks}
    for name, file in files.items():
        ir.save(detector_files.complete(networks[name], model, about), file)
    return files


def measure(calls: Calls, rounds: int) -> dict[str, tuple[float, float]]:
    """The median seconds of each variant, of a clock and of CPU time."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            call()
            for _ in range(_ROW - 1):
                wall, cpu = time.perf_counter(), time.process_time()
                call()
                times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {
        name: (statistics.median(wall for wall, _ in seconds), statistics.median(cpu for _, cpu in seconds))
        for name, seconds in times.items()
    }


def _calls(arguments: argparse.Namespace, size: tuple[int, int], folder: Path) -> Calls:
    input_size, compiled = InputSize(size), not arguments.no_compile
    if not arguments.torchvision:
        detector, pixels = random_detector(arguments.backbone), images.generate(input_size, 1)[0]
        return variants(detector, _CLASSES, input_size, lambda: pixels, folder, compiled=compiled)
    if arguments.backbone not in MODELS:
        sys.exit(f"--torchvision: for {' and '.join(MODELS)} only")
    detector, model = MODELS[arguments.backbone](*size)
    image = folder / photographs(folder).images[0].file_name
    ours = variants(detector.eval(), CLASSES, input_size, lambda: read_image(image), folder, compiled=compiled)
    return ours | torchvision_variants(model, image, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("backbone")
    parser.add_argument("size", type=int, nargs=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--torchvision", action="store_true", help="from an image file, with torchvision's FCOS")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        size = (min(arguments.size), max(arguments.size))
        calls = _calls(arguments, size, Path(folder))
        found = measure(calls, arguments.rounds)
    first = found["fused"][1]
    print(f"{arguments.backbone}, {size[0]}×{size[1]}, {torch.get_num_threads()} threads")
    for name, (wall, cpu) in found.items():
        print(f"| {name} | {1 / wall:.2f} | {1000 * cpu:.1f} | {first / cpu:.2f} |")


if __name__ == "__main__":
    main()
