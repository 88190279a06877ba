"""Options that several commands have."""

import click

set_param = click.option(
    "-S", "--set-param", "overrides", multiple=True, metavar="KEY=VALUE", help="Parameter, as in `dvc exp run -S`."
)
