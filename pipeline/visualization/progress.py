"""The progress bar of training: losses, images per second and the time left."""

import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

from fcos.training.history import Row

_LOSSES = {"total": "loss", "classification": "class", "box": "box", "quality": "quality"}


def write_line(line: str) -> None:
    """Writes a line about the training above the bar."""
    tqdm.write(f"train: {line}", file=sys.stderr)


class Progress:
    """A bar over all steps, a line per validation, and the speed in images per second."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.images = 0
        self.started = time.monotonic()
        # In a log file, an update every ten seconds is enough.
        self.interval = 0.2 if sys.stderr.isatty() else 10.0

    def __enter__(self) -> Self:
        self.bar = tqdm(total=self.steps, unit="step", mininterval=self.interval, dynamic_ncols=True, desc="train")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends the line of the bar, so that other output can follow."""
        self.bar.close()

    def on_step(self, row: Row, images: int) -> None:
        self.images += images
        if self.bar.disable:  # TQDM_DISABLE=1
            return
        # After a resume, the bar starts at the current step.
        self.bar.initial = self.bar.initial or int(row["step"]) - 1
        self.bar.n = max(self.bar.n, int(row["step"]) - 1)
        losses = {label: f"{row[name]:.2f}" for name, label in _LOSSES.items()}
        self.bar.set_postfix(losses | {"images/s": f"{self.images_per_second:.1f}"}, refresh=False)
        self.bar.update()

    def on_validation(self, row: Row) -> None:
        scores = ", ".join(f"{name} {value:.3f}" for name, value in row.items() if name not in ("epoch", "step"))
        tqdm.write(f"epoch {row['epoch']:g}: {scores}", file=sys.stderr)

    @property
    def images_per_second(self) -> float | None:
        """The speed of this process since its start, including validations; None if it trained on no image."""
        return self.images / max(1e-9, time.monotonic() - self.started) if self.images else None
