"""`train.extend_from`: the folder of a finished training, and what is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fcos.training.checkpoints import read_state, write_state
from fcos.training.history import NullCallback
from fcos.training.trainer import Trainer
from fcos.weights import save_detector
from pipeline import params
from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image
from pipeline.errors import PipelineError
from pipeline.params import Params
from pipeline.training.artifacts import describe
from pipeline.training.build import make_batches, make_trainer
from pipeline.training.extension import STATE_FILE, keep_state, read_extension
from pipeline.training.initial_weights import find_start, make_detector

FOLDER = "data/extend_from"
SPLIT = AnnotationSet(
    (Category(1, "cat"), Category(2, "dog")),
    (Image(1, "a.png", 40, 30),),
    (Annotation(1, 1, 1, (1.0, 1.0, 9.0, 9.0), 81.0),),
)


@pytest.fixture
def values(home: Path) -> Params:
    whole = params.load(home / "params.yaml")
    return replace(whole, model=replace(whole.model, channels=16, tower_depth=1))


def trainer_of(values: Params, home: Path) -> Trainer:
    batches = make_batches(values, SPLIT, home)
    classes = [category.name for category in SPLIT.categories]
    return make_trainer(
        values, batches=batches, validate=dict, classes=classes, callback=NullCallback(), checkpoint=None
    )


@pytest.fixture
def finished(values: Params, home: Path) -> Trainer:
    """A training of three epochs, whose detector and state are in the folder to extend from."""
    trainer = trainer_of(replace(values, seed=7), home)
    trainer.epoch, trainer.step = 3, 12
    keep_state(trainer, values, home / FOLDER)
    save_detector(trainer.result, describe(values, SPLIT), home / FOLDER / "detector.safetensors")
    return trainer


def test_a_finished_training_goes_on_with_its_state(values: Params, home: Path, finished: Trainer) -> None:
    lines: list[str] = []
    extension = read_extension(values, lines.append)
    assert extension is not None
    assert lines == ["train.extend_from: goes on after epoch 3, with the state of muon"]
    trainer = trainer_of(replace(values, train=replace(values.train, epochs=2)), home)
    extension.apply(trainer)
    assert (trainer.epoch, trainer.epochs, trainer.step) == (3, 5, 12)
    expected = finished.detector.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in trainer.detector.state_dict().items())


@pytest.mark.usefixtures("finished")
def test_mosaic_ends_before_the_last_of_all_epochs(values: Params, home: Path) -> None:
    assert make_batches(values, SPLIT, home, first_epoch=3).data.augmentation.epochs == 3 + values.train.epochs


@pytest.mark.usefixtures("finished")
def test_without_the_state_a_new_optimizer_starts(values: Params, home: Path, finished: Trainer) -> None:
    (home / FOLDER / STATE_FILE).unlink()
    lines: list[str] = []
    assert read_extension(values, lines.append) is None
    assert lines == [
        f"train.extend_from: {home}/{FOLDER}/{STATE_FILE}: not there, since train.keep_state was false: a new "
        "optimizer starts at epoch 1"
    ]
    state = make_detector(values, ["cat", "dog"], torch.device("cpu"), lines.append).state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in finished.result.state_dict().items())
    assert lines[1].endswith("new: none")


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize(
    ("classes", "model", "problem"),
    [
        (("dog", "cat"), {}, "it has other classes, or in another order: only the same detector is trained longer"),
        (("cat", "dog"), {"levels": (3, 4)}, "its levels is (3, 4, 5), not (3, 4): only the same detector is trained"),
    ],
)
def test_another_detector_is_not_extended(
    values: Params, classes: tuple[str, ...], model: dict[str, object], problem: str
) -> None:
    changed = replace(values, model=replace(values.model, **model))  # type: ignore[arg-type]
    with pytest.raises(PipelineError) as caught:
        make_detector(changed, classes, torch.device("cpu"), print)
    assert problem in str(caught.value)
    assert str(caught.value).endswith("for another one, use model.start_from")


@pytest.mark.usefixtures("finished")
def test_a_number_that_the_box_output_does_not_use_may_differ(values: Params) -> None:
    assert values.model.box_output != "distribution"
    changed = replace(values, model=replace(values.model, distribution_max=values.model.distribution_max + 1))
    lines: list[str] = []
    make_detector(changed, ("cat", "dog"), torch.device("cpu"), lines.append)
    assert lines[0].endswith("new: none")


@pytest.mark.usefixtures("finished")
def test_states_that_cannot_be_used(values: Params, home: Path) -> None:
    path = home / FOLDER / STATE_FILE
    with pytest.raises(
        PipelineError, match=r"it is the state of muon: set train\.optimizer to that, or remove the file"
    ):
        read_extension(replace(values, train=replace(values.train, optimizer="sgd")), print)
    state = read_state(path)
    assert state is not None
    write_state(path, {**state, "detector": {}})
    extension = read_extension(values, print)
    assert extension is not None
    with pytest.raises(PipelineError, match=rf"{STATE_FILE}: not the state of this network .*; use model\.start_from"):
        extension.apply(trainer_of(values, home))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(PipelineError, match=rf"{STATE_FILE}: damaged, or not a training state: restore it, or remove"):
        read_extension(values, print)


@pytest.mark.usefixtures("finished")
def test_weights_are_named_once_and_by_their_folder(values: Params, home: Path, setting: Callable[..., None]) -> None:
    assert find_start(values) == (home / FOLDER / "detector.safetensors", "train.extend_from")
    (home / "data/start_from/x.pth").touch()
    with pytest.raises(PipelineError, match=r"^model\.start_from and train\.extend_from both have weights"):
        find_start(values)
    setting(**{"train.extend_from": f"{FOLDER}/detector.safetensors"})
    with pytest.raises(PipelineError, match=r"detector\.safetensors is a file: name the folder with it"):
        find_start(params.load(home / "params.yaml"))
    setting(**{"train.extend_from": "~/models"})
    with pytest.raises(
        PipelineError, match="train: extend_from: '~/models' leaves the project, so it must be absolute"
    ):
        params.load(home / "params.yaml")
