"""`fcos ui --prune`: runs that were deleted in MLflow's UI, and their files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pipeline.cli import main
from pipeline.integrations import mlflow_prune
from pipeline.integrations.mlflow_store import Store
from tests.support.empty_store import copy_store


def prune(*options: str, answer: str = "") -> Result:
    return CliRunner(catch_exceptions=False).invoke(main, ["ui", "--prune", *options], input=answer)


@dataclass(frozen=True)
class Filled:
    """A store with runs that have a model each, and two folders of a file of 1 MB: the run's and the model's."""

    store: Store
    artifacts: Path

    def add(self, name: str, experiment: str = "") -> tuple[Any, Any, list[Path]]:
        run = self.store.client.create_run(experiment or self.store.experiment, run_name=name)
        model = self.store.client.create_logged_model(
            experiment or self.store.experiment, "detector", source_run_id=run.info.run_id
        )
        files = [Path(uri.removeprefix("file://"), "file") for uri in (run.info.artifact_uri, model.artifact_location)]
        for file in files:
            file.parent.mkdir(parents=True)
            file.write_bytes(bytes(1_000_000))
        return run, model, files


@pytest.fixture
def filled(inspected: Any, empty_store: Path) -> Filled:
    copy_store(empty_store, inspected.root / "mlflow.db")
    return Filled(Store.open(), inspected.root / "mlartifacts")


def test_deleted_runs_go_with_their_models_unless_these_are_registered(filled: Filled) -> None:
    client, experiment = filled.store.client, filled.store.experiment
    other = client.create_experiment("other", artifact_location=(filled.artifacts / "other").as_uri())
    notebook = client.create_experiment("notebook", artifact_location=(filled.artifacts / "notebook").as_uri())
    added = {name: filled.add(name) for name in ("kept", "gone", "registered")}
    added |= {"of other": filled.add("of other", other), "of notebook": filled.add("of notebook", notebook)}
    _, model, _ = added["registered"]
    client.create_registered_model("champion")
    client.create_model_version("champion", model.model_uri, model_id=model.model_id)  # without the run's id
    for name in ("gone", "registered", "of other"):
        client.delete_run(added[name][0].info.run_id)
    client.delete_logged_model(added["of other"][1].model_id)
    client.delete_experiment(notebook)
    client.create_logged_model(experiment, "detector", source_run_id="f" * 32)  # `mlflow gc` has removed its run
    being_written = filled.artifacts / "models/m-being-written"
    being_written.mkdir()
    (filled.artifacts / "link").symlink_to(being_written)

    listed = "gone; 2 models; 2.0 MB"
    kept = "kept, since their models are registered: registered\n"
    asked = prune(answer="n\n")
    question = f"{kept}to remove from MLflow: {listed}\nRemove this permanently? [y/N]: "
    assert (asked.exit_code, asked.stdout) == (1, f"{question}n\n")
    assert all(file.is_file() for *_, files in added.values() for file in files)
    assert prune(answer="y\n").stdout == f"{question}y\nremoved from MLflow: {listed}\n"

    assert not any(file.parents[1].exists() for file in added["gone"][2])
    assert all(file.is_file() for name, (*_, files) in added.items() if name != "gone" for file in files)
    assert being_written.is_dir()
    assert [run.info.run_name for run in client.search_runs([experiment])] == ["kept"]
    assert len(client.search_logged_models([experiment])) == 2
    assert client.get_logged_model(model.model_id).source_run_id == added["registered"][0].info.run_id
    assert client.get_run(added["of other"][0].info.run_id).info.lifecycle_stage == "deleted"
    client.restore_experiment(notebook)
    assert client.get_run(added["of notebook"][0].info.run_id).info.run_name == "of notebook"
    assert prune("--yes").stdout == f"{kept}nothing to remove from MLflow\n"


def test_what_is_restored_during_the_question_stays(filled: Filled) -> None:
    (run, _, files), (gone, _, _) = filled.add("restored"), filled.add("gone")
    for number in (run.info.run_id, gone.info.run_id):
        filled.store.client.delete_run(number)
    shown = mlflow_prune.find()
    assert set(shown.runs.values()) == {"restored", "gone"}
    assert shown.megabytes() == 4
    filled.store.client.restore_run(run.info.run_id)
    mlflow_prune.remove(shown)
    assert all(file.is_file() for file in files)
    assert [found.info.run_name for found in filled.store.client.search_runs([filled.store.experiment])] == ["restored"]


def test_a_server_keeps_its_files_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    done = prune()
    assert (done.exit_code, done.stderr) == (
        1,
        "fcos: http://127.0.0.1:9: this server keeps the runs and their files; run `mlflow gc` on its machine\n",
    )
