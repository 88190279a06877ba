"""The train stage that waits after each saved state while a file exists: a signal then meets it between two steps."""

import os
import runpy
import shutil
import time
from pathlib import Path
from typing import Any

from tests.support import projects

_HOLD = "HELD_TRAINING"


def environment(folder: Path, hold: Path, *, warm: bool = True) -> dict[str, str]:
    """The environment of commands in which the train stage waits.

    Args:
        folder: is created, for the command `python`, which runs this module instead of the train stage.
        hold: the file that the training waits for to be gone.
        warm: as in `projects.environment`.
    """
    settings = projects.environment(warm=warm)
    folder.mkdir()
    script, name = folder / "python", "pipeline.stages.train"
    python = shutil.which("python", path=settings["PATH"])
    script.write_text(f'#!/bin/sh\n[ "$2" != {name} ] || set -- -m {__name__}\nexec "{python}" "$@"\n')
    script.chmod(0o700)
    return settings | {"PATH": os.pathsep.join([str(folder), settings["PATH"]]), _HOLD: str(hold)}


def main() -> None:
    from fcos.training.checkpoints import Checkpoint

    save, hold = Checkpoint.save, Path(os.environ[_HOLD])

    def save_and_wait(self: Checkpoint, state: dict[str, Any]) -> None:
        save(self, state)
        self.wait()
        while hold.exists():
            time.sleep(0.01)

    Checkpoint.save = save_and_wait  # type: ignore[method-assign]
    runpy.run_module("pipeline.stages.train", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
