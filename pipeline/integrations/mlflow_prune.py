"""Frees the space of runs that were deleted in MLflow's UI.

`mlflow gc` also removes deleted experiments, whatever ids it gets, and leaves the models of runs, which are most of the
files.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.integrations.mlflow_database import artifacts_uri, store_uri
from pipeline.integrations.mlflow_store import Store, destination, one_line_errors
from pipeline.workspace import root


@dataclass(frozen=True)
class Obsolete:
    """What can be removed, and what stays although its run is deleted."""

    runs: dict[str, str]  # names by id
    models: tuple[str, ...]  # ids, also of runs that `mlflow gc` has removed
    artifacts: dict[str, str]  # addresses of the files by the id of the run or model
    registered: tuple[str, ...]  # names of deleted runs with a registered model

    def megabytes(self) -> float:
        return sum(_size(_local(uri)) for uri in self.artifacts.values()) / 1e6


def find() -> Obsolete:
    """The deleted runs of the project's own store, with their models.

    Raises:
        PipelineError: MLflow's server keeps the runs, or the store can't be opened.
    """
    if server := destination():
        raise PipelineError(f"{server}: this server keeps the runs and their files; run `mlflow gc` on its machine")
    from mlflow.entities import ViewType

    with one_line_errors("looking for deleted runs", ""):
        store = Store.open()
        # In this order: otherwise, a model that is logged meanwhile would seem to be one of a missing run.
        logged = list(_pages(store.client.search_logged_models, [store.experiment]))
        runs = list(_pages(store.client.search_runs, [store.experiment], run_view_type=ViewType.ALL))
        versions = list(_pages(store.client.search_model_versions))
    kept = {item.model_id for item in versions}
    registered = {item.run_id for item in versions} | {item.source_run_id for item in logged if item.model_id in kept}
    deleted = {run.info.run_id: run.info for run in runs if run.info.lifecycle_stage != "active"}
    stays = {None, *registered, *(run.info.run_id for run in runs if run.info.run_id not in deleted)}
    models = {item.model_id: item for item in logged if item.source_run_id not in stays and item.model_id not in kept}
    names = {number: str(info.run_name) for number, info in deleted.items()}
    addresses = {number: item.artifact_location for number, item in models.items()}
    return Obsolete(
        {number: name for number, name in names.items() if number not in registered},
        tuple(models),
        addresses | {number: info.artifact_uri for number, info in deleted.items() if number not in registered},
        tuple(name for number, name in names.items() if number in registered),
    )


def remove(shown: Obsolete) -> None:
    """Removes these runs and models for good, with their files, unless they were restored or registered meanwhile.

    Raises:
        PipelineError: the store can't be opened, or a file can't be removed.
    """
    still = find()
    with one_line_errors("removing deleted runs", ""):
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        database = SqlAlchemyStore(store_uri(), artifacts_uri())
        # Models first: those of a run that is gone would still be found, but not with its name.
        steps = ((shown.models, database._hard_delete_logged_model), (shown.runs, database._hard_delete_run))
        for numbers, delete in steps:
            for number in numbers:
                if uri := still.artifacts.get(number):
                    get_artifact_repository(uri).delete_artifacts()
                    delete(number)
                    _remove_empty_folder(_local(uri).parent, number)


def _pages(search: Callable[..., Any], *arguments: Any, **options: Any) -> Iterator[Any]:
    """All results of one of MLflow's searches, which limits them."""
    token = None
    while True:
        page = search(*arguments, **options, page_token=token)
        yield from page
        if not (token := page.token):
            return


def _local(uri: str) -> Path:
    from mlflow.utils.file_utils import local_file_uri_to_path

    return Path(local_file_uri_to_path(uri))


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def _remove_empty_folder(folder: Path, name: str) -> None:
    """The folder of a run or a model, in which MLflow keeps its folder of artifacts."""
    if folder.name == name and root() in folder.parents:
        with suppress(OSError):
            folder.rmdir()
