"""What the measurements of training run, in small, on a CPU."""

from collections.abc import Iterator, Sequence

import torch

from benchmarks import gpu, training
from fcos.training.batch import Batch


def test_both_sides_learn_the_same() -> None:
    ours, theirs = training.sides(images=2, height=96, width=128)
    first = ours()
    torch.testing.assert_close(first, theirs(), rtol=1e-4, atol=1e-5)
    training.check_same(ours, theirs)
    assert ours() < first


def test_the_whole_trainer_of_the_gpus_check() -> None:
    part = gpu.batch(1, 64, 96)
    taken: list[int] = []

    def batches(_epoch: int, _first: int) -> Iterator[Sequence[Batch]]:
        for step in range(2):
            taken.append(step)
            yield [part]

    history = gpu.trainer(batches, device=torch.device("cpu"), amp="float32").fit()
    assert taken == [0, 1]
    assert len(history.steps) == 2
    assert history.steps[0]["positives"] > 0
