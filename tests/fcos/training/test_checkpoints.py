"""Saved states: atomic, verified, with a warning for damaged files and an error for failed writes."""

import io
import resource
import subprocess
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fcos.training.checkpoints import Checkpoint, CheckpointError, read_state, write_state
from tests.support.interrupted_training import trainer


def big(number: int) -> dict[str, torch.Tensor]:
    return {"tensor": torch.full((1000, 500), float(number))}  # 2 MB


def number(state: dict[str, torch.Tensor] | None) -> float:
    assert state
    return state["tensor"].mean().item()


def test_training_may_change_tensors_while_they_are_written(tmp_path: Path) -> None:
    checkpoint, state = Checkpoint(tmp_path), big(1)
    checkpoint.save({"nested": [state]})
    state["tensor"].zero_()
    loaded = checkpoint.load()
    assert loaded
    assert number(loaded["nested"][0]) == 1


def test_many_saves_in_a_row_keep_their_order(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path)
    for count in range(10):
        checkpoint.save(big(count))
        checkpoint.save_best(big(-count))
    checkpoint.wait()
    assert not checkpoint.writing
    assert number(checkpoint.load()) == 9
    checkpoint.newest.unlink()  # as a crash between two renames leaves it
    assert number(checkpoint.load()) == 8
    assert number(checkpoint.load_best()) == -9
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pt", "state.previous.pt"]


def damaged(data: bytes, kind: str) -> bytes:
    at = {"first byte": 0, "checksum's end": 31, "content": 32, "middle": len(data) // 2, "last byte": len(data) - 1}
    if kind in at:
        return data[: at[kind]] + bytes([data[at[kind]] ^ 1]) + data[at[kind] + 1 :]
    return {"truncated": data[:-1], "longer": data + b"\0", "short": data[:20], "empty": b"", "four zeros": bytes(4)}[
        kind
    ]


@pytest.mark.parametrize(
    "kind",
    [
        "first byte",
        "checksum's end",
        "content",
        "middle",
        "last byte",
        "truncated",
        "longer",
        "short",
        "empty",
        "four zeros",
    ],
)
def test_a_damaged_state_gives_a_warning_and_the_state_before_it(tmp_path: Path, kind: str) -> None:
    warnings: list[str] = []
    checkpoint = Checkpoint(tmp_path / "state", warnings.append)
    checkpoint.save(big(1))
    checkpoint.save(big(2))
    checkpoint.wait()
    checkpoint.newest.write_bytes(damaged(checkpoint.newest.read_bytes(), kind))
    assert number(checkpoint.load()) == 1
    assert warnings == [f"{checkpoint.newest}: damaged (wrong checksum); training resumes from the state before it"]


@settings(max_examples=100)
@given(st.binary(max_size=60) | st.sampled_from([[], 3, "text", (1, 2), None]))
def test_files_that_no_training_wrote_are_damaged(tmp_path_factory: pytest.TempPathFactory, content: object) -> None:
    """With the right checksum, which four zeros have by chance."""
    path = tmp_path_factory.mktemp("state") / "state.pt"
    data = content if isinstance(content, bytes) else saved(content)
    path.write_bytes(zlib.crc32(data).to_bytes(4, "little") + data)
    warnings: list[str] = []
    assert Checkpoint(path.parent, warnings.append).load() is None
    assert len(warnings) == 1


def saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def test_two_damaged_states_give_a_warning_and_none(tmp_path: Path) -> None:
    warnings: list[str] = []
    checkpoint = Checkpoint(tmp_path / "state", warnings.append)
    assert checkpoint.load() is None
    assert warnings == []
    checkpoint.save(big(1))
    checkpoint.save(big(2))
    checkpoint.wait()
    checkpoint.newest.write_bytes(b"short")
    checkpoint.previous.write_bytes(b"")
    assert checkpoint.load() is None
    damaged_files = "state.pt and state.previous.pt damaged (wrong checksum)"
    assert warnings == [f"{checkpoint.folder}: {damaged_files}; training starts from the beginning"]
    (checkpoint.folder / "best.partial").touch()
    checkpoint.clear()
    assert not checkpoint.folder.exists()
    assert checkpoint.load() is None


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle", "multi_step", "step", "plateau", "constant"])
def test_the_state_of_every_schedule_is_restored(tmp_path: Path, schedule: str) -> None:
    """torch.load(weights_only=True) refuses classes that it does not know."""
    first, second = (trainer(schedule=schedule, checkpoint=Checkpoint(tmp_path)) for _ in range(2))
    first.optimizer.step()
    first.schedule.step()
    first.save()
    assert first.checkpoint
    first.checkpoint.wait()
    second.resume()
    assert second.schedule.state_dict() == first.schedule.state_dict()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 5 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", folder], capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip("mounting a file system needs root")
    yield folder
    subprocess.run(["umount", folder], check=True)


@contextmanager
def no_file_over(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_a_one_line_error_and_the_state_before_stays(small_disk: Path) -> None:
    checkpoint = Checkpoint(small_disk / "state")
    checkpoint.save(big(1))
    checkpoint.save(big(2))
    checkpoint.save(big(3))
    message = rf"^{checkpoint.folder}: .*: No space left.* needs 2.0 MB, and 1.2 MB are free there$"
    with pytest.raises(CheckpointError, match=message) as error:
        checkpoint.wait()
    assert (error.value.folder, error.value.needed) == (checkpoint.folder, 2_000_000)
    checkpoint.save(big(4))  # not attempted, and the first error stays
    with pytest.raises(CheckpointError):
        checkpoint.check()
    assert number(checkpoint.load()) == 2
    assert sorted(path.name for path in checkpoint.folder.iterdir()) == ["state.previous.pt", "state.pt"]


def test_a_kept_state_that_does_not_fit_leaves_no_partial_file(tmp_path: Path) -> None:
    path = tmp_path / "training_state.pt"
    write_state(path, big(1))
    with no_file_over(1_000_000), pytest.raises(OSError, match="File too large"):
        write_state(path, big(2))
    assert list(tmp_path.iterdir()) == [path]
    state = read_state(path)
    assert state is not None
    assert number(state) == 1


def test_an_exceeded_quota_is_a_one_line_error(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path)
    checkpoint.save(big(1))
    checkpoint.wait()
    with no_file_over(1_000_000):
        checkpoint.save(big(2))
        with pytest.raises(CheckpointError, match=r"can't be written: File too large; it needs 2\.0 MB"):
            checkpoint.wait()
    assert number(checkpoint.load()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


def test_training_ends_at_the_step_after_a_failed_write(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    failing = trainer(checkpoint=Checkpoint(tmp_path / "state"))
    with pytest.raises(CheckpointError, match="File exists"):
        failing.fit()
    assert failing.epoch == 0
