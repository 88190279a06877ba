"""From experiments to MLflow's runs, and from runs to their predictions.

DVC restores a stage from its cache without running it, so that no run is made. The hashes in dvc.lock are those of the
run that made the result, which the stages note as tags.
"""

import subprocess
from typing import Any

from pipeline.errors import PipelineError
from pipeline.files import to_utf8
from pipeline.integrations.mlflow_store import Store, destination, one_line_errors
from pipeline.workspace import root, workspace
from pipeline.yaml_files import parse_yaml

# Outputs by which a run is found, with the tag that has their hash; the later stage first.
OUTPUTS = {"predictions": "dvc_predictions", "models": "dvc_models"}


def find_run(store: Store, name: str) -> str:
    """The run that made the result of an experiment.

    Args:
        name: of DVC's experiment, or a git revision; `workspace` for the current folder.

    Raises:
        PipelineError: there is no such experiment, it has not run, or MLflow has no run of it.
    """
    hashes = _output_hashes(name)
    for output, tag in OUTPUTS.items():
        if (value := hashes.get(output)) and (run := store.find_run({tag: value})):
            return run
    raise PipelineError(f"{name}: MLflow has no run that made its {' or '.join(hashes)}: `fcos sync` sends what waits")


def _output_hashes(name: str) -> dict[str, str]:
    """DVC's hashes of the outputs of train and evaluate."""
    content = _read_lock(name)
    stages: dict[str, Any] = parse_yaml(content, workspace() / "dvc.lock").get("stages", {}) if content else {}
    outputs = [output for stage in stages.values() for output in stage.get("outs", [])]
    hashes = {output["path"]: output["md5"] for output in outputs if output["path"] in OUTPUTS}
    if not hashes:
        raise PipelineError(f"{name}: dvc.lock has no trained detector: run `dvc repro`")
    return hashes


def _read_lock(name: str) -> str:
    if name == "workspace":
        path = workspace() / "dvc.lock"
        return to_utf8(path.read_bytes()).decode() if path.is_file() else ""
    # Named experiments first: a branch may have been made of one.
    references = [
        ref for ref in _git("for-each-ref", "--format=%(refname)", "refs/exps").split() if ref.endswith(f"/{name}")
    ]
    if len(references) > 1:
        raise PipelineError(f"{name}: several experiments have this name: give the commit of one, see `dvc exp show`")
    revision = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{(references or [name])[0]}^{{commit}}")
    if not revision.strip():
        raise PipelineError(
            f"{name}: no experiment and no git revision has this name; see `dvc exp list --all-commits`"
        )
    return _git("show", f"{revision.strip()}:./dvc.lock")


def _git(*arguments: str) -> str:
    result = subprocess.run(["git", *arguments], cwd=workspace(), capture_output=True, text=True, check=False)
    return result.stdout if result.returncode == 0 else ""


def find_predictions(name: str) -> str | None:
    """The digest of the predictions of the run with this name or id; None if there is no such run.

    Raises:
        PipelineError: several runs have this name, the run has no predictions, or the store can't be opened.
    """
    server = destination()
    if not server and not (root() / "mlflow.db").is_file():
        return None
    with one_line_errors("looking for a run", server):
        store = Store.open(server)
        quote_mark = '"' if "'" in name else "'"
        runs = [
            run
            for attribute in ("run_id", "run_name")
            for run in store.client.search_runs([store.experiment], f"{attribute} = {quote_mark}{name}{quote_mark}")
        ]
    if not runs:
        return None
    if len(runs) > 1:
        raise PipelineError(f"{name}: {len(runs)} MLflow runs have this name; give the id of one, see `fcos ui`")
    predictions: str | None = runs[0].data.tags.get("predictions")
    if predictions is None:
        raise PipelineError(f"{name}: this MLflow run has not been evaluated; run `dvc repro evaluate`")
    return predictions
