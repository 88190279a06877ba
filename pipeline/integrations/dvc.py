"""Files of git revisions and of DVC's experiments, and experiments that are run. The only module with `dvc`.

Files come from git, DVC's cache or its remote.
Source: dvc.api.DVCFileSystem, https://dvc.org/doc/api-reference/dvcfilesystem.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.process import StopRequest, exit_stopped
from pipeline.workspace import workspace

_POLL_SECONDS = 0.5  # between two looks whether a signal has arrived


@dataclass(frozen=True)
class Revision:
    """A commit, or DVC's experiment of this name, which is a commit too."""

    name: str
    files: Any  # DVCFileSystem

    def copy(self, path: str, target: Path) -> None:
        """Copies a file, as it was at this revision, from git, DVC's cache or its default remote.

        Raises:
            PipelineError: the revision has no such file, or its content is in neither place.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            target.write_bytes(self.files.cat_file(path))
        except Exception as error:  # noqa: BLE001 (content that is gone raises classes of DVC's inner packages)
            if isinstance(error, FileNotFoundError) and "storage" not in str(error):
                raise PipelineError(f"{self.name}: no {path} at this revision; run `dvc repro` and commit") from None
            raise PipelineError(
                f"{self.name}: {path} is no longer in DVC's cache: run `{self._checkout()}`, "
                "then `dvc pull` if a remote has it, else `dvc repro evaluate`"
            ) from None

    def _checkout(self) -> str:
        """The command that brings the revision into the workspace."""
        known = git("rev-parse", "--verify", "--quiet", f"{self.name}^{{commit}}")
        return f"git checkout {self.name}" if known else f"dvc exp apply {self.name}"


def find_revision(name: str) -> Revision | None:
    """The revision or experiment of this name; None if there is none.

    Raises:
        PipelineError: several experiments have this name, or DVC can't read the repository.
    """
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException
    from dvc.scm import RevError

    try:
        # The remote of today: the revision may be older than its address.
        config = dict(DVCFileSystem(url=str(workspace())).repo.config)
        files = DVCFileSystem(url=str(workspace()), rev=name, config=config)
        files.repo.get_rev()  # resolves the name, which the constructor doesn't
    except RevError as error:
        if "ambiguous" in str(error):
            remedy = "give its commit, which `dvc exp show` and `git for-each-ref refs/exps` print"
            raise PipelineError(f"{name}: several experiments have this name; {remedy}") from None
        return None
    except DvcException as error:
        raise PipelineError(f"{name}: DVC can't read this revision: {error}") from None
    return Revision(name, files)


def evaluated_commits() -> list[str]:
    """All commits and experiments that changed dvc.lock, newest first."""
    return git("log", "--all", "--format=%H", "--", "dvc.lock").split()


def experiment_names() -> set[str]:
    """The names of all finished experiments, of all commits."""
    # refs/exps/BASELINE/NAME, with two characters of the baseline as a folder; other references are DVC's own.
    references = git("for-each-ref", "--format=%(refname)", "refs/exps/??/*/*").split()
    return {reference.rpartition("/")[2] for reference in references}


def queued_names() -> set[str]:
    """The names of the experiments that wait in the queue, or that a worker runs."""
    from dvc.repo import Repo

    with Repo(str(workspace())) as repo:
        tasks = repo.experiments.celery_queue.status()
    return {task["name"] for task in tasks if task["status"] in ("Queued", "Running")}


def is_up_to_date(stage: str) -> bool:
    """Whether the outputs of a stage are those of its present dependencies and parameters."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(workspace())) as repo:
            return not repo.status(targets=[stage])
    except DvcException as error:
        raise PipelineError(f"dvc.yaml: DVC can't read the state of the {stage} stage: {error}") from None


def run_experiment(name: str, overrides: Sequence[str], target: str, *, queue: bool) -> int:
    """Runs an experiment in a temporary workspace up to the stage `target`, or queues it, and prints DVC's output.

    If a signal stops this process, DVC is stopped too, so that the stage that runs saves its state.

    Args:
        overrides: of parameters, such as `train.epochs=3`.

    Returns:
        The exit status of DVC; not 0 if it failed.
    """
    options = [word for override in overrides for word in ("--set-param", override)]
    command = [sys.executable, "-m", "dvc", "exp", "run", "--queue" if queue else "--temp", "--name", name]
    # Stages run as `python`, which must be this one also where no virtual environment is active.
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    request = StopRequest()
    with request.deferred():
        process = subprocess.Popen([*command, *options, target], cwd=workspace(), env=environment)
        while process.poll() is None:
            if request() and request.number != signal.SIGINT:  # Ctrl-C reaches DVC, too
                process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=_POLL_SECONDS)
    if request.number is not None:
        exit_stopped("fcos", request.number, "; the same command continues")
    return process.returncode


def git(*arguments: str) -> str:
    """The output of a git command in the workspace; empty if it fails."""
    result = subprocess.run(["git", *arguments], cwd=workspace(), capture_output=True, text=True, check=False)
    return result.stdout.strip() if result.returncode == 0 else ""
