"""Options that several commands have."""

from pathlib import Path

import click

set_param = click.option(
    "-S", "--set-param", "overrides", multiple=True, metavar="KEY=VALUE", help="Parameter, as in `dvc exp run -S`."
)
weights = click.option("--weights", type=click.Path(path_type=Path), help="Default: models/detector.safetensors.")
device = click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
