"""`fcos recipes auto`: durations, the written file, and what stays as the person wrote it."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import params, recipes
from pipeline.analysis.auto_recipe import parse_duration, undecided_choices
from pipeline.data import annotations
from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image
from tests.support.auto_facts import choices, make_facts
from tests.support.projects import run


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("1.5h", 5400), ("5min", 300)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "m", "30 m", "-5m", "0m", "1h30"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration such as 90s, 30m, 2h or 1h30m"):
        parse_duration(text)


def test_class_names_in_comments() -> None:
    """Whatever letters a class name has, the file keeps its lines."""
    name = "a\nb\x07\u2028\x85"
    text = recipes.compose([name], {"seed": recipes.Setting("7", name)}, {}, Path("x.yaml"))
    assert params.parse(text, Path("x.yaml")).seed == 7
    assert text.splitlines()[1] == r"# a\nb\x07\u2028\x85"
    assert r"seed: 7 # a\nb\x07\u2028\x85; " in text


def test_what_the_person_decided_stays(tmp_path: Path) -> None:
    """Workers, for which there is a choice on a GPU; but tiles turn the cache off."""
    (tmp_path / "params.yaml").write_text(
        recipes.compose(
            (),
            {"machine.workers": recipes.Setting("12", None), "machine.cache": recipes.Setting("true", None)},
            {},
            tmp_path,
        )
    )
    own = params.load(tmp_path / "params.yaml")
    gpu = replace(make_facts(60, (3000, 4000), {"car": [20.0]}), device="cuda", cores=2, cached=True)
    assert choices(gpu)["machine.workers"] == 1
    kept = {choice.key: choice.value for choice in undecided_choices(gpu, own)}
    assert "machine.workers" not in kept
    assert (kept["train.tiles"] is not None, kept["machine.cache"]) == (True, False)


@pytest.fixture
def small(home: Path, picture: Callable[..., Path]) -> Path:
    """Twelve training images of 64×64 pixels and three validation images; a comment of the person's in convert."""
    for name, count in (("train", 12), ("val", 3)):
        for number in range(count):
            picture(home / f"data/raw/digits/{name}{number}.png", (64, 64), seed=number)
        images = tuple(Image(n + 1, f"{name}{n}.png", 64, 64) for n in range(count))
        objects = tuple(Annotation(n + 1, n + 1, 1 + n % 2, (8.0, 8.0, 30.0, 24.0), 720.0) for n in range(count))
        split = AnnotationSet((Category(1, "1"), Category(2, "2")), images, objects)
        annotations.write(split, home / f"data/unified/{name}.json")
    path = home / "params.yaml"
    text = path.read_text().replace("  val_fraction: 0.2 #", "  val_fraction: 0.25 # a quarter is enough;")
    path.write_text(text.replace("  device: auto", "  device: cpu").replace("seed: 0 #", "seed: 3 #"))
    return home


def test_the_file(small: Path) -> None:
    """It has the person's sections as they are, the choices with their reasons, and `fcos check` has no advice."""
    before = (small / "params.yaml").read_text()
    refused = run(small, "fcos", "recipes", "auto", check=False)
    assert re.fullmatch(r"fcos: .*params\.yaml: has uncommitted changes; .* --force\n", refused)
    output = run(small, "fcos", "recipes", "auto", "--time", "24h", "--out", "auto.yaml")
    assert (small / "params.yaml").read_text() == before
    text = (small / "auto.yaml").read_text()
    lines = text.splitlines()
    assert lines[1] == "# Chosen by `fcos recipes auto --time 24h`. Reasons precede the comments of changed lines."
    assert lines[2] == "# Data: 12 images with 12 objects of 2 classes to learn from, 3 images to validate on."
    assert re.match(r"# Measured: CPU, \d+ cores?: [\d.]+ images/s with loading, [\d.]+ in validation, peak", lines[3])
    assert recipes.sections(text)["convert"] == recipes.sections(before)["convert"]
    values, own = params.load(small / "auto.yaml"), params.load()
    assert (values.seed, values.convert, values.machine) == (3, own.convert, own.machine)
    assert (values.model.levels, values.train.size, values.train.batch_size) == ((3,), (64, 64), 4)
    assert values.train.epochs == 150
    assert "  flip: 0.0 # mirrored, an object of class '1' would be another or none; horizontal flip;" in text
    assert "train.augment.flip=0.0  # mirrored, an object of class '1' would be another or none\n" in output
    assert f"auto.yaml: written; copy it to {small}/params.yaml, then train with `dvc repro`\n" in output
    assert output.endswith("fcos: measuring tiny at train.size [64, 64]\n")
    assert "fcos: " not in output.removesuffix("fcos: measuring tiny at train.size [64, 64]\n")  # no advice


def test_errors_of_the_command(small: Path) -> None:
    assert "Invalid value for --time: '30' is no duration such as" in run(
        small, "fcos", "recipes", "auto", "--time", "30", "--force", check=False
    )
    assert "--time is for the recipe auto" in run(small, "fcos", "recipes", "cpu_lite0", "--time", "30m", check=False)
    (small / "data/unified/val.json").unlink()
    missing = run(small, "fcos", "recipes", "auto", "--force", check=False)
    assert missing == f"fcos: {small}/data/unified/val.json: does not exist yet; run `dvc repro convert` first\n"
