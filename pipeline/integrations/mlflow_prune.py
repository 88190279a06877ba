"""Frees the space of runs that were deleted in MLflow's UI.

`mlflow gc` removes such runs and their artifacts, but leaves their models, which are most of the files.
"""

import io
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.integrations.mlflow_store import Store, destination, one_line_errors, store_uri
from pipeline.workspace import root


@dataclass(frozen=True)
class Pruned:
    """What was removed, and what stays although its run is deleted."""

    runs: tuple[str, ...]  # names
    models: int
    megabytes: float
    registered: tuple[str, ...]  # names of deleted runs with a registered model


def prune() -> Pruned:
    """Removes deleted runs of the project's own store for good, with their models and other files.

    Raises:
        PipelineError: MLflow's server keeps the runs, or the store can't be opened.
    """
    if server := destination():
        raise PipelineError(f"{server}: this server keeps the runs and their files; run `mlflow gc` on its machine")
    from mlflow.entities import ViewType

    artifacts = root() / "mlartifacts"
    before = _size(artifacts)
    with one_line_errors("removing deleted runs", ""):
        store = Store.open()
        versions = list(_pages(store.client.search_model_versions))
        kept_runs, kept_models = {item.run_id for item in versions}, {item.model_id for item in versions}
        runs = list(_pages(store.client.search_runs, [store.experiment], run_view_type=ViewType.ALL))
        active = {run.info.run_id for run in runs if run.info.lifecycle_stage == "active"}
        deleted = {run.info.run_id: str(run.info.run_name) for run in runs if run.info.run_id not in active}
        registered = {run: name for run, name in deleted.items() if run in kept_runs}
        obsolete = {run: name for run, name in deleted.items() if run not in registered}
        models = [  # also those of runs that `mlflow gc` has removed
            str(model.model_id)
            for model in _pages(store.client.search_logged_models, [store.experiment])
            if model.source_run_id not in {None, *active, *registered} and model.model_id not in kept_models
        ]
        if not obsolete and registered:  # without ids of runs, `mlflow gc` removes all that are deleted
            models = []
        if obsolete or models:
            _remove(store.client, list(obsolete), models)
    _remove_empty_folders(artifacts)
    freed = (before - _size(artifacts)) / 1e6
    return Pruned(tuple(obsolete.values()), len(models), freed, tuple(registered.values()))


def _pages(search: Callable[..., Any], *arguments: Any, **options: Any) -> Iterator[Any]:
    """All results of one of MLflow's searches, which limits them."""
    token = None
    while True:
        page = search(*arguments, **options, page_token=token)
        yield from page
        if not (token := page.token):
            return


def _remove(client: Any, runs: list[str], models: list[str]) -> None:
    """Deletes the models, which `mlflow gc` then removes with the runs."""
    import mlflow
    from mlflow.cli import gc

    for model in models:
        client.delete_logged_model(model)
    uri = store_uri()
    options = ["--backend-store-uri", uri, "--tracking-uri", uri, *(("--run-ids", ",".join(runs)) if runs else ())]
    try:
        with redirect_stdout(io.StringIO()):
            gc.main(options, standalone_mode=False)
    finally:
        mlflow.set_tracking_uri(None)  # as it was: `gc` sets it for the whole process


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def _remove_empty_folders(folder: Path) -> None:
    """Those that `mlflow gc` leaves of runs and models."""
    for path in [*folder.glob("models/*"), *folder.glob("*")]:
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
