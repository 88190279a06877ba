"""The queue of what MLflow has yet to receive, and its sender, with a store that records what it is given."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pipeline.files import write_text
from pipeline.integrations import mlflow_queue, mlflow_sender
from pipeline.integrations.mlflow_queue import Entry, abandoned, entries
from pipeline.integrations.mlflow_sender import Sender, send_abandoned
from pipeline.integrations.mlflow_store import RefusedError

pytestmark = pytest.mark.usefixtures("inspected")


@dataclass
class Store:
    """Records operations; raises the error of a kind of operation."""

    errors: dict[str, Exception] = field(default_factory=dict)
    applied: list[dict[str, Any]] = field(default_factory=list)

    def apply(self, entry: Entry, operation: dict[str, Any]) -> None:
        if error := self.errors.get(operation["kind"]):
            raise error
        self.applied.append(operation)
        if operation["kind"] == "open":
            entry.run = "a run"


def left_behind(*operations: str) -> Entry:
    """An entry of a process that has ended."""
    entry = Entry.create("train", "")
    for kind in operations:
        entry.append(kind)
    entry.lock.release()
    return entry


def kinds(store: Store) -> list[str]:
    return [operation["kind"] for operation in store.applied]


def test_operations_are_read_in_their_order_once() -> None:
    entry = Entry.create("train", "")
    for number in range(3):
        entry.append("tags", tags={"number": str(number)})
    (_, _), (_, position), (_, _) = entry.unsent()
    entry.mark_sent(position)
    assert [operation["tags"]["number"] for operation, _ in entry.unsent()] == ["2"]


def test_a_line_that_a_killed_process_left_incomplete_is_no_operation() -> None:
    entry = left_behind("open")
    with (entry.path / "operations.jsonl").open("a") as file:
        file.write('{"kind": "met')
    assert [operation["kind"] for operation, _ in entry.unsent()] == ["open"]


def test_a_file_stays_as_it_was_when_its_writer_replaces_it(tmp_path: Path) -> None:
    entry, source = Entry.create("train", ""), tmp_path / "plots/loss.csv"
    write_text(source, "first")
    kept = [entry.add_files({"loss.csv": source}), entry.add_files({"plots": source.parent, "image.png": b"pixels"})]
    write_text(source, "second")
    assert (entry.path / kept[0] / "loss.csv").read_text() == "first"
    assert (entry.path / kept[1] / "plots/loss.csv").read_text() == "first"
    assert (entry.path / kept[1] / "image.png").read_bytes() == b"pixels"


def test_only_entries_of_ended_processes_for_the_same_server_are_abandoned() -> None:
    running, elsewhere = Entry.create("train", ""), Entry.create("train", "http://127.0.0.1:1")
    elsewhere.lock.release()
    ended = left_behind("open")
    assert [entry.name for entry in abandoned("")] == [ended.name]
    assert [entry.name for entry in entries()] == [running.name, elsewhere.name, ended.name]  # the oldest first


def test_an_entry_is_removed_while_another_process_tries_its_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Entry.create("train", "")
    listed = entries()
    monkeypatch.setattr(mlflow_queue, "entries", lambda: listed)  # before the removal
    remove_tree = shutil.rmtree

    def slow(path: Path, *, ignore_errors: bool) -> None:
        monkeypatch.setattr(shutil, "rmtree", remove_tree)
        (path / "lock").unlink()
        assert list(abandoned("")) == []
        remove_tree(path, ignore_errors=ignore_errors)

    monkeypatch.setattr(shutil, "rmtree", slow)
    entry.remove()
    assert [path.name for path in mlflow_queue.folder().iterdir()] == []


def test_what_a_process_left_that_was_killed_while_it_removed_an_entry() -> None:
    removed = mlflow_queue.folder() / ".an entry-1a2b"
    removed.mkdir(parents=True)
    (removed / "operations.jsonl").touch()
    assert entries() == []
    assert list(abandoned("")) == []
    assert not removed.exists()


def test_the_run_of_a_killed_process_is_ended() -> None:
    left_behind("open", "metrics")
    left_behind("open", "end")
    store: Any = Store()
    assert len(send_abandoned(store, "")) == 2
    assert kinds(store) == ["open", "metrics", "end", "open", "end"]
    assert store.applied[2]["status"] == "KILLED"
    assert entries() == []


def test_an_operation_that_mlflow_refuses_is_named_and_the_others_are_sent(capsys: pytest.CaptureFixture[str]) -> None:
    left_behind("open", "metrics", "end")
    store: Any = Store({"metrics": RefusedError("invalid name")})
    send_abandoned(store, "")
    assert kinds(store) == ["open", "end"]
    assert capsys.readouterr().err == "invalid name\n"


def test_a_run_that_mlflow_refuses_is_kept_and_holds_up_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    refused = left_behind("open", "end")
    store: Any = Store({"open": RefusedError("no such experiment")})
    assert send_abandoned(store, "") == []
    expected = f"no such experiment; {refused.path} is kept: remove it if MLflow can do without it\n"
    assert capsys.readouterr().err == expected
    left_behind("tags", "end")
    assert len(send_abandoned(store, "")) == 1


def test_an_unexpected_error_is_named_at_the_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_sender, "RETRY_SECONDS", 0.01)
    entry, store = Entry.create("train", ""), Store({"tags": KeyError("unknown")})
    entry.append("tags")
    anything: Any = store
    Sender(entry, "", anything).finish(30)
    assert "MLflow: KeyError: 'unknown'; it is kept in .fcos/mlflow" in capsys.readouterr().err
    assert [item.name for item in mlflow_queue.entries()] == [entry.name]


def test_metrics_of_steps_are_sent_together_and_linked_ones_apart() -> None:
    entry = Entry.create("train", "")
    points = [[["loss", 1.0, 0, step]] for step in range(3)]
    entry.append("open")
    for item in points[:2]:
        entry.append("metrics", points=item)
    entry.append("metrics", points=points[2], weights="a")
    entry.append("end")
    store: Any = Store()
    Sender(entry, "", store).finish(30)
    assert kinds(store) == ["open", "metrics", "metrics", "end"]
    assert store.applied[1]["points"] == points[0] + points[1]
