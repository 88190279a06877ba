"""Post-processing in a graph of ONNX gives the detections that `Postprocess` gives."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fcos.config import PAPER, ModelConfig
from fcos.locations import make_locations
from fcos.postprocess import Detections, Postprocess
from fcos.structures import Outputs

PADDED = (64, 96)
RESIZED = (50, 90)
STORED = (100, 45)
CONFIG = replace(PAPER, levels=(3, 4, 5, 6))


def random_outputs(config: ModelConfig, num_classes: int) -> Outputs:
    generator = torch.Generator().manual_seed(0)
    shapes = [(-(-PADDED[0] // stride), -(-PADDED[1] // stride)) for stride in config.strides]
    locations = make_locations(shapes, config.strides, mode=config.locations)
    total = sum(locations.counts)
    quality = None if config.quality == "none" else torch.randn(2, total, generator=generator)
    logits = torch.randn(2, total, num_classes, generator=generator) * 2 - 2
    # Some boxes have no area inside the image.
    ltrb = (torch.randn(2, total, 4, generator=generator) + 1).relu() * locations.strides[:, None]
    return Outputs(logits, ltrb, quality, locations)


def run_graph(outputs: Outputs, config: ModelConfig, postprocess: Postprocess) -> list[Any]:
    import onnx_ir as ir
    import onnxruntime
    import onnxscript

    from pipeline.export import onnx_graph, postprocessing

    graph = ir.Graph([], [], nodes=[], opset_imports={"": 18}, name="postprocessing")
    builder = onnxscript.GraphBuilder(graph)
    arrays = {"logits": outputs.logits, "ltrb": outputs.ltrb, "quality": outputs.quality}
    feed = {name: tensor.numpy() for name, tensor in arrays.items() if tensor is not None}
    inputs = {name: builder.input(name, ir.DataType.FLOAT, array.shape) for name, array in feed.items()}
    for name, value in {"padded": PADDED, "resized": RESIZED, "stored": STORED}.items():
        inputs[name], feed[name] = builder.input(name, ir.DataType.INT64, [2]), np.array(value)
    level_sizes, locations = postprocessing.pyramid(builder.op, inputs["padded"], config)
    network = postprocessing.Network(
        logits=inputs["logits"],
        ltrb=inputs["ltrb"],
        quality=inputs.get("quality"),
        locations=locations,
        level_sizes=level_sizes,
        levels=len(config.levels),
        num_classes=outputs.logits.shape[2],
    )
    settings = onnx_graph.settings(builder, postprocess)
    for value in postprocessing.detect(builder.op, network, inputs["resized"], inputs["stored"], settings):
        builder.add_output(value, None)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    content = ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString()
    return onnxruntime.InferenceSession(content, options).run(None, feed)  # type: ignore[no-any-return]


def expected_detections(outputs: Outputs, postprocess: Postprocess) -> list[Detections]:
    ratio = torch.tensor([STORED[1] / RESIZED[1], STORED[0] / RESIZED[0]] * 2)
    return [replace(found, boxes=found.boxes * ratio) for found in postprocess(outputs, [RESIZED] * 2)]


def check(found: Sequence[Any], expected: Sequence[Detections]) -> None:
    boxes, scores, labels, counts = found
    assert counts.tolist() == [len(detections) for detections in expected]
    for index, detections in enumerate(expected):
        count = len(detections)
        assert labels[index, :count].tolist() == detections.labels.tolist()
        np.testing.assert_allclose(scores[index, :count], detections.scores, atol=1e-6)
        np.testing.assert_allclose(boxes[index, :count], detections.boxes, atol=1e-4)
        assert not boxes[index, count:].any()
        assert not scores[index, count:].any()


@pytest.mark.parametrize(
    ("config", "num_classes", "postprocess"),
    [
        (CONFIG, 3, Postprocess()),
        (replace(CONFIG, quality="none"), 3, Postprocess(nms_iou_threshold=0.3)),
        (CONFIG, 1, Postprocess(score_mode="combined", score_threshold=0.3)),
        (replace(CONFIG, locations="torchvision"), 2, Postprocess(pre_nms_topk=7, max_detections=5)),
        (replace(CONFIG, locations="corner", levels=(4,)), 2, Postprocess()),
        (CONFIG, 3, Postprocess(score_threshold=0.9999)),
    ],
    ids=["defaults", "no quality", "combined score", "small limits", "one level", "nothing"],
)
def test_detections_are_equal(config: ModelConfig, num_classes: int, postprocess: Postprocess) -> None:
    outputs = random_outputs(config, num_classes)
    expected = expected_detections(outputs, postprocess)
    assert (sum(map(len, expected)) > 5) == (postprocess.score_threshold < 0.9)
    check(run_graph(outputs, config, postprocess), expected)


def test_of_equal_scores_the_first_location_is_kept() -> None:
    outputs = random_outputs(CONFIG, 2)
    outputs = replace(outputs, logits=torch.full_like(outputs.logits, 1.0), quality=torch.zeros_like(outputs.quality))
    postprocess = Postprocess(max_detections=40, pre_nms_topk=50)
    check(run_graph(outputs, CONFIG, postprocess), expected_detections(outputs, postprocess))
