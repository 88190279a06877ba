"""CPU time of resizing inside an ONNX file, run by ONNX Runtime, beside torch's.

    python -m benchmarks.export_resizing

Each image is resized in turn by both on one thread, and the lowest of several times is printed. The pixels are equal.
"""

import time
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import onnxruntime
import onnxscript
import torch

from fcos.config import InputSize
from fcos.inference import fit
from pipeline.export import resizing

_ROUNDS = 5
_CASES = (
    ((3000, 4000), (256, 256)),
    ((3000, 4000), (640, 1024)),
    ((1080, 1920), (640, 1024)),
    ((480, 640), (256, 256)),
    ((500, 375), (640, 1024)),
)  # height and width of the image, and the size of the detector's input


def session() -> onnxruntime.InferenceSession:
    """The part of an exported detector that resizes."""
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 18}, name="resizing")
    builder = onnxscript.GraphBuilder(graph)
    images = builder.input("images", ir.DataType.UINT8, ["B", "H", "W", 3])
    size = builder.input("size", ir.DataType.DOUBLE, [2])
    stored = builder.op.Shape(images, start=1, end=3)
    height_and_width = builder.op.Cast(stored, to=ir.DataType.DOUBLE)
    resized = resizing.resized_size(builder.op, height_and_width, size, letterbox=False)
    builder.add_output(resizing.resize(builder.op, images, stored, resized), "resized")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    content = ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def milliseconds(call: Callable[[], object]) -> float:
    """The lowest CPU time of a call."""
    times = []
    for _ in range(_ROUNDS):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return 1000 * min(times)


def main() -> None:
    torch.set_num_threads(1)
    runtime, rng = session(), np.random.default_rng(0)
    print("| image | input size | ONNX Runtime, CPU ms | torch, CPU ms |\n|---|---|---|---|")
    for shape, size in _CASES:
        image = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
        tensor, feed = torch.from_numpy(image).permute(2, 0, 1), {"images": image[None], "size": np.array(size, float)}
        if not np.array_equal(runtime.run(None, feed)[0][0], fit(tensor, InputSize(size)).permute(1, 2, 0).numpy()):
            raise SystemExit(f"{shape} to {size}: the pixels differ")
        ours = milliseconds(lambda feed=feed: runtime.run(None, feed))  # type: ignore[misc]
        theirs = milliseconds(lambda tensor=tensor, size=size: fit(tensor, InputSize(size)))  # type: ignore[misc]
        print(f"| {shape[1]}×{shape[0]} | {size[0]}, {size[1]} | {ours:.1f} | {theirs:.1f} |")


if __name__ == "__main__":
    main()
