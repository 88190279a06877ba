"""What a person sees while a detector trains: a bar with losses, images a second and the time left."""

import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

from fcos.training.history import Row

_SHOWN = {"total": "loss", "classification": "class", "box": "box", "quality": "quality"}


def write_line(line: str) -> None:
    """A line about training, above the bar."""
    tqdm.write(f"train: {line}", file=sys.stderr)


class Progress:
    """A bar over all the steps, and a line for each validation. Also counts images a second."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.images = 0
        self.started = time.monotonic()
        # In a file, a line every ten seconds is enough to follow.
        self.interval = 0.2 if sys.stderr.isatty() else 10.0

    def __enter__(self) -> Self:
        self.bar = tqdm(total=self.steps, unit="step", mininterval=self.interval, dynamic_ncols=True, desc="train")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends the bar's line, so that another can follow it."""
        self.bar.close()

    def on_step(self, row: Row, images: int) -> None:
        self.images += images
        if self.bar.disable:  # TQDM_DISABLE=1
            return
        # After a resume the bar starts where the training does.
        self.bar.initial = self.bar.initial or int(row["step"]) - 1
        self.bar.n = max(self.bar.n, int(row["step"]) - 1)
        losses = {short: f"{row[name]:.2f}" for name, short in _SHOWN.items()}
        self.bar.set_postfix(losses | {"images/s": f"{self.images_per_second:.1f}"}, refresh=False)
        self.bar.update()

    def on_validation(self, row: Row) -> None:
        numbers = ", ".join(f"{name} {value:.3f}" for name, value in row.items() if name not in ("epoch", "step"))
        tqdm.write(f"epoch {row['epoch']:g}: {numbers}", file=sys.stderr)

    @property
    def images_per_second(self) -> float:
        """Of this process, from its start, validations included."""
        return self.images / max(1e-9, time.monotonic() - self.started)
