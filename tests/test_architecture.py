"""Imports go one way: the contracts of pyproject.toml hold, and each contract can fail."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

from tests.support.paths import PROJECT

PACKAGES = ("fcos", "pipeline")
DETECTOR_PACKAGES = {"torch", "torchvision", "numpy", "safetensors", "PIL"}


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


# A line added to a module, the contract that it breaks, and how the report shows it.
VIOLATIONS = [
    ("fcos/config.py", "import pipeline.files", "The detector knows nothing of", "fcos.config -> pipeline.files"),
    ("fcos/config.py", "import fcos.head", "The detector: imports go one way", "fcos.config -> fcos.head"),
    ("pipeline/files.py", "import pipeline.cli", "The pipeline: imports go one way", "pipeline.files -> pipeline.cli"),
    (
        "pipeline/evaluation/voc.py",
        "import pipeline.stages.first",
        "The pipeline: imports go one way",
        "pipeline.evaluation.voc -> pipeline.stages.first",
    ),
    (
        "pipeline/loading/cache.py",
        "import pipeline.training.build",
        "The pipeline: imports go one way",
        "pipeline.loading.cache -> pipeline.training.build",
    ),
    ("pipeline/loose.py", "", "The pipeline: imports go one way", "pipeline.loose"),
    (
        "pipeline/stages/second.py",
        "from pipeline.stages import first",
        "Stages and commands are independent",
        "pipeline.stages.second -> pipeline.stages.first",
    ),
    (
        "pipeline/commands/ui.py",
        "from pipeline.commands import app",
        "Stages and commands are independent",
        "pipeline.commands.ui -> pipeline.commands.app",
    ),
    (
        "pipeline/cli.py",
        "def lazily():\n    import mlflow",
        "Only pipeline.integrations imports mlflow",
        "pipeline.cli -> mlflow",
    ),
    (
        "fcos/config.py",
        "from mlflow.entities import Run",
        "Only pipeline.integrations imports mlflow",
        "fcos.config -> mlflow",
    ),
    (
        "pipeline/stages/first.py",
        "import fiftyone.core",
        "Only pipeline.integrations imports fiftyone",
        "pipeline.stages.first -> fiftyone",
    ),
    (
        "pipeline/data/annotations.py",
        "from ruamel.yaml import YAML",
        "Only pipeline.yaml_files and YOLO's manifests",
        "pipeline.data.annotations -> ruamel",
    ),
]


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The report on a copy with all violations: the section of each broken contract, by the contract's name."""
    folder = tmp_path_factory.mktemp("broken")
    for name in (*PACKAGES, "pyproject.toml"):
        source = PROJECT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    for stage in ("first", "second"):
        (folder / "pipeline" / "stages" / f"{stage}.py").write_text("")
    for module, line, *_ in VIOLATIONS:
        with (folder / module).open("a") as file:
            file.write(f"\n{line}\n")
    run = lint_imports(folder, folder / "cache")
    assert run.returncode == 1
    report = run.stdout.split("Broken contracts\n", 1)[1]
    heading = re.compile(r"^(.+)\n-{10,}$", re.MULTILINE)
    starts = [*heading.finditer(report)]
    ends = [start.start() for start in starts[1:]] + [len(report)]
    return {start[1]: report[start.end() : end] for start, end in zip(starts, ends, strict=True)}


@pytest.mark.parametrize(("module", "line", "contract", "shown"), VIOLATIONS)
def test_each_contract_can_fail(broken: dict[str, str], module: str, line: str, contract: str, shown: str) -> None:
    (section,) = (text for name, text in broken.items() if name.startswith(contract))
    assert re.search(rf"^[- ] +{re.escape(shown)}( \(l\.|$)", section, re.MULTILINE), f"{module}: {line}\n{section}"


def test_the_detector_imports_few_packages(graph: grimp.ImportGraph) -> None:
    imports = {
        f"{module} imports {package}"
        for module in graph.modules
        if module.split(".")[0] == "fcos"
        for package in graph.find_modules_directly_imported_by(module)
        if package.split(".")[0] not in {"fcos", *DETECTOR_PACKAGES, *sys.stdlib_module_names}
    }
    assert not imports, f"fcos/ may import only {', '.join(sorted(DETECTOR_PACKAGES))}: {sorted(imports)}"


def test_only_the_predictor_knows_images_of_pillow(graph: grimp.ImportGraph) -> None:
    users = {module for module in graph.find_modules_that_directly_import("PIL") if module.startswith("fcos.")}
    assert users == {"fcos.predictor"}


def test_every_module_is_checked(graph: grimp.ImportGraph) -> None:
    """A folder without `__init__.py` could be imported, but import-linter would not check it."""
    files = {file.relative_to(PROJECT) for name in PACKAGES for file in (PROJECT / name).rglob("*.py")}
    modules = {".".join(file.with_suffix("").parts).removesuffix(".__init__") for file in files}
    assert modules <= graph.modules
