"""params.schema.json is what `pipeline.recipes.schema` makes of the parameters, and describes each of them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import recipes
from pipeline.params import Params
from pipeline.recipes import schema
from tests.support.paths import PROJECT

SCHEMA = json.loads((PROJECT / schema.FILE).read_text())


def leaves(section: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every parameter's schema, by its dotted name. The weights of the loss share the description of their section."""
    for name, value in section["properties"].items():
        if "properties" in value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def test_file_is_up_to_date() -> None:
    remedy = "run `python -m pipeline.recipes.schema`"
    assert (PROJECT / schema.FILE).read_text() == schema.text(), remedy


def test_every_parameter_has_a_description_and_its_default() -> None:
    defaults: Params = recipes.defaults()
    assert {name: value["default"] for name, value in leaves(SCHEMA)} == defaults.flat()
    undescribed = {name.rpartition(".")[0] for name, value in leaves(SCHEMA) if "description" not in value}
    assert undescribed == {"model.loss_weights"}


def test_choices_limits_and_unknown_keys() -> None:
    parameters = dict(leaves(SCHEMA))
    assert parameters["inspect.split"]["enum"] == ["val", "test"]
    assert parameters["convert.val_fraction"]["exclusiveMaximum"] == 1
    assert parameters["train.size"]["minItems"] == parameters["train.size"]["maxItems"] == 2
    assert SCHEMA["properties"]["train"]["properties"]["augment"]["additionalProperties"] is False
    assert "$ref" not in json.dumps(SCHEMA)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("\n  epochs: ", "\n  # epochs: ", "train.epochs is missing"),
        ("\n  epochs: ", "\n  new: 1\n  epochs: ", "train.new is unknown; known ones: "),
        ("\nseed: 0 ", "\nseed: [ ", "not YAML: "),
    ],
)
def test_unsuitable_defaults_are_an_error_of_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, problem: str
) -> None:
    text = recipes.DEFAULTS.read_text()
    assert text.count(old) == 1
    path = tmp_path / "defaults.yaml"
    path.write_text(text.replace(old, new))
    monkeypatch.setattr(recipes, "DEFAULTS", path)
    with pytest.raises(SystemExit) as exit:
        schema.main()
    line = str(exit.value)
    assert line.startswith(f"schema: {path}: {problem}")
    assert "\n" not in line


def test_params_yaml_names_the_schema() -> None:
    assert (PROJECT / "params.yaml").read_text().startswith(f"# yaml-language-server: $schema=./{schema.FILE}\n")
