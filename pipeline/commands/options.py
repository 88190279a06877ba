"""Options that several commands have."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

set_param = click.option(
    "-S", "--set-param", "overrides", multiple=True, metavar="KEY=VALUE", help="Parameter, as in `dvc exp run -S`."
)
weights = click.option("--weights", type=click.Path(path_type=Path), help="Default: models/detector.safetensors.")
device = click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)


def max_megapixels(default: float) -> Callable[[Any], Any]:
    return click.option(
        "--max-megapixels",
        type=click.FloatRange(0, min_open=True),
        default=default,
        show_default=True,
        help="Larger images are not decoded.",
    )
