"""`fcos ui --prune`: runs that were deleted in MLflow's UI, and their files."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pipeline.cli import main
from pipeline.integrations.mlflow_store import Store
from tests.support.empty_store import copy_store


def prune() -> Result:
    return CliRunner(catch_exceptions=False).invoke(main, ["ui", "--prune"])


def test_deleted_runs_go_with_their_models_unless_these_are_registered(inspected: Any, empty_store: Path) -> None:
    copy_store(empty_store, inspected.root / "mlflow.db")
    store = Store.open()
    folders: dict[str, list[Path]] = {}
    for name in ("kept", "gone", "registered"):
        run = store.client.create_run(store.experiment, run_name=name)
        model = store.client.create_logged_model(store.experiment, "detector", source_run_id=run.info.run_id)
        folders[name] = [Path(uri.removeprefix("file://")) for uri in (run.info.artifact_uri, model.artifact_location)]
        for folder in folders[name]:
            folder.mkdir(parents=True)
            (folder / "file").write_bytes(bytes(1_000_000))
        if name == "registered":
            store.client.create_registered_model("champion")
            store.client.create_model_version("champion", model.model_uri, run.info.run_id, model_id=model.model_id)
        if name != "kept":
            store.client.delete_run(run.info.run_id)
    # MLflow's own command has removed its run.
    store.client.create_logged_model(store.experiment, "detector", source_run_id="f" * 32)
    done = prune()
    assert done.stdout == (
        "removed from MLflow: gone; 2 models; 2.0 MB freed\nkept, since their models are registered: registered\n"
    ), done.stderr
    assert not any(folder.parent.exists() for folder in folders["gone"])
    assert all((folder / "file").is_file() for name in ("kept", "registered") for folder in folders[name])
    assert [run.info.run_name for run in store.client.search_runs([store.experiment])] == ["kept"]
    assert len(store.client.search_logged_models([store.experiment])) == 2
    assert prune().stdout.startswith("removed from MLflow: no run; 0 models; 0.0 MB freed\n")


def test_a_server_keeps_its_files_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    done = prune()
    assert (done.exit_code, done.stderr) == (
        1,
        "fcos: http://127.0.0.1:9: this server keeps the runs and their files; run `mlflow gc` on its machine\n",
    )
