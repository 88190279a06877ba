"""What can be downloaded or made: each function writes a data set, as published, into the folder given."""

from collections.abc import Callable
from pathlib import Path

from pipeline.datasets import custom, digits
from pipeline.params import Params

DATASETS: dict[str, Callable[[Params, Path], None]] = {"digits": digits.make, "custom": custom.fetch}
