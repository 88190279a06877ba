"""The Makefile makes .venv when it is missing, finishes it when it was cut, and leaves it alone when it is right.

All with real venvs and pip, in a scratch project with packages of its own: nothing is downloaded.
"""

import hashlib
import os
import shutil
import signal
import subprocess
import time
import zipfile
from base64 import urlsafe_b64encode
from pathlib import Path

import pytest

from tests.support.paths import PROJECT

FILES = 3000  # of the large package: copying takes long enough to be cut in its midst

# Builds the scratch project's editable wheel by hand, so that no setuptools need be there.
BACKEND = """
import os, zipfile
def build_editable(folder, config_settings=None, metadata_directory=None):
    with zipfile.ZipFile(os.path.join(folder, "scratch-1-py3-none-any.whl"), "w") as wheel:
        wheel.writestr("scratch.pth", os.getcwd())
        wheel.writestr("scratch-1.dist-info/METADATA", "Metadata-Version: 2.1\\nName: scratch\\nVersion: 1\\n")
        wheel.writestr("scratch-1.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("scratch-1.dist-info/RECORD", "")
    return "scratch-1-py3-none-any.whl"
"""
BUILD = """
build-system = {requires = [], build-backend = "backend", backend-path = ["."]}
project = {name = "scratch", version = "1"}
"""


def wheel(folder: Path, name: str, files: dict[str, str]) -> None:
    """Writes NAME-1.0's wheel: its description first, so that a copy cut half-way holds it."""
    about = f"{name}-1.0.dist-info"
    content = {
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        **files,
    }
    record = "".join(
        f"{path},sha256={urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()},{len(text)}\n"
        for path, text in content.items()
    )
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        for path, text in (content | {f"{about}/RECORD": record}).items():
            archive.writestr(path, text)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with our Makefile, in a folder with a space in its name; its requirements: one small package."""
    folder = tmp_path / "a project"
    packages = tmp_path / "packages"
    folder.mkdir()
    packages.mkdir()
    shutil.copy(PROJECT / "Makefile", folder)
    (folder / "backend.py").write_text(BACKEND)
    (folder / "pyproject.toml").write_text(BUILD)
    (folder / "requirements.txt").write_text("small==1.0\n")
    wheel(packages, "small", {"small.py": ""})
    wheel(packages, "further", {"further.py": ""})
    wheel(packages, "large", {f"large/part{number:04}.py": "" for number in range(FILES)})
    return folder


def start(project: Path, **environment: str) -> subprocess.Popen[str]:
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(project.parent / "packages"), "PIP_CONFIG_FILE": os.devnull}
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "MAKE", "VIRTUAL_ENV"))}
    return subprocess.Popen(
        ["make", "environment"],
        cwd=project,
        env=inherited | offline | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def make(project: Path, **environment: str) -> tuple[int, str, str]:
    with start(project, **environment) as process:
        out, err = process.communicate()
    return process.returncode, out, err


def site(project: Path) -> Path:
    [folder] = (project / ".venv" / "lib").glob("python3*/site-packages")
    return folder


def imports(project: Path, name: str) -> bool:
    command = [project / ".venv" / "bin" / "python", "-c", f"import {name}"]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def lines(err: str) -> list[str]:
    """What the recipe said; make itself adds `make: *** [Makefile:1: environment] Error 1`."""
    return [line for line in err.splitlines() if "***" not in line]


def test_life_of_an_environment(project: Path) -> None:
    """One story, for a venv costs seconds: made once by two at once, left alone, renewed, moved, cut, finished."""
    with start(project) as first, start(project) as second:
        outputs = [process.communicate() for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], outputs
    assert sum("Installing the packages" in out for out, _ in outputs) == 1
    assert imports(project, "small")

    before = time.monotonic()
    assert make(project) == (0, "", "")
    assert time.monotonic() - before < 2

    (project / "requirements.txt").write_text("small==1.0\nfurther==1.0\n")
    status, _, err = make(project)
    assert (status, imports(project, "further")) == (0, True), err
    assert make(project) == (0, "", "")

    (project / "requirements.txt").write_text("small==1.0\nnowhere==1.0\n")
    assert make(project)[0] != 0
    assert make(project)[0] != 0  # still: it is not taken for complete
    (project / "requirements.txt").write_text("small==1.0\nfurther==1.0\n")

    moved = project.with_name("elsewhere")  # its scripts hold the old path
    project.rename(moved)
    assert make(moved)[0] == 0
    pip = [moved / ".venv" / "bin" / "pip", "--version"]
    assert subprocess.run(pip, check=False, capture_output=True).returncode == 0
    assert_cut_is_finished(moved)
    assert_tarball_is_told_what_to_do(moved)


def assert_tarball_is_told_what_to_do(project: Path) -> None:
    """`make repro` in a folder that is no git clone, as an unpacked tarball is."""
    outside = os.environ | {"GIT_CEILING_DIRECTORIES": str(project.parent)}
    run = subprocess.run(["make", "repro"], cwd=project, env=outside, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    [line] = lines(run.stderr)
    assert line.startswith("make: this folder is not a git clone; clone the repository, or run")


def assert_cut_is_finished(project: Path) -> None:
    """Killed while pip copies a large package."""
    (project / "requirements.txt").write_text("small==1.0\nlarge==1.0\n")
    with start(project) as process:
        while not (site(project) / "large" / "part0000.py").exists():
            assert process.poll() is None
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
    about = site(project) / "large-1.0.dist-info"
    assert (about / "METADATA").is_file()  # so pip would call it installed
    assert not (about / "INSTALLER").exists()
    assert not (project / ".venv" / ".complete").exists()

    status, _, err = make(project)
    assert status == 0, err
    assert len(list((site(project) / "large").glob("*.py"))) == FILES
    assert make(project) == (0, "", "")


def test_no_python_is_said_in_one_line(project: Path, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "sha256sum", "flock", "make"):
        (tools / name).symlink_to(shutil.which(name) or pytest.fail(f"{name} is not there"))
    status, out, err = make(project, PATH=str(tools))
    assert (status, out, len(lines(err))) == (2, "", 1)
    assert "Python 3.11 or newer is required, but found no python3" in err
    assert not (project / ".venv").exists()


def test_old_python_is_said_in_one_line(project: Path, tmp_path: Path) -> None:
    old = sorted(Path.home().glob(".pyenv/versions/3.[0-9].*/bin/python3"))
    if not old:
        pytest.skip("no Python older than 3.11 is there")
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "sha256sum", "flock", "make"):
        (tools / name).symlink_to(shutil.which(name) or pytest.fail(f"{name} is not there"))
    (tools / "python3").symlink_to(old[0])
    status, out, err = make(project, PATH=str(tools))
    assert (status, out, len(lines(err))) == (2, "", 1)
    assert f"required, but found Python {old[0].parts[-3]}" in err


def test_help_lists_every_target() -> None:
    # Under `make test` this make would say which folder it enters.
    outside = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    run = subprocess.run(["make"], cwd=PROJECT, capture_output=True, text=True, check=True, env=outside)
    listed = [line.split()[1] for line in run.stdout.splitlines()]
    assert listed == ["help", "repro", "test", "bench", "ui", "app", "clean"]
