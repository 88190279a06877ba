"""dvc.yaml tells the truth: a stage's deps are the code that it imports, its params those that it reads.

Without that, an edit would leave an old result "up to date", or run a stage that nothing changed.
`python tests/pipeline/test_dvc_yaml.py STAGE` prints the code that belongs into the stage's deps.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grimp
import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[2]
PACKAGES = ("fcos", "pipeline")
NEVER_WHOLE = {Path(), Path("pipeline"), Path("pipeline/stages")}  # as one dep: each stage would depend on all others
STAGES: dict[str, dict[str, Any]] = yaml.safe_load((PROJECT / "dvc.yaml").read_text())["stages"]
WRITTEN = [name for name in STAGES if (PROJECT / "pipeline" / "stages" / f"{name}.py").is_file()]
# download is keyed by its parameters alone: an edit of its code must not fetch gigabytes again (see dvc.yaml).
WITH_CODE = [name for name in WRITTEN if name != "download"]


def source(module: str) -> Path:
    """A module's file, relative to the project."""
    path = Path(*module.split("."))
    return path.with_suffix(".py") if (PROJECT / path).with_suffix(".py").is_file() else path / "__init__.py"


def is_empty(file: Path) -> bool:
    return file.name == "__init__.py" and not (PROJECT / file).read_text().strip()


def imported(stage: str) -> set[Path]:
    """Every file of fcos/ and pipeline/ that the stage imports, itself included; empty `__init__.py` files aside."""
    graph = grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True, cache_dir=None)
    todo, seen = {f"pipeline.stages.{stage}"}, set()
    while todo:
        module = todo.pop()
        seen.add(module)
        parents = {module.rsplit(".", depth)[0] for depth in range(1, module.count(".") + 1)}  # they run first
        todo |= (graph.find_modules_directly_imported_by(module) | parents) - seen
    return {file for file in map(source, seen) if not is_empty(file)}


def covered(deps: list[str]) -> set[Path]:
    """Every file of fcos/ and pipeline/ that the deps name, by themselves or by their folder."""
    named = [Path(dep) for dep in deps if dep.split("/")[0] in PACKAGES]
    files = {file for path in named for file in ([path] if path.suffix else modules_in(path))}
    return {file for file in files if not is_empty(file)}


def modules_in(folder: Path) -> Iterator[Path]:
    return (file.relative_to(PROJECT) for file in (PROJECT / folder).rglob("*.py"))


def shortest(files: set[Path]) -> list[str]:
    """The deps that cover exactly these files: a folder where all of its modules are among them.

    A folder with a single module counts where it has data too, which that module reads: entries of data sets.
    """

    def whole(folder: Path) -> bool:
        inside = {file for file in modules_in(folder) if not is_empty(file)}
        alone = len(inside) < 2 and not any((PROJECT / folder).glob("*.yaml"))
        return folder not in NEVER_WHOLE and not alone and inside <= files

    return sorted({next((str(p) for p in reversed(file.parents) if whole(p)), str(file)) for file in files})


def as_yaml(stage: str) -> str:
    return "\n".join(f"    - {dep}" for dep in shortest(imported(stage)))


@pytest.mark.parametrize("stage", WITH_CODE)
def test_deps_are_the_code_that_the_stage_imports(stage: str) -> None:
    needed, named = imported(stage), covered(STAGES[stage]["deps"])
    wrong = f"missing {sorted(map(str, needed - named))}, too many {sorted(map(str, named - needed))}"
    assert named == needed, f"dvc.yaml, stage {stage}: {wrong}. The code among its deps should be:\n{as_yaml(stage)}"


@pytest.mark.parametrize("stage", WRITTEN)
def test_deps_exist(stage: str) -> None:
    code = [dep for dep in STAGES[stage]["deps"] if dep.split("/")[0] in PACKAGES]
    assert [dep for dep in code if not (PROJECT / dep).exists()] == []


def read_params(stage: str) -> set[str]:
    """The parameters that a stage reads: `train.lr` for `params.train.lr`, in any function of the code it imports.

    The rule that makes this simple: only an argument annotated as `Params` is the whole; sections and values are
    handed on as such. `pipeline.tracking` and `pipeline.stage` don't count: they record, and compare, everything.
    """
    files = imported(stage) - {Path("pipeline/tracking.py"), Path("pipeline/stage.py"), Path("pipeline/params.py")}
    trees = [ast.parse((PROJECT / file).read_text()) for file in files]
    functions = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    chains = set()
    for function in functions:
        whole = {argument.arg for argument in function.args.args if is_params(argument)}
        chains |= {chain for node in ast.walk(function) for chain in chain_of(node, whole)}
    return chains & known_params()


def is_params(argument: ast.arg) -> bool:
    """Whether an argument is annotated as `Params`, the whole, not as one section's class."""
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


@pytest.mark.parametrize("stage", WRITTEN)
def test_params_are_those_that_the_stage_reads(stage: str) -> None:
    declared, read = STAGES[stage]["params"], read_params(stage)
    undeclared = {name for name in read if not any(within(name, each) or within(each, name) for each in declared)}
    unread = {each for each in declared if not any(within(name, each) or within(each, name) for name in read)}
    assert not undeclared, f"dvc.yaml, stage {stage}: params lacks {sorted(undeclared)}"
    assert not unread, f"dvc.yaml, stage {stage}: params has {sorted(unread)}, which the stage never reads"


def within(name: str, section: str) -> bool:
    return name == section or name.startswith(f"{section}.")


if __name__ == "__main__":
    sys.path.insert(0, str(PROJECT))
    print(as_yaml(sys.argv[1]))  # noqa: T201
