"""The project's own MLflow store: its database and its folder of artifacts."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pipeline import params
from pipeline.cli import main
from pipeline.integrations import mlflow, servers
from pipeline.params import Params
from tests.support.paths import PROJECT
from tests.support.projects import start_python

pytestmark = pytest.mark.usefixtures("inspected")


def test_the_store_is_closed_to_other_users(values: Params, inspected: Any) -> None:
    files = [inspected.root / name for name in ("mlflow.db", "mlflow.db-wal", "mlflow.db-shm", "mlflow.db.old")]
    artifacts = inspected.root / "mlartifacts"
    files[3].touch()
    with mlflow.train_run(values, key="k") as run:
        run.log_artifacts(inspected.root / "data/raw/digits/pictures")
        run.mark_finished("a" * 64)
    with closing(sqlite3.connect(files[0])) as reader:
        reader.execute("SELECT * FROM runs").fetchall()  # an open connection keeps SQLite's further files
        for path in (*files, artifacts):
            path.chmod(0o777 if path.is_dir() else 0o666)
        mlflow.prepare()
        assert {oct(path.stat().st_mode & 0o777) for path in files} == {"0o600"}
        assert artifacts.stat().st_mode & 0o777 == 0o700


def test_a_new_store_is_closed_whatever_the_umask(empty_store: Path) -> None:
    assert empty_store.stat().st_mode & 0o777 == 0o600
    for folder in ("mlartifacts", ".fcos"):
        assert empty_store.with_name(folder).stat().st_mode & 0o777 == 0o700


def test_three_processes_can_create_the_store_at_once(tmp_path: Path) -> None:
    code = (
        "from pipeline import params, process\nfrom pipeline.integrations import mlflow\n"
        "with process.quick_exit(), mlflow.train_run(params.load(), key='k') as run: run.mark_finished('w')"
    )
    folder = tmp_path / "with a space"
    folder.mkdir()
    for name in ("dvc.yaml", "params.yaml"):
        (folder / name).write_text((tmp_path / name).read_text())
    processes = [start_python(code, folder=folder) for _ in range(3)]
    stderr = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], stderr
    assert stderr == ["", "", ""]
    assert [path.name for path in folder.glob("mlflow.db*")] == ["mlflow.db"]  # a copy of this file is complete
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        assert connection.execute("SELECT name FROM experiments WHERE name = 'fcos'").fetchall() == [("fcos",)]
        assert connection.execute("SELECT status FROM runs").fetchall() == [("FINISHED",)] * 3


def test_a_broken_store_gives_one_line(inspected: Any) -> None:
    (inspected.root / "mlflow.db").write_bytes(b"this is no database" * 100)
    response = CliRunner().invoke(main, ["ui", "--port", str(servers.find_free_port())])
    assert response.exit_code == 1
    assert "file is not a database" in response.stderr
    assert response.stderr.count("\n") == 1


@pytest.mark.parametrize("folder", ["a?b#c%20d;e&f=g", 'it\'s "that"', "日本 é", "[x]*{y}$HOME`id`\\n"])
def test_any_path_of_the_project_has_its_store_in_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path, folder: str
) -> None:
    project = tmp_path / "around" / folder
    project.mkdir(parents=True)
    shutil.copyfile(PROJECT / "dvc.yaml", project / "dvc.yaml")
    with closing(sqlite3.connect(empty_store)) as source, closing(sqlite3.connect(project / "mlflow.db")) as copy, copy:
        source.backup(copy)  # quicker than a new one
        copy.execute("DELETE FROM experiments")
    monkeypatch.chdir(project)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    with mlflow.train_run(params.load(PROJECT / "params.yaml"), key="k") as run:
        run.log_artifacts(project / "dvc.yaml")
    assert [item.path for item in mlflow.Store.open().client.list_artifacts(run.id)] == ["dvc.yaml"]
    artifact = project / f"mlartifacts/{run.id}/artifacts/dvc.yaml"
    assert artifact.read_bytes() == (PROJECT / "dvc.yaml").read_bytes()
    assert list(project.parent.iterdir()) == [project]
    created = {path.name.removesuffix("-wal").removesuffix("-shm") for path in project.iterdir()}
    assert created == {".fcos", "dvc.yaml", "mlartifacts", "mlflow.db"}


@pytest.mark.usefixtures("values")
def test_a_moved_project_has_its_artifacts_in_its_own_folder(inspected: Any) -> None:
    """MLflow stores absolute addresses, so the artifacts of new runs would go to the folder of before."""
    here = (inspected.root / "mlartifacts").as_uri()
    store = mlflow.Store.open()
    run, other = (store.client.create_run(store.experiment).info for _ in range(2))
    assert run.artifact_uri == f"{here}/{run.run_id}/artifacts"
    with closing(sqlite3.connect(inspected.root / "mlflow.db")) as connection, connection:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            connection.execute(
                f"UPDATE {table} SET {column} = replace({column}, ?, 'file:///a%20b/mlartifacts')", [here]
            )
        elsewhere = "file:///a%20b/mlartifacts2/artifacts"
        connection.execute("UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", (elsewhere, other.run_id))
    store = mlflow.Store.open()
    assert store.client.get_experiment(store.experiment).artifact_location == here
    assert store.client.get_run(run.run_id).info.artifact_uri == run.artifact_uri
    assert store.client.get_run(other.run_id).info.artifact_uri == elsewhere
