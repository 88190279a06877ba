"""`fcos summary` against torchvision's published numbers, numbers computed by hand, and a slow reference."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from fcos.config import PAPER
from fcos.criterion import Criterion
from fcos.detector import build
from fcos.structures import make_targets
from pipeline import params
from pipeline.analysis import assignment, best_possible_recall, summary
from pipeline.analysis.training_memory import training_memory
from pipeline.cli import main
from pipeline.data import annotations
from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image
from pipeline.inference import network_costs
from pipeline.inference.network_costs import meta_detector
from pipeline.params import Params
from tests.support.parameters import paper_defaults


@pytest.fixture(scope="module")
def values() -> Params:
    return paper_defaults()


def test_the_detector_of_the_paper_costs_what_torchvision_publishes() -> None:
    """fcos_resnet50_fpn: 32 269 600 parameters (batch norm frozen), 128.207 G multiply-adds at 800×800, 91 classes."""
    costs = network_costs.network_costs(meta_detector(PAPER, 91), (800, 800))
    assert costs.parameters == pytest.approx(32_269_600, rel=0.003)
    assert costs.flops / 2 == pytest.approx(128.207e9, rel=0.003)
    assert costs.locations == 100**2 + 50**2 + 25**2 + 13**2 + 7**2
    assert [layer.name for layer in costs.layers][:7] == [
        "backbone stem",
        "backbone C2",
        "backbone C3",
        "backbone C4",
        "backbone C5",
        "neck",
        "head class tower",
    ]


def test_a_layer_by_hand(values: Params) -> None:
    """tiny's stem: a 3×3 convolution, 3 to 24 channels at half the size, and its batch norm."""
    costs = network_costs.network_costs(meta_detector(values.model, 10), (64, 64))
    stem = costs.layers[0]
    assert stem.name == "backbone stem"
    assert stem.output == "24 × 32×32"
    assert stem.parameters == 3 * 24 * 9 + 2 * 24
    assert stem.flops == 2 * (32 * 32 * 3 * 24 * 9)


def test_layers_add_up(values: Params) -> None:
    detector = meta_detector(values.model, 10)
    costs = network_costs.network_costs(detector, (64, 96))
    assert costs.flops == sum(layer.flops for layer in costs.layers)
    assert costs.parameters == sum(layer.parameters for layer in costs.layers) + detector.head.scales.numel()
    assert costs.input_size == (64, 96)
    assert costs.locations == 8 * 12 + 4 * 6 + 2 * 3


def test_the_input_is_padded(values: Params) -> None:
    assert network_costs.network_costs(meta_detector(values.model, 3), (65, 90)).input_size == (96, 96)


def test_weights_gradients_and_state(values: Params) -> None:
    detector = meta_detector(values.model, 10)
    learned = sum(p.numel() for p in detector.parameters() if p.requires_grad) * 4
    with_adam = replace(values, train=replace(values.train, optimizer="adamw"))
    adam = training_memory(with_adam, detector, (64, 64), 2)
    assert adam.gradients == learned
    assert adam.optimizer == pytest.approx(2 * learned, rel=1e-3)  # two moments, and a count of steps each
    assert adam.ema == adam.weights > learned
    muon = training_memory(values, meta_detector(values.model, 10), (64, 64), 2)
    assert learned < muon.optimizer < 1.1 * learned  # one moment of most weights
    plain = replace(values, train=replace(values.train, optimizer="sgd", momentum=0.0, ema_decay=0.0))
    sgd = training_memory(plain, meta_detector(values.model, 10), (64, 64), 2)
    assert (sgd.optimizer, sgd.ema) == (0, 0)
    assert sgd.total == sgd.weights + sgd.gradients + sgd.activations


def test_activations_equal_those_of_a_real_step(values: Params) -> None:
    """The storages that autograd saves on the CPU. Only the algorithms of convolutions may differ a little."""
    torch.manual_seed(0)
    detector = build(values.model, 10).train()
    weights = {tensor.data_ptr() for tensor in [*detector.parameters(), *detector.buffers()]}
    saved: dict[int, torch.Tensor] = {}

    def record(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        outputs = detector(detector.prepare([torch.zeros(3, 64, 64, dtype=torch.uint8)] * 2))
        truth = make_targets([torch.tensor([[0.0, 0, 40, 40]])] * 2, [torch.zeros(1, dtype=torch.int64)] * 2)
        loss = Criterion(values.model, box_loss=values.loss)(outputs, truth).total
    expected = sum(tensor.untyped_storage().nbytes() for address, tensor in saved.items() if address not in weights)
    assert loss.isfinite()
    assert training_memory(values, meta_detector(values.model, 10), (64, 64), 2).activations == pytest.approx(
        expected, rel=0.02
    )


def test_activations_grow_with_the_batch(values: Params) -> None:
    one, four = (training_memory(values, meta_detector(values.model, 10), (64, 64), n).activations for n in (1, 4))
    assert four == pytest.approx(4 * one, rel=0.02)


def split_of(images: list[tuple[int, int]], boxes: list[list[tuple[float, float, float, float]]]) -> AnnotationSet:
    """Images of these widths and heights with boxes (x, y, width, height)."""
    return AnnotationSet(
        (Category(1, "dog"),),
        tuple(Image(number, f"{number}.png", *size) for number, size in enumerate(images)),
        tuple(
            Annotation(100 * number + index, number, 1, box, box[2] * box[3])
            for number, image_boxes in enumerate(boxes)
            for index, box in enumerate(image_boxes)
        ),
    )


def with_size(values: Params, size: tuple[int, int]) -> Params:
    return replace(values, train=replace(values.train, size=size))


def test_recall_by_hand(values: Params) -> None:
    """As in test_explain: the first box gets nine locations of P3; the second, which lies between locations, none."""
    split = split_of([(64, 64), (64, 64)], [[(0, 0, 40, 40), (5, 5, 6, 6)], []])
    recall = best_possible_recall.best_possible_recall(with_size(values, (64, 64)), split)
    assert recall.objects == {"all": 2, "small": 1, "medium": 1, "large": 0}
    assert recall.assigned == {"all": 1, "small": 0, "medium": 1, "large": 0}
    assert recall.levels == {"P3": 1, "P4": 0, "P5": 0}
    assert (recall.positives, recall.images) == (9, 2)


def test_size_limits_equal_those_of_coco(values: Params) -> None:
    split = split_of([(256, 256)], [[(0, 0, 32, 32), (40, 0, 33, 32), (0, 100, 96, 96), (100, 100, 97, 96)]])
    assert best_possible_recall.best_possible_recall(values, split).objects == {
        "all": 4,
        "small": 1,
        "medium": 2,
        "large": 1,
    }


def test_recall_equals_the_assignment_of_single_images(values: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many images of all shapes in batches, against `assign_image` for one image at a time."""
    random = torch.Generator().manual_seed(0)
    images = [(int(w), int(h)) for w, h in torch.randint(40, 400, (25, 2), generator=random)]
    boxes = []
    for place, (width, height) in enumerate(images):
        corners = torch.rand(place % 7, 2, 2, generator=random).sort(dim=1).values * torch.tensor([width, height])
        boxes.append([(x1, y1, x2 - x1, y2 - y1) for (x1, y1), (x2, y2) in corners.tolist() if x2 > x1 and y2 > y1])
    split, params_ = split_of(images, boxes), with_size(values, (128, 192))
    positives, levels, learned = 0, [0, 0, 0], 0
    for image, objects in zip(split.images, split.by_image().values(), strict=True):
        size = params_.train.input_size.resized(image.height, image.width)
        factors = torch.tensor([size[1] / image.width, size[0] / image.height] * 2)
        xywh = torch.tensor([annotation.bbox for annotation in objects]).view(-1, 4)
        scaled = torch.cat([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], dim=1) * factors
        outputs = assignment.zero_outputs(params_.model, assignment.input_locations(params_.model, *size), 1)
        shown = assignment.assign_image(
            params_.model, outputs, objects, scaled, torch.zeros(len(objects), dtype=torch.int64)
        )
        positives += int(shown.positive.sum())
        learned += sum(one.unassigned_reason is None for one in shown.objects)
        levels = [total + sum(one.positives[n] > 0 for one in shown.objects) for n, total in enumerate(levels)]
    monkeypatch.setattr(best_possible_recall, "_MAX_PAIRS", 20_000)  # several batches of several images
    recall = best_possible_recall.best_possible_recall(params_, split)
    assert recall.positives == positives > 0
    assert recall.assigned["all"] == learned > 0
    assert list(recall.levels.values()) == levels


def test_difficult_objects_count_only_if_they_are_trained(values: Params) -> None:
    split = AnnotationSet(
        (Category(1, "dog"),),
        (Image(1, "a.png", 64, 64),),
        (Annotation(1, 1, 1, (0, 0, 40, 40), 1600, difficult=1), Annotation(2, 1, 1, (0, 0, 60, 60), 9, iscrowd=1)),
    )
    assert best_possible_recall.best_possible_recall(values, split).objects["all"] == 0
    assert (
        best_possible_recall.best_possible_recall(
            replace(values, train=replace(values.train, include_difficult=True)), split
        ).objects["all"]
        == 1
    )


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["summary", *arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.usefixtures("home")
def test_without_data_classes_are_assumed() -> None:
    code, out, err = run("-S", "train.size=[64,96]", "--batch", "2")
    assert code == 0
    assert "80 classes; one image of 64×96 pixels" in out
    assert "training step, batch of 2, float32" in out
    assert "best possible recall" not in out
    assert len(err.splitlines()) == 1
    assert "run `dvc repro convert` first" in err


def test_with_data(home: Path, setting: Callable[..., None]) -> None:
    setting(**{"train.size": [64, 64]})
    split = split_of([(64, 64)], [[(0, 0, 40, 40), (5, 5, 6, 6)]])
    annotations.write(split, home / "data/unified/train.json")
    code, out, err = run()
    assert (code, err) == (0, "")
    assert "1 classes" not in out
    assert "50.00%" in out
    record = json.loads(run("--json")[1])
    assert record["classes"] == 1
    assert record["recall"]["assigned"]["all"] == 1
    assert record["memory"]["batch_size"] == 4
    assert record["network"]["flops"] == sum(layer["flops"] for layer in record["network"]["layers"])


def test_an_assigner_that_needs_predictions_has_no_best_possible_recall(
    home: Path, setting: Callable[..., None]
) -> None:
    annotations.write(split_of([(64, 64)], [[(0, 0, 40, 40)]]), home / "data/unified/train.json")
    setting(**{"model.assigner": "task_aligned"})
    assert summary.read_split(params.load(), home)[1] == (
        "no best possible recall: model.assigner task_aligned needs the predictions of a detector"
    )
