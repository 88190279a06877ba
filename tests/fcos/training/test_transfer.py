"""Weights of another detector: which tensors and rows are taken, and which keep their initial values."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from fcos.config import ModelConfig
from fcos.detector import Detector, build
from fcos.training.transfer import Source, Transfer, transfer
from tests.support.tiny_trainer import TINY

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FILE_CLASSES = ("cat", "dog", "cow")
LOGITS = ("head.class_logits.weight", "head.class_logits.bias")


def random_detector(config: ModelConfig, classes: int, seed: int) -> Detector:
    """A detector without a tensor that is constant, so that each copied value is recognized."""
    torch.manual_seed(seed)
    detector = build(config, classes)
    for name, tensor in detector.state_dict().items():
        if tensor.is_floating_point():
            tensor.uniform_(0.1, 1.0)
        else:
            tensor.fill_(seed)
        assert name
    return detector


def source_of(detector: Detector, **changes: Any) -> Source:
    rows = {name: row for row, name in enumerate(FILE_CLASSES)}
    tensors = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    return replace(Source(tensors, detector.config, rows, MEAN, STD), **changes)


def start(config: ModelConfig, classes: tuple[str, ...], source: Source) -> tuple[Detector, Transfer, dict[str, Any]]:
    """A detector that has taken the source's weights, what was taken, and its initial values."""
    torch.manual_seed(5)
    detector = build(config, len(classes))
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    return detector, transfer(detector, classes, source), before


def test_the_same_architecture_and_classes_take_everything() -> None:
    source = source_of(random_detector(TINY, 3, seed=1))
    detector, taken, _ = start(TINY, FILE_CLASSES, source)
    state = detector.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in source.tensors.items())
    counters = sum(name.endswith("num_batches_tracked") for name in state)
    assert counters == 8
    assert str(taken) == f"took {len(state) - 8} of {len(state) - 8} tensors; new: none"


def test_rows_of_classes_are_matched_by_name_and_others_keep_their_initial_values() -> None:
    source = source_of(random_detector(TINY, 3, seed=1))
    detector, taken, before = start(TINY, ("horse", "cow", "Cat", "cat"), source)
    for name in LOGITS:
        tensor = detector.state_dict()[name]
        assert torch.equal(tensor[1], source.tensors[name][2])  # cow
        assert torch.equal(tensor[3], source.tensors[name][0])  # cat
        assert torch.equal(tensor[[0, 2]], before[name][[0, 2]])
    assert taken.new == {}
    assert taken.new_classes == ["horse", "Cat"]
    assert taken.taken == taken.total - 2
    assert str(taken).endswith("; new: head.class_logits of 2 classes not in the file (horse, Cat)")


def test_more_classes_than_a_line_names() -> None:
    taken = start(TINY, ("a", "b", "c", "d", "e"), source_of(random_detector(TINY, 3, seed=1)))[1]
    assert str(taken).endswith("new: head.class_logits of 5 classes not in the file (a, b, c and 2 more)")


def test_more_levels_keep_the_file_s_levels() -> None:
    """P6 and P7 are new, with their convolutions and scales."""
    narrow, wide = replace(TINY, levels=(3, 4, 5)), replace(TINY, levels=(3, 4, 5, 6, 7))
    source = source_of(random_detector(narrow, 3, seed=1))
    detector, taken, before = start(wide, FILE_CLASSES, source)
    state = detector.state_dict()
    assert state["head.scales"].tolist() == [*source.tensors["head.scales"].tolist(), 1.0, 1.0]
    new = {name for name in state if name.startswith("neck.extra")}
    assert len(new) == 4
    assert all(torch.equal(state[name], before[name]) for name in new)
    same = set(state) - new - {"head.scales"}
    assert all(torch.equal(state[name], source.tensors[name]) for name in same)
    assert taken.new == {"neck.extra": 4, "head.scales": 1}


@pytest.mark.parametrize("neck", ["fpn", "pan", "bifpn"])
def test_fewer_levels_take_the_weights_of_their_own_level(neck: str) -> None:
    """P4 and P5 of a file with P3, P4, P5 and P6: lists of modules begin at another level."""
    whole, part = (replace(TINY, neck=neck, levels=levels) for levels in ((3, 4, 5, 6), (4, 5)))
    source = source_of(random_detector(whole, 3, seed=1))
    detector, taken, before = start(part, FILE_CLASSES, source)
    state, given = detector.state_dict(), source.tensors
    assert torch.equal(state["head.scales"], given["head.scales"][1:3])
    pairs = {
        "fpn": {"lateral.0": "lateral.1", "lateral.1": "lateral.2", "output.0": "output.1", "output.1": "output.2"},
        "pan": {
            "fpn.lateral.0": "fpn.lateral.1",
            "fpn.output.1": "fpn.output.2",
            "down.0": "down.1",
            "fuse.0": "fuse.1",
        },
        "bifpn": {
            "lateral.0": "lateral.1",
            "layers.0.top_down.0.depthwise": "layers.0.top_down.1.depthwise",
            "layers.2.bottom_up.0.depthwise": "layers.2.bottom_up.1.depthwise",
        },
    }[neck]
    for ours, theirs in pairs.items():
        assert torch.equal(state[f"neck.{ours}.weight"], given[f"neck.{theirs}.weight"]), ours
    if neck == "bifpn":  # P5 is the coarsest level here, and is fused from two maps instead of three
        assert taken.new == {"neck.layers": 3}
        new = "neck.layers.0.bottom_up.0.weights"
        assert torch.equal(state[new], before[new])
    else:
        assert taken.new == {}


def test_other_widths_and_parts_keep_their_initial_values() -> None:
    source = source_of(random_detector(TINY, 3, seed=1))
    detector, taken, before = start(replace(TINY, channels=24, tower_depth=2), FILE_CLASSES, source)
    state = detector.state_dict()
    fitting = {
        name for name, tensor in state.items() if name in source.tensors and tensor.shape == source.tensors[name].shape
    }
    assert {name.split(".")[0] for name in fitting} == {"backbone", "head"}
    assert {name for name in fitting if name.startswith("head")} == {
        *("head.scales", "head.class_logits.bias", "head.box.bias", "head.quality.bias")
    }
    for name, tensor in state.items():
        assert torch.equal(tensor, source.tensors[name] if name in fitting else before[name]), name
    assert taken.new["head.box_tower"] == 8
    assert "backbone" not in taken.new


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"box_output": "exp"}, {"head.box": 2, "head.scales": 1}),
        ({"quality": "iou"}, {"head.quality": 2}),
        ({"quality_tower": "class"}, {"head.quality": 2}),
    ],
)
def test_outputs_with_another_meaning_are_not_taken(changes: dict[str, Any], parts: dict[str, int]) -> None:
    source = source_of(random_detector(TINY, 3, seed=1))
    detector, taken, before = start(replace(TINY, **changes), FILE_CLASSES, source)
    assert taken.new == parts
    state = detector.state_dict()
    assert all(
        torch.equal(state[f"{part}.weight"], before[f"{part}.weight"]) for part in parts if part != "head.scales"
    )
    assert torch.equal(state["head.class_tower.0.weight"], source.tensors["head.class_tower.0.weight"])


def test_towers_of_the_other_kind_are_not_taken() -> None:
    """Tensors of equal names and shapes, such as `1.bias`, belong to other layers there."""
    source = source_of(random_detector(TINY, 3, seed=1))
    detector, taken, before = start(replace(TINY, tower_convolution="depthwise"), FILE_CLASSES, source)
    assert taken.new == {"head.class_tower": 5, "head.box_tower": 5}  # two convolutions, one with bias, and a norm
    state = detector.state_dict()
    assert all(torch.equal(state[name], before[name]) for name in state if "tower" in name)


def test_the_file_s_normalization_comes_with_its_whole_backbone() -> None:
    other = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    source = source_of(random_detector(TINY, 3, seed=1), mean=other[0], std=other[1])
    detector, taken, _ = start(TINY, FILE_CLASSES, source)
    assert (detector.backbone.mean, detector.backbone.std) == other
    assert detector.prepare([torch.zeros(3, 32, 32, dtype=torch.uint8)]).unique().tolist() == [-2.0]
    assert str(taken).endswith("; images are normalized as for the file")
    tensors = {name: tensor for name, tensor in source.tensors.items() if name != "backbone.parts.0.0.weight"}
    detector, taken, _ = start(TINY, FILE_CLASSES, replace(source, tensors=tensors))
    assert (detector.backbone.mean, detector.backbone.std) == (MEAN, STD)
    assert str(taken).endswith("tensors; new: backbone (1 tensor)")


def test_frozen_batch_norm_and_the_trained_one_take_from_each_other() -> None:
    frozen = replace(TINY, batch_norm="frozen")
    for file, ours in ((frozen, TINY), (TINY, frozen)):
        source = source_of(random_detector(file, 3, seed=1))
        detector, taken, _ = start(ours, FILE_CLASSES, source)
        assert taken.taken == taken.total
        assert torch.equal(
            detector.state_dict()["backbone.parts.0.1.running_var"], source.tensors["backbone.parts.0.1.running_var"]
        )


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("head.box.weight", float("nan"), "head.box.weight holds NaN or infinite numbers"),
        ("head.class_logits.bias", float("inf"), "head.class_logits.bias holds NaN or infinite numbers"),
        ("head.box.bias", None, "head.box.bias holds torch.int64 numbers instead of floats"),
    ],
)
def test_numbers_that_are_no_weights_are_refused(name: str, value: float | None, problem: str) -> None:
    source = source_of(random_detector(TINY, 3, seed=1))
    tensor = source.tensors[name]
    broken = tensor.long() if value is None else tensor.index_fill(0, torch.tensor([0]), value)
    with pytest.raises(ValueError, match=f"^{problem}$"):
        start(TINY, FILE_CLASSES, replace(source, tensors={**source.tensors, name: broken}))


def test_a_file_of_which_nothing_fits_is_refused() -> None:
    source = source_of(random_detector(TINY, 3, seed=1), tensors={"head.box.weight": torch.ones(1)})
    with pytest.raises(ValueError, match=r"^no tensor fits by name and shape"):
        start(TINY, FILE_CLASSES, source)
