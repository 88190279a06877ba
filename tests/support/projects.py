"""Clones of this project with a very small `digits` data set, copies of them, and commands that run in them."""

import json
import os
import re
import runpy
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import chdir, closing, contextmanager, nullcontext, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from unittest import mock

from click.testing import CliRunner

from tests.support import warm_python
from tests.support.listening import loopback_only
from tests.support.parameters import PAPER, replace_lines
from tests.support.paths import PROJECT

SMALL = {
    "    train: 1000": "    train: 24",
    "    val: 200": "    val: 8",
    "    size: 256": "    size: 128",
    "  size: [256, 256]": "  size: [128, 128]",
    "  epochs: 11": "  epochs: 2",
    "  batch_size: 4": "  batch_size: 8",
    "  checkpoint_seconds: 60": "  checkpoint_seconds: 0",
    "  max_images: 24": "  max_images: 4",
    "  fiftyone: true": "  fiftyone: false",
}


def run(project: Path, *command: str, check: bool = True) -> str:
    """Runs a command in the project and returns what it printed, standard output first.

    It may listen on loopback only. `fcos` runs in this process: importing torch takes a new process seconds.
    """
    with loopback_only():
        if command[0] == "fcos":
            status, output = _run_fcos(project, *command[1:])
        else:
            done = subprocess.run(command, cwd=project, env=environment(), capture_output=True, text=True, timeout=870)
            status, output = done.returncode, done.stdout + done.stderr
    if check:
        assert status == 0, f"{command}: exit {status}\n{output}"
    return output


def _run_fcos(project: Path, *arguments: str) -> tuple[int, str]:
    from pipeline.cli import main

    with _working_in(project):
        result = CliRunner(catch_exceptions=False).invoke(main, arguments)
    return result.exit_code, result.stdout + result.stderr


def run_stage(project: Path, name: str) -> subprocess.CompletedProcess[str]:
    """Runs a stage in this process, otherwise as dvc.yaml does: `python -m pipeline.stages.NAME` in the project."""
    out, err, status = StringIO(), StringIO(), 0
    own_process = {"quick_exit": nullcontext, "postpone_collection": lambda: None}
    with (
        mock.patch.multiple("pipeline.process", **own_process),
        _working_in(project),
        redirect_stdout(out),
        redirect_stderr(err),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", r"'pipeline\.stages\.\w+' found in sys.modules", RuntimeWarning)
        try:
            runpy.run_module(f"pipeline.stages.{name}", run_name="__main__")
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return subprocess.CompletedProcess(["pipeline.stages", name], status, out.getvalue(), err.getvalue())


@contextmanager
def _working_in(project: Path) -> Iterator[None]:
    """The current folder and the environment of a process in the project; signal handlers are restored."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    with chdir(project), mock.patch.dict(os.environ, environment(), clear=True):
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)


def start_python(code: str, *, folder: Path, python: Sequence[str] = ()) -> subprocess.Popen[str]:
    """Starts `python -c CODE` in a folder; `pipeline` is that of this project."""
    return subprocess.Popen(
        [*(python or warm_python.command()), "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def environment(*, warm: bool = True) -> dict[str, str]:
    """The environment of commands.

    Args:
        warm: `dvc` and stages are forked from a process that has imported their packages. Signals that should reach
            them in a terminal's ways need new processes.
    """
    commands = [str(warm_python.folder())] if warm else []
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DVC_")}
    return inherited | {
        "PATH": os.pathsep.join([*commands, str(Path(sys.executable).parent), os.environ["PATH"]]),
        "GIT_AUTHOR_NAME": "test",
        "GIT_AUTHOR_EMAIL": "test@example.org",
        "GIT_COMMITTER_NAME": "test",
        "GIT_COMMITTER_EMAIL": "test@example.org",
    }


def clone(folder: Path) -> Path:
    """Copies the files that git tracks, makes the parameters very small, and commits; no stage has run."""
    listed = run(PROJECT, "git", "ls-files", "--cached", "--others", "--exclude-standard").splitlines()
    for name in listed:
        result = name == "dvc.lock" or name.startswith("metrics/")  # of a `make repro` in this folder, staged by DVC
        if not result and (PROJECT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, folder / name)
    text = (folder / "params.yaml").read_text()
    for line, small in SMALL.items():
        assert line in text, line
        text = text.replace(line, small)
    text = replace_lines(text, PAPER)
    (folder / "params.yaml").write_text(text)
    for command in (("init", "-q"), ("add", "-A"), ("commit", "-qm", "start")):
        run(folder, "git", *command)
    # `dvc exp run --queue` reads the name from git's configuration.
    run(folder, "git", "config", "user.name", "test")
    run(folder, "git", "config", "user.email", "test@example.org")
    return folder


def copy(source: Path, target: Path) -> Path:
    """Copies a project with the results of its stages, as if they had run in the copy.

    FiftyOne's database is left out, hundreds of megabytes: `inspect` creates it again.
    """
    databases = {str(source / ".fcos/mongo"), str(source / ".fcos/fiftyone")}
    shutil.copytree(
        source,
        target,
        symlinks=True,
        dirs_exist_ok=True,
        ignore=lambda folder, names: [name for name in names if f"{folder}/{name}" in databases],
    )
    # MLflow stores the absolute paths of artifacts.
    with closing(sqlite3.connect(target / "mlflow.db")) as store, store:
        for table, column in (
            ("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location"),
        ):  # fmt: skip
            store.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (f"{source}/", f"{target}/"))
    return target


def readme(section: str, file: str = "README.md") -> list[list[str]]:
    """The commands in a section of README.md, or of another document, split into words."""
    text = (PROJECT / file).read_text().split(f"# {section}\n")[1].split("\n## ")[0]
    text = re.sub(r"(?ms)^```.*?^```", "", text)  # output and files
    return [shlex.split(line, comments=True) for line in text.splitlines() if line.startswith("    ")]


def read(project: Path, name: str) -> dict:  # type: ignore[type-arg]
    content = json.loads((project / name).read_text())
    assert isinstance(content, dict)
    return content


def stages_run(output: str) -> set[str]:
    return set(re.findall(r"Running stage '(\w+)'", output))
