"""Every recipe is valid and trains. The command lists the recipes, writes one, and never overwrites unsaved changes."""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from ruamel.yaml import YAML
from sklearn.datasets import load_sample_image

from fcos.training.history import NullCallback
from pipeline import params, recipes
from pipeline.cli import main
from pipeline.data.annotations import Annotation, AnnotationSet, Category
from pipeline.data.annotations import Image as ImageRecord
from pipeline.errors import PipelineError
from pipeline.params import Params
from pipeline.training.build import make_batches, make_trainer
from tests.support.paths import PROJECT

NAMES = sorted(recipes.recipes())
DOCS = PROJECT / "docs/recipes.md"
COMMENT = "# mine\n"


@pytest.fixture(scope="module")
def photograph(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, AnnotationSet]:
    """A folder with one photograph of a blossom, 128×128 pixels, and its annotations."""
    folder = tmp_path_factory.mktemp("raw")
    Image.fromarray(load_sample_image("flower.jpg")[:400, 200:600]).resize((128, 128)).save(folder / "flower.png")
    blossom = Annotation(id=1, image_id=1, category_id=1, bbox=(8.0, 12.0, 100.0, 96.0), area=9600.0)
    return folder, AnnotationSet(
        images=(ImageRecord(id=1, file_name="flower.png", width=128, height=128),),
        annotations=(blossom,),
        categories=(Category(1, "blossom"), Category(2, "leaf")),
    )


def shrink(values: Params) -> Params:
    """Reduces a recipe to one step on one small image, without ImageNet weights."""
    # No warm-up: the first of several steps would hardly change a weight. Not 64 pixels: P6 would then have one cell,
    # and on a CPU the bf16 gradient of a 3×3 convolution with stride 2 over one cell is sometimes NaN (torch 2.15).
    return replace(
        values,
        model=replace(values.model, pretrained=False, batch_norm="auto"),
        train=replace(
            values.train,
            epochs=1,
            batch_size=1,
            size=(128, 128),
            accumulate=1,
            augment=replace(values.train.augment, scale=(1, 1)),
            warmup=0.0,
            ema_decay=0.0,
        ),
        machine=replace(values.machine, device="cpu", workers=0),
    )


@pytest.mark.parametrize("name", NAMES)
def test_recipe_trains(name: str, photograph: tuple[Path, AnnotationSet]) -> None:
    folder, split = photograph
    values = shrink(recipes.load(name))
    trainer = make_trainer(
        values,
        batches=make_batches(values, split, folder),
        validate=lambda _: {},
        classes=["a", "b"],
        callback=NullCallback(),
        checkpoint=None,
    )
    before = {key: value.clone() for key, value in trainer.detector.state_dict().items()}
    (step,) = trainer.fit().steps
    assert step["positives"] > 0
    assert step["box"] > 0
    after = trainer.detector.state_dict()
    changed = {key for key, value in before.items() if not torch.equal(value, after[key])}
    assert any(key.startswith("neck") for key in changed)
    assert any(key.startswith("head") for key in changed)


@pytest.mark.parametrize("name", NAMES)
def test_the_header_states_who_reached_the_number(name: str) -> None:
    recipe = recipes.find(name)
    assert re.search(r"by us|not by us|no number", recipe.reached), recipe.reached
    assert recipe.source
    assert len(recipe.description) <= 120


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_holds_only_changed_values(name: str) -> None:
    lines = (recipes.FOLDER / f"{name}.yaml").read_text().splitlines()
    assert len(lines) <= 60
    yaml = YAML(typ="safe")
    overlay = dict(flatten(yaml.load("\n".join(lines))))
    default_values, values = recipes.defaults().flat(), recipes.load(name).flat()
    assert {key for key, value in values.items() if value != default_values[key]} == set(overlay)


def flatten(section: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def test_a_complete_file_keeps_the_comments_of_the_defaults() -> None:
    text = recipes.find("cpu_lite0").text
    assert text.startswith("# yaml-language-server: $schema=./params.schema.json\n# No GPU: EfficientNet-Lite0")
    assert "  issues: repair # two boxes of BCCD are a pixel thin; default action of the checks: error (stop" in text
    assert text.count("\n") == recipes.DEFAULTS.read_text().count("\n") + 4  # the header


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train:\n  lrr: 1", "train.lrr is not a parameter that defaults.yaml has"),
        ("train:\n  ema: 0.9", "train.ema is not a parameter that defaults.yaml has"),
        ("train", "not `key: value` at line 1 after the header: train"),
    ],
)
def test_a_recipe_that_sets_no_parameter_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, message: str
) -> None:
    monkeypatch.setattr(recipes, "FOLDER", tmp_path)
    (tmp_path / "wrong.yaml").write_text(f"# Description.\n# Source: us.\n# Reached: no number.\n{setting}\n")
    with pytest.raises(PipelineError, match=re.escape(message)):
        recipes.recipes()


def test_docs_list_the_recipes() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", DOCS.read_text(), re.MULTILINE)
    assert sorted(listed) == NAMES


def run_recipes(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["recipes", *arguments])


def commit(folder: Path) -> None:
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "start"]):
        author = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        subprocess.run(["git", *author, *command], cwd=folder, check=True)


def test_list_has_every_recipe_and_its_number() -> None:
    result = run_recipes()
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [*NAMES, "auto"]
    assert "    Reached: 36.3 AP on COCO val2017, by the paper, not by us." in lines


def test_a_recipe_replaces_a_committed_file(home: Path) -> None:
    commit(home)
    assert run_recipes("tiny_voc2007").exit_code == 0
    assert params.load().model.tower_depth == 3
    # The uncommitted file is a recipe, so nothing is lost by overwriting it.
    assert run_recipes("cpu_lite0").exit_code == 0
    assert params.load().model.backbone == "efficientnet_lite0"
    assert [path.name for path in home.iterdir() if "partial" in path.name] == []


@pytest.mark.parametrize("committed", [True, False])
def test_uncommitted_changes_are_not_overwritten(home: Path, committed: bool) -> None:
    path = home / "params.yaml"
    if committed:
        commit(home)
    path.write_text(path.read_text() + COMMENT)
    result = run_recipes("tiny_voc2007")
    assert result.exit_code == 1
    assert re.fullmatch(r"fcos: .*params\.yaml: has uncommitted changes; .* --force\n", result.output)
    assert path.read_text().endswith(COMMENT)
    assert run_recipes("tiny_voc2007", "--force").exit_code == 0
    assert path.read_text() == recipes.find("tiny_voc2007").text


def test_out_writes_another_file(home: Path) -> None:
    before = (home / "params.yaml").read_text()
    assert run_recipes("best_r50", "--out", "new/best.yaml").exit_code == 0
    assert (home / "new/best.yaml").read_text() == recipes.find("best_r50").text
    assert (home / "params.yaml").read_text() == before


@pytest.mark.parametrize("option", [("--out", "new.yaml"), ("--force",), ("--time", "1h")])
def test_options_need_the_name_of_a_recipe(home: Path, option: tuple[str, ...]) -> None:
    result = run_recipes(*option)
    assert result.exit_code == 2
    assert "--out, --force and --time need the NAME of a recipe" in result.output
    assert not (home / "new.yaml").exists()


@pytest.mark.usefixtures("home")
def test_an_unknown_name_lists_the_known_ones() -> None:
    result = run_recipes("papr_r50")
    assert result.exit_code == 1
    assert result.output == f"fcos: 'papr_r50' is not a recipe; there are {', '.join(NAMES)}\n"


def test_a_file_that_cannot_be_written_gives_one_line(home: Path) -> None:
    result = run_recipes("best_r50", "--out", "params.yaml/best.yaml")
    assert result.exit_code == 1
    assert result.output.count("\n") == 1
    assert "not written" in result.output
    assert (home / "params.yaml").is_file()
