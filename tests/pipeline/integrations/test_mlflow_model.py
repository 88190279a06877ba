"""The MLflow model of a detector contains everything that it imports."""

import sys
import zipimport
from importlib.metadata import packages_distributions
from pathlib import Path

import grimp

from pipeline.integrations import mlflow_model
from pipeline.integrations.mlflow_model import CODE, PACKAGES
from tests.support.paths import PROJECT

SERVED = "pipeline.integrations.served_detector"
OPTIONAL = ("timm", "torchvision", "efficientnet")  # of some backbones, which name the missing package


def imported() -> set[str]:
    """What the served detector imports, directly or not, with the packages that modules are in."""
    graph = grimp.build_graph("fcos", "pipeline", include_external_packages=True, exclude_type_checking_imports=True)
    pending, modules = {SERVED}, set()
    while pending:
        module = pending.pop()
        modules.add(module)
        parents = {module.rsplit(".", depth)[0] for depth in range(1, module.count(".") + 1)}
        pending |= (graph.find_modules_directly_imported_by(module) | parents) - modules
    return modules - {SERVED, "pipeline.integrations"}  # MLflow runs the file itself


def is_packed(module: str) -> bool:
    path = Path(*module.split("."))
    files = [file for file in (path.with_suffix(".py"), path / "__init__.py") if (PROJECT / file).is_file()]
    return any(file == Path(name) or Path(name) in file.parents for file in files for name in CODE)


def test_the_model_has_the_code_and_names_the_packages_that_it_imports() -> None:
    own = {module for module in imported() if module.split(".")[0] in ("fcos", "pipeline")}
    assert len(own) > 20
    assert [module for module in sorted(own) if not is_packed(module)] == []
    external = {module.split(".")[0] for module in imported() - own} - set(sys.stdlib_module_names)
    distributions = packages_distributions()
    unnamed = {name for name in external if not {item.lower() for item in distributions[name]} & set(PACKAGES)}
    assert {name for name in unnamed if not name.startswith(OPTIONAL)} == set()


def test_the_archive_is_importable_and_the_same_code_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "first.zip", tmp_path / "second.zip"
    for path in (first, second):
        mlflow_model._pack_code(path)
    assert first.read_bytes() == second.read_bytes()
    importer = zipimport.zipimporter(f"{first}/fcos")
    assert importer.get_source("detector") == (PROJECT / "fcos/detector.py").read_text()
    assert zipimport.zipimporter(f"{first}/pipeline").find_spec("stages") is None
