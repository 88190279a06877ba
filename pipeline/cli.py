"""The `fcos` command. Commands import what they need when they run: `fcos --help` answers at once."""

import sys
from typing import Any

import click

from pipeline.errors import PipelineError


class _OneLineErrors(click.Group):
    """Turns what a person can mend into one line and exit status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PipelineError as error:
            click.echo(f"fcos: {error}", err=True)
            sys.exit(1)


@click.group(cls=_OneLineErrors, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """FCOS object detection: predict, evaluate, look."""


@main.command()
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True)
def ui(port: int) -> None:
    """Compare the runs: MLflow's page on 127.0.0.1, until Ctrl-C."""
    from pipeline import ui as page

    with page.server(port) as server:
        click.echo(f"MLflow: {server.address}  (Ctrl-C stops it)")
        server.wait()


@main.command()
@click.option("--port", type=click.IntRange(1, 65535), default=5151, show_default=True)
def app(port: int) -> None:
    """Look at detections and failures: FiftyOne's App on 127.0.0.1, until Ctrl-C."""
    from pipeline import params, viewer

    with viewer.app(viewer.source(params.load()), port) as server:
        click.echo(f"FiftyOne: {server.address}  (Ctrl-C stops it)")
        server.wait()
