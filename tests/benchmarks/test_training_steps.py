"""The training measurements on small images, on a CPU."""

from collections.abc import Iterator, Sequence

import pytest
import torch

from benchmarks import gpu, training
from fcos.training.batch import Batch


@pytest.mark.parametrize("backbone", training.MODELS)
def test_both_sides_have_the_same_losses(backbone: str) -> None:
    ours, theirs = training.sides(images=2, height=88, width=128, backbone=backbone)
    first = ours()
    torch.testing.assert_close(first, theirs(), rtol=1e-4, atol=1e-5)
    training.check_same(ours, theirs)
    assert ours() < first


def test_the_training_view_has_the_same_losses() -> None:
    training.check_same(*training.view_sides(images=2, height=96, width=128))


def test_the_trainer_of_the_gpu_measurement() -> None:
    batch = gpu.make_batch(1, 64, 96)
    steps: list[int] = []

    def batches(_epoch: int, _first: int) -> Iterator[Sequence[Batch]]:
        for step in range(2):
            steps.append(step)
            yield [batch]

    history = gpu.make_trainer(batches, device=torch.device("cpu"), amp="float32").fit()
    assert steps == [0, 1]
    assert len(history.steps) == 2
    assert history.steps[0]["positives"] > 0
