"""Resizing in a graph of ONNX gives the pixels that the pipeline gives."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fcos.config import InputSize
from fcos.inference import fit

Resize = Callable[[NDArray[np.uint8], tuple[int, int]], NDArray[np.uint8]]


def resizer(*, letterbox: bool) -> Resize:
    import onnx_ir as ir
    import onnxruntime
    import onnxscript

    from pipeline.export import resizing

    graph = ir.Graph([], [], nodes=[], opset_imports={"": 18}, name="resizing")
    builder = onnxscript.GraphBuilder(graph)
    images = builder.input("images", ir.DataType.UINT8, ["B", "H", "W", 3])
    size = builder.input("size", ir.DataType.DOUBLE, [2])
    stored = builder.op.Shape(images, start=1, end=3)
    resized = resizing.resized_size(
        builder.op, builder.op.Cast(stored, to=ir.DataType.DOUBLE), size, letterbox=letterbox
    )
    builder.add_output(resizing.resize(builder.op, images, stored, resized), "resized")
    content = ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda images, size: session.run(None, {"images": images, "size": np.array(size, float)})[0]  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def resizers() -> dict[bool, Resize]:
    return {letterbox: resizer(letterbox=letterbox) for letterbox in (False, True)}


sides = st.integers(1, 90)


@given(height=sides, width=sides, size=st.tuples(sides, sides), letterbox=st.booleans(), seed=st.integers(0, 99))
def test_pixels_are_equal(
    resizers: dict[bool, Resize], height: int, width: int, size: tuple[int, int], letterbox: bool, seed: int
) -> None:
    rule = InputSize(size if letterbox else (min(size), max(size)), letterbox)
    images = np.random.default_rng(seed).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    expected = torch.stack([fit(torch.from_numpy(image).permute(2, 0, 1), rule) for image in images])
    assert np.array_equal(resizers[letterbox](images, rule.size), expected.permute(0, 2, 3, 1).numpy())


@pytest.mark.parametrize("shape", [(1, 1200, 40, 3), (1, 30, 2500, 3), (1, 7, 5, 3)])
def test_large_factors(resizers: dict[bool, Resize], shape: tuple[int, ...]) -> None:
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    expected = fit(torch.from_numpy(images[0]).permute(2, 0, 1), InputSize((64, 64)))
    assert np.array_equal(resizers[False](images, (64, 64))[0], expected.permute(1, 2, 0).numpy())
