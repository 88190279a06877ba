"""Imports go one way: the contracts of pyproject.toml hold, and each of them can fail."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

from tests.support.paths import PROJECT

PACKAGES = ("fcos", "pipeline")
DETECTOR_NEEDS = {"torch", "torchvision", "numpy", "safetensors"}


def lint_imports(project: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name("lint-imports"), "--no-logo", "--cache-dir", cache]
    environment = os.environ | {"COLUMNS": "200"}
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(*PACKAGES, include_external_packages=True, cache_dir=None)


def test_contracts_hold(tmp_path: Path) -> None:
    run = lint_imports(PROJECT, tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("fcos/config.py", "import pipeline.files", "The detector knows nothing of the pipeline"),
        ("fcos/config.py", "import fcos.head", "The detector: imports go one way"),
        ("pipeline/files.py", "import pipeline.cli", "The pipeline: imports go one way"),
        ("pipeline/evaluation/voc.py", "import pipeline.stages.first", "The pipeline: imports go one way"),
        ("pipeline/loading/cache.py", "import pipeline.training.build", "The pipeline: imports go one way"),
        ("pipeline/loose.py", "", "The pipeline: imports go one way"),
        ("pipeline/stages/second.py", "from pipeline.stages import first", "Stages and commands are independent"),
        ("pipeline/commands/ui.py", "from pipeline.commands import app", "Stages and commands are independent"),
        ("pipeline/cli.py", "def lazily():\n    import mlflow", "Only pipeline.integrations.mlflow imports mlflow"),
        ("fcos/config.py", "from mlflow.entities import Run", "Only pipeline.integrations.mlflow imports mlflow"),
        ("pipeline/stages/first.py", "import fiftyone.core", "Only pipeline.integrations imports fiftyone"),
        ("pipeline/data/annotations.py", "from ruamel.yaml import YAML", "Only parameters, the runner, the registry"),
    ],
)
def test_each_contract_can_fail(tmp_path: Path, module: str, line: str, contract: str) -> None:
    for name in (*PACKAGES, "pyproject.toml"):
        source = PROJECT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    for stage in ("first", "second"):
        (tmp_path / "pipeline" / "stages" / f"{stage}.py").write_text("")
    with (tmp_path / module).open("a") as file:
        file.write(f"\n{line}\n")
    run = lint_imports(tmp_path, tmp_path / "cache")
    broken = [each for each in run.stdout.splitlines() if " BROKEN" in each]
    assert run.returncode == 1
    assert [each for each in broken if each.startswith(contract)], run.stdout + run.stderr


def test_detector_needs_little(graph: grimp.ImportGraph) -> None:
    imports = {
        f"{module} imports {needed}"
        for module in graph.modules
        if module.split(".")[0] == "fcos"
        for needed in graph.find_modules_directly_imported_by(module)
        if needed.split(".")[0] not in {"fcos", *DETECTOR_NEEDS, *sys.stdlib_module_names}
    }
    assert not imports, f"fcos/ runs with {', '.join(sorted(DETECTOR_NEEDS))} alone: {sorted(imports)}"


def test_no_module_escapes_the_check(graph: grimp.ImportGraph) -> None:
    """A folder without `__init__.py` would import, but not be looked at."""
    files = {file.relative_to(PROJECT) for name in PACKAGES for file in (PROJECT / name).rglob("*.py")}
    modules = {".".join(file.with_suffix("").parts).removesuffix(".__init__") for file in files}
    assert modules <= graph.modules
