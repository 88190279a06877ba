"""Summaries against torchvision's published figures, numbers worked out by hand, and slow but obvious counts."""

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
from pipeline.analysis import assignment, summary
from pipeline.cli import main
from pipeline.data import annotations
from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image
from pipeline.params import Params
from tests.support.paths import PROJECT


@pytest.fixture(scope="module")
def ours() -> Params:
    return params.load(PROJECT / "params.yaml")


def test_the_papers_detector_costs_what_torchvision_publishes() -> None:
    """fcos_resnet50_fpn: 32 269 600 parameters (batch norm frozen), 128.207 G multiply-adds at 800×800, 91 classes."""
    made = summary.network(summary.blank(PAPER, 91), (800, 800))
    assert made.parameters == pytest.approx(32_269_600, rel=0.003)
    assert made.flops / 2 == pytest.approx(128.207e9, rel=0.003)
    assert made.locations == 100**2 + 50**2 + 25**2 + 13**2 + 7**2
    assert [row.name for row in made.rows][:7] == [
        "backbone stem",
        "backbone C2",
        "backbone C3",
        "backbone C4",
        "backbone C5",
        "neck",
        "head class tower",
    ]


def test_a_part_by_hand(ours: Params) -> None:
    """tiny's stem: a 3×3 convolution, 3 to 24 channels at half the size, and its batch norm."""
    made = summary.network(summary.blank(ours.model, 10), (64, 64))
    stem = made.rows[0]
    assert stem.name == "backbone stem"
    assert stem.output == "24 × 32×32"
    assert stem.parameters == 3 * 24 * 9 + 2 * 24
    assert stem.flops == 2 * (32 * 32 * 3 * 24 * 9)


def test_rows_add_up(ours: Params) -> None:
    detector = summary.blank(ours.model, 10)
    made = summary.network(detector, (64, 96))
    assert made.flops == sum(row.flops for row in made.rows)
    assert made.parameters == sum(row.parameters for row in made.rows) + detector.head.scales.numel()
    assert made.input == (64, 96)
    assert made.locations == 8 * 12 + 4 * 6 + 2 * 3


def test_the_input_is_padded(ours: Params) -> None:
    assert summary.network(summary.blank(ours.model, 3), (65, 90)).input == (96, 96)


def test_weights_gradients_and_state(ours: Params) -> None:
    detector = summary.blank(ours.model, 10)
    learned = sum(p.numel() for p in detector.parameters() if p.requires_grad) * 4
    adam = summary.memory(ours, detector, (64, 64), 2)
    assert adam.gradients == learned
    assert adam.optimizer == pytest.approx(2 * learned, rel=1e-3)  # two moments, and a count of steps each
    assert adam.average == adam.weights > learned
    plain = replace(ours, train=replace(ours.train, optimizer="sgd", momentum=0.0, ema_decay=0.0))
    sgd = summary.memory(plain, summary.blank(ours.model, 10), (64, 64), 2)
    assert (sgd.optimizer, sgd.average) == (0, 0)
    assert sgd.total == sgd.weights + sgd.gradients + sgd.activations


def test_activations_are_those_of_a_real_step(ours: Params) -> None:
    """What autograd keeps on the CPU, storage by storage; only how convolutions are computed may differ a little."""
    torch.manual_seed(0)
    detector = build(ours.model, 10).train()
    own = {tensor.data_ptr() for tensor in [*detector.parameters(), *detector.buffers()]}
    kept: dict[int, torch.Tensor] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        outputs = detector(detector.prepare([torch.zeros(3, 64, 64, dtype=torch.uint8)] * 2))
        truth = make_targets([torch.tensor([[0.0, 0, 40, 40]])] * 2, [torch.zeros(1, dtype=torch.int64)] * 2)
        loss = Criterion(ours.model, box_loss=ours.loss)(outputs, truth).total
    expected = sum(tensor.untyped_storage().nbytes() for at, tensor in kept.items() if at not in own)
    assert loss.isfinite()
    assert summary.memory(ours, summary.blank(ours.model, 10), (64, 64), 2).activations == pytest.approx(
        expected, rel=0.02
    )


def test_activations_grow_with_the_batch(ours: Params) -> None:
    one, four = (summary.memory(ours, summary.blank(ours.model, 10), (64, 64), n).activations for n in (1, 4))
    assert four == pytest.approx(4 * one, rel=0.02)


def split_of(images: list[tuple[int, int]], boxes: list[list[tuple[float, float, float, float]]]) -> AnnotationSet:
    """Images of these widths and heights with these boxes (x, y, width, height)."""
    return AnnotationSet(
        (Category(1, "dog"),),
        tuple(Image(number, f"{number}.png", *size) for number, size in enumerate(images)),
        tuple(
            Annotation(100 * number + place, number, 1, box, box[2] * box[3])
            for number, own in enumerate(boxes)
            for place, box in enumerate(own)
        ),
    )


def at(ours: Params, size: tuple[int, int]) -> Params:
    return replace(ours, train=replace(ours.train, size=size))


def test_recall_by_hand(ours: Params) -> None:
    """As in test_explain: nine locations of P3 learn the first box, none the second, which lies between them."""
    split = split_of([(64, 64), (64, 64)], [[(0, 0, 40, 40), (5, 5, 6, 6)], []])
    found = summary.recall(at(ours, (64, 64)), split)
    assert found.objects == {"all": 2, "small": 1, "medium": 1, "large": 0}
    assert found.learned == {"all": 1, "small": 0, "medium": 1, "large": 0}
    assert found.levels == {"P3": 1, "P4": 0, "P5": 0}
    assert (found.positives, found.images) == (9, 2)


def test_sizes_end_where_cocos_do(ours: Params) -> None:
    split = split_of([(256, 256)], [[(0, 0, 32, 32), (40, 0, 33, 32), (0, 100, 96, 96), (100, 100, 97, 96)]])
    assert summary.recall(ours, split).objects == {"all": 4, "small": 1, "medium": 2, "large": 1}


def test_recall_counts_what_explain_shows(ours: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many images of all shapes in batches, against one image at a time."""
    random = torch.Generator().manual_seed(0)
    images = [(int(w), int(h)) for w, h in torch.randint(40, 400, (25, 2), generator=random)]
    boxes = []
    for place, (width, height) in enumerate(images):
        corners = torch.rand(place % 7, 2, 2, generator=random).sort(dim=1).values * torch.tensor([width, height])
        boxes.append([(x1, y1, x2 - x1, y2 - y1) for (x1, y1), (x2, y2) in corners.tolist() if x2 > x1 and y2 > y1])
    split, how = split_of(images, boxes), at(ours, (128, 192))
    positives, levels, learned = 0, [0, 0, 0], 0
    for image, own in zip(split.images, split.by_image().values(), strict=True):
        size = how.train.input_size.resized(image.height, image.width)
        factors = torch.tensor([size[1] / image.width, size[0] / image.height] * 2)
        sides = torch.tensor([one.bbox for one in own]).view(-1, 4)
        scaled = torch.cat([sides[:, :2], sides[:, :2] + sides[:, 2:]], dim=1) * factors
        outputs = assignment.unpredicted(how.model, assignment.places(how.model, *size), 1)
        shown = assignment.explain(how.model, outputs, own, scaled, torch.zeros(len(own), dtype=torch.int64))
        positives += int(shown.positive.sum())
        learned += sum(one.reason is None for one in shown.objects)
        levels = [total + sum(one.positives[n] > 0 for one in shown.objects) for n, total in enumerate(levels)]
    monkeypatch.setattr(summary, "_TOGETHER", 20_000)  # several images a batch, several batches
    found = summary.recall(how, split)
    assert found.positives == positives > 0
    assert found.learned["all"] == learned > 0
    assert list(found.levels.values()) == levels


def test_difficult_objects_count_where_they_are_learned(ours: Params) -> None:
    split = AnnotationSet(
        (Category(1, "dog"),),
        (Image(1, "a.png", 64, 64),),
        (Annotation(1, 1, 1, (0, 0, 40, 40), 1600, difficult=1), Annotation(2, 1, 1, (0, 0, 60, 60), 9, iscrowd=1)),
    )
    assert summary.recall(ours, split).objects["all"] == 0
    assert summary.recall(replace(ours, train=replace(ours.train, include_difficult=True)), split).objects["all"] == 1


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["summary", *arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.usefixtures("home")
def test_without_data_it_says_so_and_goes_on() -> None:
    code, out, err = run("--size", "64", "96", "--batch", "2")
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
    told = json.loads(run("--json")[1])
    assert told["classes"] == 1
    assert told["recall"]["learned"]["all"] == 1
    assert told["memory"]["batch"] == 8
    assert told["network"]["flops"] == sum(row["flops"] for row in told["network"]["rows"])


def test_an_assigner_of_predictions_has_no_recall_of_its_own(home: Path, setting: Callable[..., None]) -> None:
    annotations.write(split_of([(64, 64)], [[(0, 0, 40, 40)]]), home / "data/unified/train.json")
    setting(**{"model.assigner": "task_aligned"})
    assert summary.data(params.load(), home)[1] == (
        "no best possible recall: model.assigner task_aligned assigns by what a detector predicts"
    )
