"""Our side of a race: a recipe, trained by the pipeline."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from benchmarks.race.scoring import BATCH, TIMED_STEPS, Clock, Race, Result, Scores
from fcos.detector import Detector
from fcos.postprocess import Postprocess
from fcos.training.history import NullCallback, Row
from pipeline.inference.views import Views, detect_in_views
from pipeline.params import Params
from pipeline.training.build import EpochBatches, make_batches, make_trainer
from pipeline.training.overfit import RepeatedBatches


def run(race: Race, params: Params, settings: str) -> Result:
    """Trains for as many epochs as the time allows; `settings` describes the parameters."""
    batches: Any = make_batches(params, race.train, race.raw)
    epochs = race.epochs(_seconds_of_step(race, params, batches), len(batches))
    params = _with_epochs(params, epochs, race.validate_every(epochs))
    scores = Scores(race)

    def validate(detector: Detector) -> Row:
        detect = partial(
            detect_in_views,
            detector,
            input_size=params.train.input_size,
            postprocess=Postprocess(),
            views=Views(),
            batch_size=BATCH,
        )
        return scores.validate(detect)

    # Anew, since the augmentation depends on the number of epochs.
    _fit(race, params, make_batches(params, race.train, race.raw), validate)
    return scores.result("ours", params.seed, settings, epochs)


def _fit(race: Race, params: Params, batches: EpochBatches, validate: Callable[[Detector], Row]) -> None:
    trainer = make_trainer(
        params, batches=batches, validate=validate, classes=race.classes, callback=NullCallback(), checkpoint=None
    )
    trainer.fit()


def _seconds_of_step(race: Race, params: Params, batches: Any) -> float:
    """CPU seconds, measured in a second epoch of a few steps: the first allocates memory."""
    clock, times = Clock(), list[float]()

    def note_time(_: Detector) -> Row:
        times.append(clock.seconds())
        return {}

    _fit(race, _with_epochs(params, 2, 1), RepeatedBatches(batches, TIMED_STEPS), note_time)
    return (times[1] - times[0]) / TIMED_STEPS


def _with_epochs(params: Params, epochs: int, every: int) -> Params:
    return replace(params, train=replace(params.train, epochs=epochs, validate_every=every))
