"""The Makefile creates a missing .venv, completes an interrupted installation, and leaves a complete one unchanged.

The tests use real virtual environments, uv and pip in a scratch project, whose packages are built here: no downloads.
"""

import hashlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from base64 import urlsafe_b64encode
from pathlib import Path

import certifi
import pytest

from pipeline.files import digest
from tests.support.paths import PROJECT

FILES = 1500  # of the large package: copying takes long enough to be interrupted

# Builds the editable wheel of the scratch project without setuptools.
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
# Stands for the package uv, which would have to be downloaded.
UV = r"""#!/bin/sh
echo "certificates: $SSL_CERT_FILE" >&2
if [ -n "$BROKEN_UV" ]; then
    cd .venv/lib/python3*/site-packages
    mkdir -p further-1.0.dist-info
    printf 'Metadata-Version: 2.1\nName: further\nVersion: 1.0\n' > further-1.0.dist-info/METADATA
    exit 2
fi
exec "{uv}" "$@"
"""


def wheel(folder: Path, name: str, files: dict[str, str]) -> None:
    """Writes the wheel of NAME 1.0, metadata first, so that a partial copy contains them."""
    metadata = f"{name}-1.0.dist-info"
    content = {
        f"{metadata}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{metadata}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        **files,
    }
    record = "".join(
        f"{path},sha256={urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()},{len(text)}\n"
        for path, text in content.items()
    )
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        for path, text in (content | {f"{metadata}/RECORD": record}).items():
            entry = zipfile.ZipInfo(path)
            entry.external_attr = (0o100755 if "/scripts/" in path else 0o100644) << 16
            archive.writestr(entry, text)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with our Makefile, in a folder whose name contains a space. It requires uv and one small package."""
    folder = tmp_path / "a project"
    packages = tmp_path / "packages"
    other = tmp_path / "somebody's"
    for path in (folder, packages, other):
        path.mkdir()
    shutil.copy(certifi.where(), tmp_path / "our certificates.pem")
    # pip prints the value with "\n" in it, and between double quotes, since there is a single one in it.
    (tmp_path / "pip.conf").write_text(
        f"[global]\nno-index = true\nfind-links =\n    {other}\n    {packages}\n"
        f"cert = {tmp_path}/our certificates.pem\n"
    )
    shutil.copy(PROJECT / "Makefile", folder)
    (folder / "backend.py").write_text(BACKEND)
    (folder / "pyproject.toml").write_text(BUILD)
    wheel(packages, "small", {"small.py": ""})
    wheel(packages, "uv", {"uv-1.0.data/scripts/uv": UV.format(uv=Path(sys.executable).with_name("uv"))})
    wheel(packages, "further", {"further.py": ""})
    wheel(packages, "large", {f"large/part{number:04}.py": "" for number in range(FILES)})
    require(folder, "small")
    return folder


def require(project: Path, *names: str) -> None:
    """Writes requirements.txt, with the hashes of uv and the packages."""
    names = ("uv", *names)
    wheels = [project.parent / f"packages/{name}-1.0-py3-none-any.whl" for name in names]
    pairs = zip(names, (digest(path) if path.exists() else "0" * 64 for path in wheels), strict=True)
    text = "".join(f"{name}==1.0 --hash=sha256:{value}\n" for name, value in pairs)
    (project / "requirements.txt").write_text(text)


def start(project: Path, **environment: str) -> subprocess.Popen[str]:
    offline = {
        "PYTHONDONTWRITEBYTECODE": "1",
        "PIP_CONFIG_FILE": str(project.parent / "pip.conf"),
        "UV_CACHE_DIR": str(project.parent / "cache"),
    }
    others = ("PIP_", "UV_", "SSL_", "MAKE", "VIRTUAL_ENV")
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(others)}
    return subprocess.Popen(
        ["make", "environment", "IMPORTED=small absent"],
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


def site_packages(project: Path) -> Path:
    [folder] = (project / ".venv" / "lib").glob("python3*/site-packages")
    return folder


def has_bytecode(project: Path, name: str) -> bool:
    return bool(list((site_packages(project) / "__pycache__").glob(f"{name}.*.pyc")))


def installer(project: Path, name: str) -> str:
    return (site_packages(project) / f"{name}-1.0.dist-info/INSTALLER").read_text().strip()


def imports(project: Path, name: str) -> bool:
    command = [project / ".venv" / "bin" / "python", "-B", "-c", f"import {name}"]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def lines(err: str) -> list[str]:
    """The lines of the recipe, without `make: *** [Makefile:1: environment] Error 1`."""
    return [line for line in err.splitlines() if "***" not in line]


def test_life_of_an_environment(project: Path) -> None:
    """Created by two makes at once, unchanged, renewed, moved, interrupted, completed: one test, since it is slow."""
    with start(project) as first, start(project) as second:
        outputs = [process.communicate() for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], outputs
    assert sum("Installing the packages" in out for out, _ in outputs) == 1
    assert imports(project, "small")
    assert has_bytecode(project, "small")
    assert installer(project, "small") == "uv"
    assert any(f"certificates: {project.parent}/our certificates.pem\n" in err for _, err in outputs)

    before = time.monotonic()
    assert make(project) == (0, "", "")
    assert time.monotonic() - before < 2

    require(project, "small", "further")
    status, _, err = make(project)
    assert (status, imports(project, "further")) == (0, True), err
    assert not has_bytecode(project, "further")  # is not among the imported modules
    assert make(project) == (0, "", "")

    (project / "pyproject.toml").write_text(BUILD + "# another version, or a new command\n")
    # uv fails, and leaves a part of a package, which pip would take for an installed one.
    shutil.rmtree(site_packages(project) / "further-1.0.dist-info")
    (site_packages(project) / "further.py").unlink()
    status, output, err = make(project, BROKEN_UV="1")
    assert (status, "Installing the packages" in output) == (0, True), err
    assert "make: uv could not install all packages; now pip tries it\n" in err
    assert (installer(project, "further"), imports(project, "further")) == ("pip", True)
    assert make(project) == (0, "", "")

    require(project, "small", "nowhere")
    assert make(project)[0] != 0
    assert make(project)[0] != 0  # again, since the installation is still incomplete
    require(project, "small", "further")

    assert_another_file_is_refused(project)
    moved = project.with_name("else where; it's #1%20?&[x]*é")  # the scripts hold the old path
    project.rename(moved)
    assert make(moved)[0] == 0
    pip = [moved / ".venv" / "bin" / "pip", "--version"]
    assert subprocess.run(pip, check=False, capture_output=True).returncode == 0
    assert_interruption_is_completed(moved)
    assert_tarball_is_an_error(moved)


def assert_another_file_is_refused(project: Path) -> None:
    """The index has a file of the right name and version that isn't the one whose hash is pinned."""
    require(project, "small", "large")
    wheel(project.parent / "packages", "large", {"large.py": "print('not what was pinned')"})
    status, output, err = make(project)
    assert (status, imports(project, "large")) == (2, False), output
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in err
    wheel(project.parent / "packages", "large", {f"large/part{number:04}.py": "" for number in range(FILES)})
    require(project, "small", "further")


def assert_tarball_is_an_error(project: Path) -> None:
    """`make repro` in a folder that is not a git clone, such as an unpacked tarball."""
    outside = os.environ | {"GIT_CEILING_DIRECTORIES": str(project.parent)}
    run = subprocess.run(["make", "repro"], cwd=project, env=outside, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    [line] = lines(run.stderr)
    assert line.startswith("make: this folder is not a git clone; clone the repository, or run")


def assert_interruption_is_completed(project: Path) -> None:
    """make is killed while pip copies a large package; then uv completes it."""
    require(project, "small", "large")
    with start(project, BROKEN_UV="1") as process:
        while not (site_packages(project) / "large" / "part0000.py").exists():
            assert process.poll() is None
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
    metadata = site_packages(project) / "large-1.0.dist-info"
    assert (metadata / "METADATA").is_file()  # so pip takes the package for installed
    assert not (metadata / "INSTALLER").exists()
    assert not (project / ".venv" / ".complete").exists()

    status, _, err = make(project)
    assert status == 0, err
    assert len(list((site_packages(project) / "large").glob("*.py"))) == FILES
    assert installer(project, "large") == "uv"
    assert not list((project.parent / "cache").glob("simple-*/pypi"))  # uv has asked no index
    assert make(project) == (0, "", "")


@pytest.mark.parametrize("name", ["$(touch harm)", "`touch harm`", 'quo"te', "back\\slash", "a:b", "a\nb"])
def test_a_path_that_breaks_python_environments_is_one_line(project: Path, name: str) -> None:
    moved = project.rename(project.with_name(name))
    status, out, err = make(moved)
    assert (status, out, len(lines(err))) == (2, "", 1)
    assert err.startswith("make: /") or err.startswith("make: $'/")
    assert "in the path breaks Python environments; move the folder" in err
    assert sorted(path.name for path in moved.iterdir()) == [
        "Makefile",
        "backend.py",
        "pyproject.toml",
        "requirements.txt",
    ]


def test_missing_python_is_one_line(project: Path, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "sha256sum", "flock", "make"):
        (tools / name).symlink_to(shutil.which(name) or pytest.fail(f"{name} does not exist"))
    status, out, err = make(project, PATH=str(tools))
    assert (status, out, len(lines(err))) == (2, "", 1)
    assert "Python 3.11, 3.12 or 3.13 is required, but found no python3" in err
    assert not (project / ".venv").exists()


def test_old_python_is_one_line(project: Path, tmp_path: Path) -> None:
    old = sorted(Path.home().glob(".pyenv/versions/3.[0-9].*/bin/python3"))
    if not old:
        pytest.skip("no Python older than 3.11 is installed")
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "sha256sum", "flock", "make"):
        (tools / name).symlink_to(shutil.which(name) or pytest.fail(f"{name} does not exist"))
    (tools / "python3").symlink_to(old[0])
    status, out, err = make(project, PATH=str(tools))
    assert (status, out, len(lines(err))) == (2, "", 1)
    assert f"required, but found Python {old[0].parts[-3]}" in err


def test_help_lists_every_target() -> None:
    # A make within `make test` would print the folders that it enters and leaves.
    outside = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    run = subprocess.run(["make"], cwd=PROJECT, capture_output=True, text=True, check=True, env=outside)
    listed = [line.split()[1] for line in run.stdout.splitlines()]
    assert listed == ["help", "repro", "test", "bench", "ui", "app", "docs", "clean"]


def test_imported_modules_have_bytecode() -> None:
    """Every module that the Makefile imports after the installation exists. A wrong name would go unnoticed."""
    (lists,) = re.findall(r"^IMPORTED := ((?:.*\\\n)*.*)$", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    modules = lists.replace("\\\n", " ").replace(",", " ").split()
    assert len(modules) > 10
    for module in modules:
        path = site_packages(PROJECT).joinpath(*module.split("."))
        source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        assert source.is_file(), module
        assert Path(importlib.util.cache_from_source(str(source))).is_file(), module
