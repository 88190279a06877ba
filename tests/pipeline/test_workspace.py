"""Where files lie, and that other users of the machine can't read what isn't theirs."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.workspace import close_to_others, state_dir


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


@pytest.mark.usefixtures("umask")
def test_state_is_for_its_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dvc.yaml").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    assert mode(state_dir()) == 0o700
    # A folder of an earlier version is closed at its next use.
    for earlier in (0o755, 0o777, 0o2775):
        state_dir().chmod(earlier)
        assert mode(state_dir()) & 0o777 == 0o700


@pytest.mark.usefixtures("umask")
def test_an_experiment_in_a_temporary_workspace_closes_the_main_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / ".dvc/tmp/exps/1"
    temporary.mkdir(parents=True)
    monkeypatch.chdir(temporary)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert state_dir() == tmp_path / ".fcos"
    assert mode(tmp_path / ".fcos") == 0o700


def test_a_link_to_another_disk_is_closed_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = tmp_path / "disk"
    disk.mkdir(mode=0o755)
    (tmp_path / ".fcos").symlink_to(disk)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert mode(state_dir()) == mode(disk) == 0o700


def test_the_owners_rights_stay(tmp_path: Path) -> None:
    for before, after in ((0o644, 0o600), (0o444, 0o400), (0o755, 0o700), (0o600, 0o600)):
        file = tmp_path / oct(before)
        file.touch()
        file.chmod(before)
        close_to_others(file)
        assert mode(file) == after
    close_to_others(tmp_path / "missing")


def test_what_belongs_to_another_user_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch(mode=0o644)

    def refuse(path: Path, _mode: int) -> None:
        raise PermissionError(1, "Operation not permitted", str(path))

    monkeypatch.setattr(Path, "chmod", refuse)
    close_to_others(tmp_path / "file")
    assert mode(tmp_path / "file") == 0o644
