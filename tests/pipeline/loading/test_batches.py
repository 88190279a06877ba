"""Training data and batches: the same ones however many processes make them."""

import multiprocessing
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fcos.training.batch import Batch
from pipeline.data.annotations import Annotation, AnnotationSet, Image
from pipeline.data.images import read_image
from pipeline.errors import PipelineError
from pipeline.loading.batches import Batches
from pipeline.loading.dataset import PackedStrings, TrainingData
from tests.support.noise_images import batches, same, training_data, written

Make = Callable[..., TrainingData]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Ten images of three shapes, by default with a zoom."""
    return partial(training_data, tmp_path / "raw")


# The data.


def special(split: AnnotationSet) -> AnnotationSet:
    """The third has a crowd alone, the fourth a difficult object alone, the fifth nothing, the sixth a crowd too."""
    changed = [
        replace(one, iscrowd=int(one.image_id == 2), difficult=int(one.image_id == 3))
        for one in split.annotations
        if one.image_id != 4
    ]
    return replace(split, annotations=(*changed, Annotation(99, 5, 5, (0.0, 0.0, 9.0, 9.0), 81.0, 1)))


def test_crowds_and_difficult_objects_are_not_learned(make: Make, tmp_path: Path) -> None:
    split = special(written(tmp_path / "raw", [(48, 64)] * 10))
    data = make(split)
    assert data.object_counts.tolist() == [1, 1, 0, 0, 0, 1, 1, 1, 1, 1]
    assert data[0, 2].annotated == 0
    assert data[0, 1].annotated == 1

    def left(**changed: bool) -> list[int]:
        how = {"include_difficult": False, "include_empty": True, "include_crowd": True} | changed
        return TrainingData(split, tmp_path / "raw", augmentation=data.augmentation, **how).image_indices.tolist()

    assert left(include_empty=False) == [0, 1, 5, 6, 7, 8, 9]
    assert left(include_empty=False, include_difficult=True) == [0, 1, 3, 5, 6, 7, 8, 9]
    assert left(include_crowd=False) == [0, 1, 3, 4, 6, 7, 8, 9]


def test_an_image_comes_as_stored_with_its_objects(make: Make, tmp_path: Path) -> None:
    split = written(tmp_path / "raw", [(48, 64), (64, 48), (40, 80)])
    more = Annotation(9, 1, 5, (1.0, 2.0, 3.0, 4.0), 12.0)
    data = make(replace(split, annotations=(more, *split.annotations)))
    found = data.read(1)
    assert found.name == data.name(1) == "1.png"
    assert torch.equal(found.image, read_image(tmp_path / "raw/1.png"))
    assert found.boxes.tolist() == [[1, 2, 4, 6], [4, 4, 17, 24]]
    assert found.labels.tolist() == [0, 0]
    assert data.read(2).boxes.tolist() == [[4, 4, 18, 24]]
    assert data.shapes.tolist() == [[48, 64], [64, 48], [40, 80]]


def test_names_are_what_they_were() -> None:
    names = ["a.jpg", "", "ä/日本.png", "b"]
    assert list(PackedStrings(names)) == names
    assert len(PackedStrings(names)) == 4
    assert list(PackedStrings([])) == []


def test_nothing_to_learn_is_an_error_at_once(make: Make, tmp_path: Path) -> None:
    split = written(tmp_path / "raw", [(48, 64)] * 3, skipped=(0, 2))
    with pytest.raises(PipelineError, match="2 images, but not one object to learn from"):
        make(split).subset([0, 2])
    with pytest.raises(PipelineError, match="3 images, but not one object to learn from"):
        make(replace(split, annotations=()))


def test_a_subset_is_a_data_set_of_its_own(make: Make) -> None:
    data = make()
    part = data.subset([7, 2])
    assert [part.name(0), part.name(1)] == ["7.png", "2.png"]
    assert len(part) == 2
    assert part.shapes.tolist() == [[48, 64], [40, 80]]
    assert torch.equal(part[1, 0].image, data[1, 7].image)
    assert len(data) == 10
    assert part.subset([1]).name(0) == "2.png"


def test_a_limit_is_stable_and_fewer_are_among_more(make: Make) -> None:
    data = make()
    few, more = (
        data.random_subset(3, seed=1).image_indices.tolist(),
        data.random_subset(6, seed=1).image_indices.tolist(),
    )
    assert len(few) == 3
    assert set(few) < set(more)
    assert data.random_subset(3, seed=1).image_indices.tolist() == few == sorted(few)
    assert [data.random_subset(3, seed=seed).image_indices.tolist() for seed in range(2, 6)] != [few] * 4
    assert data.random_subset(99, seed=1).image_indices.tolist() == list(range(10))


# Batches.


@pytest.mark.parametrize("how", [{}, {"group_by_aspect_ratio": True}, {"canvas": (64, 64), "accumulate": 2}])
def test_workers_and_a_resume_change_nothing(make: Make, how: dict[str, Any]) -> None:
    data = make()
    alone = batches(data, **how)
    shared = batches(data, workers=2, **how)
    before = torch.get_rng_state()
    for epoch in (2, 3):  # the workers stay
        expected = list(alone(epoch))
        assert len(expected) == len(alone) == 2
        assert same(expected, list(shared(epoch)))
        assert same(expected[1:], list(shared(epoch, 1)))
        assert same(expected[1:], list(alone(epoch, 1)))
    next(shared(4))  # left in the middle
    assert same(list(alone(5)), list(shared(5)))
    assert torch.equal(before, torch.get_rng_state())


def test_workers_stay_from_epoch_to_epoch(make: Make) -> None:
    shared = batches(make(), workers=1)
    workers = []
    for epoch in range(3):
        list(shared(epoch))
        workers.append([process.pid for process in multiprocessing.active_children()])
    assert workers[0] == workers[1] == workers[2]
    assert len(workers[0]) == 1


def test_more_workers_than_cores_are_nobodys_fault(make: Make) -> None:
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        assert len(list(batches(make(), workers=2)(0))) == 2  # warnings are errors here
    finally:
        os.sched_setaffinity(0, cores)


def test_epochs_differ_in_order_and_in_luck(make: Make) -> None:
    data = make()
    (first,), (second,) = (next(batches(data)(epoch)) for epoch in (0, 1))
    assert first.names != second.names
    assert any(not torch.equal(data[0, index].image, data[1, index].image) for index in range(4))


def test_fewer_images_than_a_batch_are_one_batch(make: Make) -> None:
    few = batches(make(), batch_size=64)
    assert [[len(part.pixels) for part in parts] for parts in few(0)] == [[64]]
    assert set(few.steps(0)[0]) == set(range(10))


@pytest.fixture
def shaped(make: Make, tmp_path: Path) -> TrainingData:
    """Images of many shapes, which are never read."""
    folder = tmp_path / "raw"
    split = written(folder, [(48, 64)])
    sides = np.random.default_rng(0).integers(20, 90, (203, 2)).tolist()
    images = tuple(Image(index, "0.png", width, height) for index, (height, width) in enumerate(sides))
    return make(replace(split, images=images))


@pytest.mark.parametrize("grouped", [False, True])
def test_each_image_comes_once_an_epoch(shaped: TrainingData, grouped: bool) -> None:
    made = batches(shaped, group_by_aspect_ratio=grouped)
    seen = [image for step in made.steps(1) for image in step]
    assert len(seen) == len(set(seen)) == 200
    assert made.steps(1) == made.steps(1) != made.steps(2)
    left_out = {frozenset(range(203)) - {i for step in made.steps(epoch) for i in step} for epoch in range(4)}
    assert len(left_out) == 4  # others each time


def test_images_of_like_shape_share_a_batch_and_batches_are_shuffled(shaped: TrainingData) -> None:
    def ratios(made: Batches) -> torch.Tensor:
        height, width = shaped.shapes[torch.tensor(made.steps(0))].unbind(-1)
        return (width / height).log()

    def spread(made: Batches) -> float:
        return float(ratios(made).std(dim=1).mean())

    grouped = batches(shaped, group_by_aspect_ratio=True)
    assert spread(grouped) < spread(batches(shaped)) / 4
    assert spread(replace(grouped, canvas=(64, 64))) == spread(batches(shaped))
    assert (ratios(grouped).mean(dim=1).diff() > 0).float().mean() < 0.7


@pytest.mark.parametrize("grouped", [False, True])
def test_processes_share_each_step_out(make: Make, grouped: bool) -> None:
    data = make()
    whole = [part.names for (part,) in batches(data, group_by_aspect_ratio=grouped)(1)]
    shares = [
        [[name for part in parts for name in part.names] for parts in one(1)]
        for one in (
            batches(data, group_by_aspect_ratio=grouped, rank=rank, world_size=2, accumulate=accumulate)
            for rank, accumulate in ((0, 1), (1, 2))
        )
    ]
    assert [[*a, *b] for a, b in zip(*shares, strict=True)] == whole


def test_a_bad_image_is_one_line_from_a_worker_too(make: Make) -> None:
    data = make()
    (data.folder / "7.png").write_bytes(b"no image")
    said = []
    for workers in (0, 1):
        with pytest.raises(PipelineError) as caught:
            list(batches(data, batch_size=5, workers=workers)(epoch=0))
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert re.match(r"\S*7\.png: can't be decoded", said[0])
    assert "\\n" not in said[0]


def test_a_killed_worker_is_one_line_when_its_batch_is_waited_for(make: Make) -> None:
    shared = batches(make(), workers=2, batch_size=1)
    steps: Iterator[list[Batch]] = shared(0)
    next(steps)
    for process in multiprocessing.active_children():
        os.kill(process.pid or 0, signal.SIGKILL)
    time.sleep(0.2)  # no error comes from here, in the middle of anything
    with pytest.raises(PipelineError, match=r"was killed, most likely for lack of memory .*machine\.workers") as caught:
        list(steps)
    assert "\n" not in str(caught.value)


def test_workers_die_with_their_training(make: Make) -> None:
    def train(pids: Connection) -> None:
        steps = batches(make(), workers=2, batch_size=1)(0)
        next(steps)
        pids.send([process.pid for process in multiprocessing.active_children()])
        time.sleep(60)

    ours, theirs = multiprocessing.Pipe()
    training = multiprocessing.get_context("fork").Process(target=train, args=(theirs,))
    training.start()
    workers = ours.recv()
    training.kill()
    training.join()
    deadline = time.monotonic() + 4  # torch itself looks after its parent every five seconds
    while any(alive(pid) for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"
