"""A very small training in several processes.

A launcher starts `python -m tests.support.distributed_training FOLDER [FAILURE ...]` as each process.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch

from fcos.criterion import Criterion
from fcos.detector import Detector, batch_images, build
from fcos.structures import make_targets
from fcos.training.amp import Precision
from fcos.training.batch import Batch
from fcos.training.checkpoints import Checkpoint
from fcos.training.distributed import Processes
from fcos.training.ema import ModelEMA
from fcos.training.history import NullCallback, Row
from fcos.training.optimization import make_optimizer, make_schedule
from fcos.training.trainer import PeerFailedError, Trainer
from pipeline import process, recipes
from pipeline.errors import PipelineError
from pipeline.training import launch as launching
from tests.support.tiny_trainer import TINY

MODEL = replace(TINY, levels=(3, 4, 5), batch_norm="frozen")
STEPS = 3  # in each of two epochs


def batch(indices: list[int]) -> Batch:
    """Images of noise with one object each, except indices 3 and 5 of every 8, which have none and three."""
    images, boxes, labels = [], [], []
    for index in indices:
        generator = torch.Generator().manual_seed(index)
        count = {3: 0, 5: 3}.get(index % 8, 1)
        corners = torch.randint(0, 30, (count, 2), generator=generator).float()
        images.append(torch.randint(0, 256, (3, 64, 64), generator=generator, dtype=torch.uint8))
        boxes.append(torch.cat([corners, corners + torch.randint(10, 34, (count, 2), generator=generator)], dim=-1))
        labels.append(torch.randint(0, 3, (count,), generator=generator))
    pixels, sizes = batch_images(images)
    objects = sum(map(len, boxes))
    return Batch(pixels, sizes, make_targets(boxes, labels), [f"{index}.png" for index in indices], objects, objects)


def fail(failure: str, step: int, folder: Path, request: process.StopRequest) -> None:
    """Causes the failure of a step. A process is killed once, and then training is stopped once, in each folder."""
    if failure == "image" and step == 1:
        raise PipelineError("b.png: not an image")
    if failure != "killed and stopped" or step == 0 or (folder / f"failed-{step}").exists():
        return
    (folder / f"failed-{step}").touch()
    if step == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    os.kill(int(os.environ["FCOS_LAUNCHER"]), signal.SIGTERM)
    while not request():
        time.sleep(0.01)


def trainer(folder: Path, processes: Processes, failure: str, request: process.StopRequest) -> Trainer:
    """A trainer that fails in process 1 in the second epoch."""
    torch.manual_seed(0)
    detector = build(MODEL, 3)
    optimizer = make_optimizer(detector, name="sgd", lr=0.01, weight_decay=1e-4, momentum=0.9)
    share = 4 // processes.world_size

    def batches(epoch: int, first: int) -> Iterator[list[Batch]]:
        for step in range(first, STEPS):
            if processes.rank == 1 and epoch == 1:
                fail(failure, step, folder, request)
            start = 4 * (epoch * STEPS + step) + share * processes.rank
            yield [batch(list(range(start, start + share)))]

    def validate(_: Detector) -> Row:
        if processes.rank == 1 and failure == "validation":
            raise PipelineError("c.png: not an image")
        return {"AP": processes.broadcast_object(0.5)}

    return Trainer(
        detector=detector,
        criterion=Criterion(MODEL, box_loss="giou", mean_over_processes=processes.mean, processes=processes.world_size),
        optimizer=optimizer,
        schedule=make_schedule(optimizer, name="cosine", steps=2 * STEPS, warmup=1, drops=(), gamma=0.1),
        precision=Precision("float32", torch.device("cpu")),
        ema=ModelEMA(detector, 0.9),
        batches=batches,
        validate=validate,
        epochs=2,
        validate_every=1,
        clip_grad_norm=10.0,
        callback=NullCallback(),
        processes=processes,
        interrupted=request,
        checkpoint=Checkpoint(folder / "state"),
        checkpoint_seconds=0.0,
    )


def fit(folder: Path, processes: Processes, failure: str) -> None:
    request = process.StopRequest()
    training = trainer(folder, processes, failure, request)
    with request.deferred():
        training.fit()
    if processes.rank == 0:
        torch.save(training.result.state_dict(), folder / "weights.pt")


def main() -> None:
    folder, *failures = Path(sys.argv[1]), *sys.argv[2:]
    values = recipes.defaults()
    values = replace(values, machine=replace(values.machine, device="cpu"))
    with launching.join_processes(values) as processes:
        for failure in failures[:-1]:  # each ends in an error, which is written to a file of the process
            with pytest.raises((PipelineError, PeerFailedError)) as error:
                fit(folder / failure, processes, failure)
            (folder / f"{failure}-{processes.rank}").write_text(f"{error.type.__name__}: {error.value}")
        fit(folder, processes, failures[-1] if failures else "")


if __name__ == "__main__":
    if "FCOS_LAUNCHER" not in os.environ:  # torchrun reports errors by itself
        main()
    elif os.environ["FCOS_LAUNCHER"] == str(os.getppid()):
        launching.run_worker(main)
    else:  # forked by tests.support.warm_python, which kills this process when the launcher's child is killed
        with mock.patch.object(process, "die_with_parent"):
            launching.run_worker(main)
