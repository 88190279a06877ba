"""`import fcos`: the public names, which are imported when they are used."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fcos
from fcos.detector import Detector
from fcos.predictor import load
from tests.support.paths import PROJECT

# Names of the pipeline's parameters, files and commands, which messages of fcos/ must not mention.
PIPELINE_WORDS = re.compile(
    r"params\.yaml|\bdvc\b|\bDVC\b|\bmlflow\b|`fcos |"
    r"\b(?:download|convert|train|evaluate|inspect|postprocess|machine)\.(?!safetensors)[a-z_]+\b(?!\()|"
    r"(?<![\w.])model\.(?:[a-z]+_[a-z_]+|pretrained|levels|locations|neck|quality|ranges|backbone)\b(?!\()"
)


def test_import_does_not_load_torch() -> None:
    code = "import sys, fcos; sys.exit(any(name in sys.modules for name in ('torch', 'torchvision', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=False).returncode == 0


def test_every_public_name_can_be_imported() -> None:
    names: dict[str, object] = {}
    exec("from fcos import *", names)
    assert set(fcos.__all__) <= names.keys()
    assert set(fcos.__all__) <= set(dir(fcos))
    assert fcos.Detector is Detector
    assert fcos.load is load


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'fcos' has no attribute 'Detektor'"):
        _ = fcos.Detektor  # type: ignore[attr-defined]


def test_the_package_is_typed() -> None:
    assert (PROJECT / "fcos" / "py.typed").is_file()


def pipeline_words(source: str) -> list[str]:
    """Matches in the docstrings and other strings of Python code."""
    strings = [node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)]
    return [match.group() for text in strings if isinstance(text, str) for match in PIPELINE_WORDS.finditer(text)]


@pytest.mark.parametrize("file", sorted((PROJECT / "fcos").rglob("*.py")), ids=lambda file: file.stem)
def test_no_parameter_and_no_command_of_the_pipeline_is_mentioned(file: Path) -> None:
    assert pipeline_words(file.read_text()) == []


@pytest.mark.parametrize(
    "line",
    [
        "try a lower train.lr",
        "look at `fcos explain`",
        "set model.pretrained to false",
        "in params.yaml",
        "run dvc repro",
    ],
)
def test_such_mentions_are_found(line: str) -> None:
    assert pipeline_words(f'raise ValueError("{line}")')
