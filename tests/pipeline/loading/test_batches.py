"""Training data and batches, which do not depend on the number of worker processes."""

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
from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image
from pipeline.data.images import read_image
from pipeline.errors import PipelineError
from pipeline.loading.batches import Batches, _initialize_worker
from pipeline.loading.dataset import PackedStrings, TrainingData
from tests.support.noise_images import batches, batches_equal, training_data, write_noise_images

Make = Callable[..., TrainingData]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Builds training data, by default of ten images of three shapes with a random zoom."""
    return partial(training_data, tmp_path / "raw")


# The data.


def with_crowds_and_difficult_objects(split: AnnotationSet) -> AnnotationSet:
    """The third image has only a crowd, the fourth only a difficult object, the fifth nothing; the sixth has both."""
    changed = [
        replace(annotation, iscrowd=int(annotation.image_id == 2), difficult=int(annotation.image_id == 3))
        for annotation in split.annotations
        if annotation.image_id != 4
    ]
    return replace(split, annotations=(*changed, Annotation(99, 5, 5, (0.0, 0.0, 9.0, 9.0), 81.0, 1)))


def test_crowds_and_difficult_objects_are_not_trained_on(make: Make, tmp_path: Path) -> None:
    split = with_crowds_and_difficult_objects(write_noise_images(tmp_path / "raw", [(48, 64)] * 10))
    data = make(split)
    assert data.object_counts.tolist() == [1, 1, 0, 0, 0, 1, 1, 1, 1, 1]
    assert data[0, 2, 0].annotated == 0
    assert data[0, 1, 0].annotated == 1

    def images_used(**changed: bool) -> list[int]:
        options = {"include_difficult": False, "include_empty": True, "include_crowd": True} | changed
        return TrainingData(split, tmp_path / "raw", augmentation=data.augmentation, **options).image_indices.tolist()

    assert images_used(include_empty=False) == [0, 1, 5, 6, 7, 8, 9]
    assert images_used(include_empty=False, include_difficult=True) == [0, 1, 3, 5, 6, 7, 8, 9]
    assert images_used(include_crowd=False) == [0, 1, 3, 4, 6, 7, 8, 9]


def test_an_image_is_read_as_stored_with_its_objects(make: Make, tmp_path: Path) -> None:
    split = write_noise_images(tmp_path / "raw", [(48, 64), (64, 48), (40, 80)])
    second = Annotation(9, 1, 5, (1.0, 2.0, 3.0, 4.0), 12.0)
    data = make(replace(split, annotations=(second, *split.annotations)))
    sample = data.read(1)
    assert sample.name == data.name(1) == "1.png"
    assert torch.equal(sample.image, read_image(tmp_path / "raw/1.png"))
    assert sample.boxes.tolist() == [[1, 2, 4, 6], [4, 4, 17, 24]]
    assert sample.labels.tolist() == [0, 0]
    assert data.read(2).boxes.tolist() == [[4, 4, 18, 24]]
    assert data.shapes.tolist() == [[48, 64], [64, 48], [40, 80]]


def test_packed_strings_equal_the_strings() -> None:
    names = ["a.jpg", "", "ä/日本.png", "b"]
    assert list(PackedStrings(names)) == names
    assert len(PackedStrings(names)) == 4
    assert list(PackedStrings([])) == []


def test_images_without_trainable_objects_are_an_error(make: Make, tmp_path: Path) -> None:
    split = write_noise_images(tmp_path / "raw", [(48, 64)] * 3, empty=(0, 2))
    with pytest.raises(PipelineError, match="2 images without a single object to train on"):
        make(split).subset([0, 2])
    with pytest.raises(PipelineError, match="3 images without a single object to train on"):
        make(replace(split, annotations=()))
    with pytest.raises(PipelineError, match="0 images without a single object to train on"):
        make(replace(split, images=(), annotations=()))


def test_a_subset_has_its_own_indices(make: Make) -> None:
    data = make()
    part = data.subset([7, 2])
    assert [part.name(0), part.name(1)] == ["7.png", "2.png"]
    assert len(part) == 2
    assert part.shapes.tolist() == [[48, 64], [40, 80]]
    assert torch.equal(part[1, 0, 0].image, data[1, 7, 0].image)
    assert len(data) == 10
    assert part.subset([1]).name(0) == "2.png"


def test_a_random_subset_is_reproducible_and_contains_smaller_ones(make: Make) -> None:
    data = make()
    small, large = (
        data.random_subset(3, seed=1).image_indices.tolist(),
        data.random_subset(6, seed=1).image_indices.tolist(),
    )
    assert len(small) == 3
    assert set(small) < set(large)
    assert data.random_subset(3, seed=1).image_indices.tolist() == small == sorted(small)
    assert [data.random_subset(3, seed=seed).image_indices.tolist() for seed in range(2, 6)] != [small] * 4
    assert data.random_subset(99, seed=1).image_indices.tolist() == list(range(10))


# Batches.


@pytest.mark.parametrize("options", [{}, {"group_by_aspect_ratio": True}, {"canvas": (64, 64), "accumulate": 2}])
def test_workers_and_a_resume_change_nothing(make: Make, options: dict[str, Any]) -> None:
    data = make()
    single = batches(data, **options)
    shared = batches(data, workers=2, **options)
    before = torch.get_rng_state()
    for epoch in (2, 3):  # the workers persist
        expected = list(single(epoch))
        assert len(expected) == len(single) == 2
        assert batches_equal(expected, list(shared(epoch)))
        assert batches_equal(expected[1:], list(shared(epoch, 1)))
        assert batches_equal(expected[1:], list(single(epoch, 1)))
    next(shared(4))  # abandoned in the middle
    assert batches_equal(list(single(5)), list(shared(5)))
    assert torch.equal(before, torch.get_rng_state())


def test_workers_persist_over_epochs(make: Make) -> None:
    shared = batches(make(), workers=1)
    workers = []
    for epoch in range(3):
        list(shared(epoch))
        workers.append([process.pid for process in multiprocessing.active_children()])
    assert workers[0] == workers[1] == workers[2]
    assert len(workers[0]) == 1


def test_more_workers_than_cores_give_no_warning(make: Make) -> None:
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        assert len(list(batches(make(), workers=2)(0))) == 2  # warnings are errors here
    finally:
        os.sched_setaffinity(0, cores)


def test_epochs_differ_in_order_and_augmentation(make: Make) -> None:
    data = make()
    (first,), (second,) = (next(batches(data)(epoch)) for epoch in (0, 1))
    assert first.names != second.names
    assert any(not torch.equal(data[0, index, 0].image, data[1, index, 0].image) for index in range(4))


def test_fewer_images_than_a_batch_are_repeated(make: Make) -> None:
    few = batches(make(), batch_size=64)
    assert [[len(part.pixels) for part in parts] for parts in few(0)] == [[64]]
    assert set(few.steps(0)[0]) == set(range(10))


@pytest.fixture
def shaped(make: Make, tmp_path: Path) -> TrainingData:
    """Images of many shapes. Tests do not read them."""
    folder = tmp_path / "raw"
    split = write_noise_images(folder, [(48, 64)])
    sides = np.random.default_rng(0).integers(20, 90, (203, 2)).tolist()
    images = tuple(Image(index, "0.png", width, height) for index, (height, width) in enumerate(sides))
    return make(replace(split, images=images))


@pytest.mark.parametrize("grouped", [False, True])
def test_each_image_occurs_once_per_epoch(shaped: TrainingData, grouped: bool) -> None:
    shuffled = batches(shaped, group_by_aspect_ratio=grouped)
    images = [image for step in shuffled.steps(1) for image in step]
    assert len(images) == len(set(images)) == 200
    assert shuffled.steps(1) == shuffled.steps(1) != shuffled.steps(2)
    left_out = {frozenset(range(203)) - {i for step in shuffled.steps(epoch) for i in step} for epoch in range(4)}
    assert len(left_out) == 4  # different ones each time


def test_repeat_factors_by_hand(make: Make, tmp_path: Path) -> None:
    """Of ten images, nine have class 5 and one has class 6, too: max(1, sqrt(0.4 / 0.1)) = 2; one is empty."""
    split = write_noise_images(tmp_path / "raw", [(48, 64)] * 10, empty=(9,))
    rare = Annotation(99, 3, 6, (1.0, 1.0, 9.0, 9.0), 81.0)
    data = make(
        replace(split, categories=(*split.categories, Category(6, "rare")), annotations=(*split.annotations, rare))
    )
    assert data.repeat_factors(0.4).tolist() == [1, 1, 1, 2, 1, 1, 1, 1, 1, 1]
    assert data.repeat_factors(0.1).tolist() == [1] * 10


def test_images_are_drawn_in_proportion_to_their_repeat_factors(make: Make) -> None:
    factors = torch.tensor([2.5, *[1.0] * 9], dtype=torch.float64)
    drawn = batches(make(), repeat_factors=factors, batch_size=2)
    epochs = [[index for step in drawn.steps(epoch) for index in step] for epoch in range(400)]
    assert {len(epoch) for epoch in epochs} == {10}
    counts = np.bincount(np.concatenate(epochs), minlength=10)
    # Three draws of the image in half of the epochs, two in the others: 10 of 11 or 12 draws are kept.
    expected = np.array([10 * (2 / 11 + 3 / 12) / 2, *[10 * (1 / 11 + 1 / 12) / 2] * 9])
    assert counts / 400 == pytest.approx(expected, abs=0.1)
    assert drawn.steps(3) == drawn.steps(3)


def test_an_image_that_is_drawn_again_is_augmented_anew(make: Make) -> None:
    """Its first draw is that of an epoch without repeats, and a resumed epoch counts the draws before it."""
    factors = torch.tensor([3.0, *[1.0] * 9], dtype=torch.float64)
    repeating, once = (batches(make(), repeat_factors=chosen, batch_size=1) for chosen in (factors, None))

    def draws(drawn: Batches, first: int = 0) -> list[torch.Tensor]:
        return [part.pixels for (part,) in drawn(1, first) if part.names == ["0.png"]]

    again, (single,) = draws(repeating), draws(once)
    assert len(again) == sum(step == [0] for step in repeating.steps(1)) > 1
    assert torch.equal(again[0], single)
    assert not any(torch.equal(other, single) for other in again[1:])
    assert torch.equal(draws(repeating, first=repeating.steps(1).index([0]) + 1)[-1], again[-1])


def test_images_of_similar_shape_share_a_batch_and_batches_are_shuffled(shaped: TrainingData) -> None:
    def ratios(shuffled: Batches) -> torch.Tensor:
        height, width = shaped.shapes[torch.tensor(shuffled.steps(0))].unbind(-1)
        return (width / height).log()

    def spread(shuffled: Batches) -> float:
        return float(ratios(shuffled).std(dim=1).mean())

    grouped = batches(shaped, group_by_aspect_ratio=True)
    assert spread(grouped) < spread(batches(shaped)) / 4
    assert spread(replace(grouped, canvas=(64, 64))) == spread(batches(shaped))
    assert (ratios(grouped).mean(dim=1).diff() > 0).float().mean() < 0.7


@pytest.mark.parametrize("grouped", [False, True])
def test_processes_get_equal_shares_of_each_step(make: Make, grouped: bool) -> None:
    data = make()
    whole = [part.names for (part,) in batches(data, group_by_aspect_ratio=grouped)(1)]
    shares = [
        [[name for part in parts for name in part.names] for parts in share(1)]
        for share in (
            batches(data, group_by_aspect_ratio=grouped, rank=rank, world_size=2, accumulate=accumulate)
            for rank, accumulate in ((0, 1), (1, 2))
        )
    ]
    assert [[*a, *b] for a, b in zip(*shares, strict=True)] == whole


def test_an_undecodable_image_is_a_one_line_error_also_in_a_worker(make: Make) -> None:
    data = make()
    (data.folder / "7.png").write_bytes(b"no image")
    messages = []
    for workers in (0, 1):
        with pytest.raises(PipelineError) as caught:
            list(batches(data, batch_size=5, workers=workers)(epoch=0))
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert re.match(r"\S*7\.png: can't be decoded", messages[0])
    assert "\\n" not in messages[0]


def test_a_killed_worker_is_a_one_line_error_when_its_batch_is_needed(make: Make) -> None:
    shared = batches(make(), workers=2, batch_size=1)
    steps: Iterator[list[Batch]] = shared(0)
    next(steps)
    for process in multiprocessing.active_children():
        os.kill(process.pid or 0, signal.SIGKILL)
    time.sleep(0.2)  # a signal handler of torch would raise here
    with pytest.raises(PipelineError, match=r"was killed, most likely for lack of memory .*machine\.workers") as caught:
        list(steps)
    assert "\n" not in str(caught.value)


def test_workers_die_with_the_training_process(make: Make) -> None:
    def train(pids: Connection) -> None:
        steps = batches(make(), workers=2, batch_size=1)(0)
        next(steps)
        pids.send([process.pid for process in multiprocessing.active_children()])
        time.sleep(60)

    assert_workers_end(train)


def test_a_worker_ends_whose_training_process_died_before_it_began() -> None:
    def begin_late() -> None:
        while os.getppid() == training:
            time.sleep(0.01)
        _initialize_worker(0)
        time.sleep(60)

    def train(pids: Connection) -> None:
        nonlocal training
        training = os.getpid()
        worker = multiprocessing.get_context("fork").Process(target=begin_late)
        worker.start()
        pids.send([worker.pid])
        time.sleep(60)

    training = 0
    assert_workers_end(train)


def assert_workers_end(train: Callable[[Connection], None]) -> None:
    """Kills a process that sends the ids of its workers, and waits for their end."""
    receiver, sender = multiprocessing.Pipe()
    training = multiprocessing.get_context("fork").Process(target=train, args=(sender,))
    training.start()
    workers = receiver.recv()
    training.kill()
    training.join()
    deadline = time.monotonic() + 4  # torch itself checks for its parent every five seconds
    while any(is_alive(pid) for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"
