"""`fcos recipes auto`: a parameter file for the person's own data, this machine and a given time.

Facts lead to choices (`auto_rules`), the choices are measured as by `fcos check`, and the measurements lead to the
final choices. `fcos check` measures wall-clock time, so other work on the machine makes the training shorter.
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline import params, recipes
from pipeline.analysis.advice import advice
from pipeline.analysis.auto_facts import Facts, MemoryUse, Speed, gather
from pipeline.analysis.auto_rules import Choice, choose, notes
from pipeline.analysis.check import Measurements, check, read_splits
from pipeline.analysis.training_memory import training_memory
from pipeline.data.annotations import AnnotationSet
from pipeline.errors import PipelineError, count_noun
from pipeline.inference.network_costs import meta_detector
from pipeline.params import Params

_MEASUREMENTS = 3  # at most: after a measurement, less costly parameters may be chosen, which are then measured, too
# Parameters that don't change the cost of an image.
_COSTLESS_KEYS = frozenset(
    {"train.epochs", "train.validate_every", "train.max_images", "train.lr", "train.warmup", "train.ema_decay"}
)
_UNIT = {"d": 86400, "h": 3600, "m": 60, "min": 60, "s": 1}
# Sections that describe the data: the file has them as the person wrote them.
_KEPT_SECTIONS = ("dataset", "seed", "download", "convert")
# Parameters that describe the machine or name files: their values stay.
_KEPT_VALUES = ("machine.", "model.start_from", "train.extend_from")


@dataclass(frozen=True)
class AutoRecipe:
    """A complete parameter file and what was measured for it."""

    text: str
    choices: tuple[Choice, ...]
    measurements: Measurements
    advice: list[str]  # lines of `fcos check` for these parameters


def parse_duration(text: str) -> float:
    """Seconds of a duration such as 90s, 30m, 2h or 1h30m.

    Raises:
        ValueError: it is no duration.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)(d|h|min|m|s)", text)
    seconds = sum(float(number) * _UNIT[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text or not seconds:
        raise ValueError(f"{text!r} is no duration such as 90s, 30m, 2h or 1h30m")
    return seconds


def make(path: Path, home: Path, time: str, progress: Callable[[str], None]) -> AutoRecipe:
    """Chooses parameters for the converted data of a workspace.

    Args:
        path: the person's parameter file; its sections on data stay as they are.
        home: the workspace.
        time: that training may take, such as 30m.
        progress: receives a line for each measurement.

    Raises:
        PipelineError: the data isn't converted, or the time is too short.
    """
    own = params.load(path)
    train, val = read_splits(home)
    raw = home / "data/raw" / own.dataset
    facts = gather(own, train, val, parse_duration(time))
    choices = undecided_choices(facts, own)
    for _ in range(_MEASUREMENTS):
        values = _values(own, path, choices)
        facts = replace(facts, memory_use=_memory_use(values, train))
        choices = undecided_choices(facts, own)
        values = _values(own, path, choices)
        progress(f"measuring {values.model.backbone} at train.size {list(values.train.size)}")
        measured, _advice = check(_whole_epochs(values), train, val, raw)
        facts = replace(facts, speed=_speed(values, measured))
        previous, choices = choices, undecided_choices(facts, own)
        if _cost(choices) == _cost(previous):
            break
    text = _compose(own, path, [*_header(facts, time, measured)], choices)
    values = params.parse(text, path)
    return AutoRecipe(text, tuple(choices), measured, advice(values, train, val, steps=measured.steps))


def undecided_choices(facts: Facts, own: Params) -> list[Choice]:
    """The choices for these facts, except where the person has decided."""
    # Tiles exclude the cache, so that a choice about it replaces the person's value.
    decided = _own_settings(own).keys() - {"machine.cache"}
    return [choice for choice in choose(facts) if choice.key not in decided]


def _whole_epochs(values: Params) -> Params:
    return replace(values, train=replace(values.train, max_images=None))


def _cost(choices: Sequence[Choice]) -> dict[str, Any]:
    """The choices that decide how long an image takes."""
    return {choice.key: choice.value for choice in choices if choice.key not in _COSTLESS_KEYS}


def _memory_use(values: Params, train: AnnotationSet) -> MemoryUse:
    """Memory of a training step, computed on shapes only."""
    size = values.train.size
    one, two = (
        training_memory(values, meta_detector(values.model, len(train.categories)), size, images) for images in (1, 2)
    )
    per_image = two.total - one.total
    return MemoryUse(size=size, fixed=one.total - per_image, per_image=per_image)


def _speed(values: Params, measured: Measurements) -> Speed:
    return Speed(
        size=values.train.size,
        steps=measured.steps,
        epoch=measured.epoch_time,
        validation=measured.whole_validation_time,
    )


# The file


def _values(own: Params, path: Path, choices: Sequence[Choice]) -> Params:
    return params.parse(_compose(own, path, (), choices), path)


def _compose(own: Params, path: Path, header: Sequence[str], choices: Sequence[Choice]) -> str:
    settings = _own_settings(own)
    settings |= {choice.key: recipes.Setting(to_yaml(choice.value), choice.reason) for choice in choices}
    sections = recipes.sections(path.read_text(encoding="utf-8"))
    kept = {name: block for name, block in sections.items() if name in _KEPT_SECTIONS}
    text = recipes.compose(header, settings, kept, path)
    values, before = params.parse(text, path).flat(), own.flat()
    lost = [key for key in before if key.split(".")[0] in _KEPT_SECTIONS and values[key] != before[key]]
    if lost:
        raise PipelineError(
            f"{path}: {lost[0]} can't be kept: write each section at the start of a line, as in `convert:`"
        )
    return text


def _own_settings(own: Params) -> dict[str, recipes.Setting]:
    """The person's values for the machine and for files that training starts from."""
    default = recipes.defaults().flat()
    return {
        key: recipes.Setting(to_yaml(value), None)
        for key, value in own.flat().items()
        if key.startswith(_KEPT_VALUES) and value != default[key]
    }


def to_yaml(value: Any) -> str:
    """A value as in a parameter file."""
    is_word = isinstance(value, str) and re.fullmatch(r"[a-z][a-z0-9_/]*", value)
    return value if is_word else json.dumps(value, ensure_ascii=False)  # JSON is YAML


def _header(facts: Facts, time: str, measured: Measurements) -> Iterator[str]:
    classes = count_noun(len(facts.classes), "class", "classes")
    objects = count_noun(len(facts.boxes), "object")
    images = count_noun(len(facts.images), "image")
    validation = count_noun(facts.val_images, "image")
    yield f"Chosen by `fcos recipes auto --time {time}`. Reasons precede the comments of changed lines."
    yield f"Data: {images} with {objects} of {classes} to learn from, {validation} to validate on."
    trained, validated = len(facts.images) / measured.epoch_time, 1 / measured.validation_time
    yield (
        f"Measured: {measured.device}, {count_noun(facts.cores, 'core')}: {trained:.1f} images/s with loading, "
        f"{validated:.1f} in validation, peak memory {measured.peak_memory / 2**20:,.0f} MiB."
    )
    if os.getloadavg()[0] > facts.cores + 2:
        yield "Other programs used the machine during the measurement: on an idle one, more epochs fit into the time."
    yield from notes(facts)
