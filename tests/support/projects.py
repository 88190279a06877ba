"""Clones of this project with a very small `digits`, and what tests do with them."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.paths import PROJECT

SMALL = {
    "    train: 1000": "    train: 24",
    "    val: 200": "    val: 8",
    "    size: 256": "    size: 128",
    "  size: [256, 256]": "  size: [128, 128]",
    "  epochs: 8": "  epochs: 2",
    "  checkpoint_seconds: 60": "  checkpoint_seconds: 0",
    "  max_images: 24": "  max_images: 4",
}


def run(project: Path, *command: str, check: bool = True) -> str:
    """Runs a command there as a person would, and gives back all it printed."""
    done = subprocess.run(command, cwd=project, env=environment(), capture_output=True, text=True, timeout=870)
    output = done.stdout + done.stderr
    if check:
        assert done.returncode == 0, f"{command}: exit {done.returncode}\n{output}"
    return output


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DVC_")}
    return kept | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "GIT_AUTHOR_NAME": "test",
        "GIT_AUTHOR_EMAIL": "test@example.org",
        "GIT_COMMITTER_NAME": "test",
        "GIT_COMMITTER_EMAIL": "test@example.org",
    }


def clone(folder: Path) -> Path:
    """The files that git knows, with very small parameters, committed; nothing has run yet."""
    listed = run(PROJECT, "git", "ls-files", "--cached", "--others", "--exclude-standard").splitlines()
    for name in listed:
        made = name == "dvc.lock" or name.startswith("metrics/")  # by a `make repro` here, and staged by DVC
        if not made and (PROJECT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, folder / name)
    text = (folder / "params.yaml").read_text()
    for line, small in SMALL.items():
        assert line in text, line
        text = text.replace(line, small)
    (folder / "params.yaml").write_text(text)
    for command in (("init", "-q"), ("add", "-A"), ("commit", "-qm", "start")):
        run(folder, "git", *command)
    # `dvc exp run --queue` asks git's own configuration for a name.
    run(folder, "git", "config", "user.name", "test")
    run(folder, "git", "config", "user.email", "test@example.org")
    return folder


def readme(section: str, file: str = "README.md") -> list[list[str]]:
    """The commands of a section of README, as README has them; or of another document."""
    text = (PROJECT / file).read_text().split(f"# {section}\n")[1].split("\n## ")[0]
    text = re.sub(r"(?ms)^```.*?^```", "", text)  # what is printed, or in a file
    return [shlex.split(line, comments=True) for line in text.splitlines() if line.startswith("    ")]


def read(project: Path, name: str) -> dict:  # type: ignore[type-arg]
    found = json.loads((project / name).read_text())
    assert isinstance(found, dict)
    return found


def stages_run(output: str) -> set[str]:
    return set(re.findall(r"Running stage '(\w+)'", output))
