"""dvc.yaml is complete: a stage depends on the code that determines its result, and on the parameters that it reads.

Otherwise an edit would leave an old result "up to date", or run a stage whose result can't change.
`python -m tests.test_dvc_yaml STAGE` prints the files that the stage imports and that can change its result.
"""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import grimp
import pytest
import yaml

from tests.support.paths import PROJECT

PACKAGES = ("fcos", "pipeline")
# Code that can't change a result: the runner and its modules, advice, progress, images, MLflow and FiftyOne.
NEUTRAL = (
    "fcos/__init__.py",  # only public names, which no module of the project imports
    "fcos/onnx_detector.py",  # no stage runs ONNX
    "fcos/onnx_files.py",
    "fcos/onnx_metadata.py",
    "fcos/ops/torchvision_library.py",  # loads a compiled library
    "pipeline/analysis",
    "pipeline/digests.py",
    "pipeline/errors.py",
    "pipeline/files.py",
    "pipeline/inference/device.py",
    "pipeline/integrations",
    "pipeline/overrides.py",
    "pipeline/params.py",
    "pipeline/process.py",
    "pipeline/runner.py",
    "pipeline/visualization",
    "pipeline/workspace.py",
    "pipeline/yaml_files.py",
)
# Images that inspect writes are its results, so these modules are not neutral.
RESULT_IMAGES = (
    "pipeline/visualization/boxes.py",
    "pipeline/visualization/contact_sheets.py",
    "pipeline/visualization/inspection",
    "pipeline/visualization/pages.py",
)
# Code that can't change the result of one stage. The registry checks the name of an entry's format against the formats.
NEUTRAL_FOR = {"evaluate": ("pipeline/formats",)}
# Small packages, declared as a whole whichever of their modules a stage imports.
WHOLE = {"fcos/fast", "pipeline/data"}
# Parts of a declared package that the stage does not import. Running the stage again for a change there costs little.
UNUSED = {
    "convert": {"pipeline/conversion/export.py", "pipeline/formats/writers"},
    "evaluate": {
        "fcos/assigners",
        "fcos/criterion.py",
        "fcos/drawing.py",
        "fcos/losses",
        "fcos/onnx_metadata.py",
        "fcos/operating_point.py",
        "fcos/predictor.py",
        "fcos/torchvision_weights.py",
        "fcos/training",
        "pipeline/evaluation/comparison.py",
        "pipeline/evaluation/comparison_report.py",
        "pipeline/evaluation/embedding_maps.py",
        "pipeline/evaluation/error_costs.py",
        "pipeline/evaluation/error_kinds.py",
        "pipeline/evaluation/ground_truth.py",
        "pipeline/evaluation/inputs.py",
        "pipeline/evaluation/result_files.py",
        "pipeline/evaluation/truth_files.py",
        "pipeline/inference/annotations.py",
        "pipeline/inference/import_weights.py",
        "pipeline/inference/recorded_views.py",
        "pipeline/inference/score_thresholds.py",
    },
}
MAX_LINES = 58  # of code dependencies, in all stages together
STAGES: dict[str, dict[str, Any]] = yaml.safe_load((PROJECT / "dvc.yaml").read_text())["stages"]
# download depends on its parameters alone: an edit of its code must not download gigabytes again (see dvc.yaml).
WITH_CODE = [name for name in STAGES if name != "download"]


def source(module: str) -> Path:
    """A module's file, relative to the project."""
    path = Path(*module.split("."))
    return path.with_suffix(".py") if (PROJECT / path).with_suffix(".py").is_file() else path / "__init__.py"


def is_empty(file: Path) -> bool:
    """Whether a file is an `__init__.py` without code."""
    body = ast.parse((PROJECT / file).read_text()).body
    return file.name == "__init__.py" and all(isinstance(node, ast.Expr) for node in body)


def within(file: Path, names: Iterator[str] | tuple[str, ...] | set[str] | list[str]) -> bool:
    return any(file == Path(name) or Path(name) in file.parents for name in names)


def is_neutral(file: Path) -> bool:
    return within(file, NEUTRAL) and not within(file, RESULT_IMAGES)


@cache
def import_graph() -> grimp.ImportGraph:
    return grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True, cache_dir=None)


@cache
def imported(stage: str) -> frozenset[Path]:
    """The stage's module and the files that it imports, directly or not.

    Imports of neutral modules are not followed: they can't change a result either.
    """
    pending, visited = {f"pipeline.stages.{stage}"}, set()
    while pending:
        module = pending.pop()
        visited.add(module)
        if is_neutral(source(module)) or within(source(module), NEUTRAL_FOR.get(stage, ())):
            continue
        parents = {module.rsplit(".", depth)[0] for depth in range(1, module.count(".") + 1)}  # are imported first
        pending |= (import_graph().find_modules_directly_imported_by(module) | parents) - visited
    return frozenset(file for file in map(source, visited) if not is_empty(file))


def determining(stage: str) -> set[Path]:
    neutral = NEUTRAL_FOR.get(stage, ())
    return {file for file in imported(stage) if not (is_neutral(file) or within(file, neutral))}


def code(stage: str) -> list[str]:
    return [dep for dep in STAGES[stage]["deps"] if dep.split("/")[0] in PACKAGES]


def covered(deps: list[str]) -> set[Path]:
    """The files that the dependencies name, directly or by their folder."""
    files = {file for dep in deps for file in ([Path(dep)] if dep.endswith(".py") else modules_in(Path(dep)))}
    return {file for file in files if not is_empty(file)}


def modules_in(folder: Path) -> Iterator[Path]:
    return (file.relative_to(PROJECT) for file in (PROJECT / folder).rglob("*.py"))


@pytest.mark.parametrize("stage", WITH_CODE)
def test_deps_cover_the_code_that_determines_the_result(stage: str) -> None:
    missing = determining(stage) - covered(code(stage))
    assert not missing, f"dvc.yaml, stage {stage}: deps lack {sorted(map(str, missing))}"


@pytest.mark.parametrize("stage", WITH_CODE)
def test_deps_name_only_code_that_the_stage_imports(stage: str) -> None:
    used, allowed = imported(stage), UNUSED.get(stage, set())
    unused = {file for file in covered(code(stage)) - used if not within(file, allowed | WHOLE)}
    assert not unused, f"dvc.yaml, stage {stage}: deps name {sorted(map(str, unused))}, which the stage doesn't import"
    assert not [name for name in allowed if any(within(file, {name}) for file in used)], "listed as unused, but used"


def test_code_dependencies_are_few_lines() -> None:
    assert sum(len(code(stage)) for stage in WITH_CODE) <= MAX_LINES


@pytest.mark.parametrize("stage", STAGES)
def test_deps_exist(stage: str) -> None:
    assert [dep for dep in code(stage) if not (PROJECT / dep).exists()] == []


# Modules that record, compare and check all parameters.
RECORDERS = {Path("pipeline/integrations/mlflow.py"), Path("pipeline/runner.py"), Path("pipeline/params.py")}


def read_params(stage: str) -> set[str]:
    """The parameters that a stage reads: `train.lr` for `params.train.lr`, in any function of the code it imports.

    Code follows a rule that makes this simple: an argument with all parameters is annotated as `Params`. Any other
    argument is a section or a value.
    """
    files = {file for file in imported(stage) if file not in RECORDERS}
    trees = [ast.parse((PROJECT / file).read_text()) for file in files]
    functions = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    chains = set()
    for function in functions:
        whole = {argument.arg for argument in function.args.args if is_params(argument)}
        chains |= {chain for node in ast.walk(function) for chain in chain_of(node, whole)}
    # `machine` can't change a result, so no stage declares it.
    return {chain for chain in chains & known_params() if not inside(chain, "machine")}


def is_params(argument: ast.arg) -> bool:
    """Whether an argument is annotated as `Params`, not as the class of a section."""
    return argument.annotation is not None and ast.unparse(argument.annotation) in ("Params", "params.Params")


def chain_of(node: ast.AST, names: set[str]) -> Iterator[str]:
    """`a` and `a.b` for an expression `params.a.b`."""
    if isinstance(node, ast.Attribute):
        root, *keys = ast.unparse(node).split(".")
        if root in names:
            yield ".".join(keys[:2])


def known_params() -> set[str]:
    values = yaml.safe_load((PROJECT / "params.yaml").read_text())
    inner = {f"{name}.{key}" for name, section in values.items() if isinstance(section, dict) for key in section}
    return set(values) | inner


@pytest.mark.parametrize("stage", STAGES)
def test_params_are_those_that_the_stage_reads(stage: str) -> None:
    declared, read = STAGES[stage]["params"], read_params(stage)
    undeclared = {name for name in read if not any(overlap(name, section) for section in declared)}
    unread = {section for section in declared if not any(overlap(name, section) for name in read)}
    assert not undeclared, f"dvc.yaml, stage {stage}: params lacks {sorted(undeclared)}"
    assert not unread, f"dvc.yaml, stage {stage}: params has {sorted(unread)}, which the stage never reads"


def overlap(a: str, b: str) -> bool:
    return inside(a, b) or inside(b, a)


def inside(name: str, section: str) -> bool:
    return name == section or name.startswith(f"{section}.")


if __name__ == "__main__":
    print("\n".join(sorted(map(str, determining(sys.argv[1])))))  # noqa: T201
