"""The `fcos` command: assembles the commands of `pipeline.commands`, one file each.

A command imports what it needs when it runs, so that `fcos --help` is fast.
"""

import errno
import sys
from typing import Any

import click

from pipeline.commands import (
    app,
    check,
    collect,
    compare,
    convert,
    cross_check,
    datasets,
    env,
    evaluate,
    explain,
    export,
    import_weights,
    predict,
    recipes,
    register,
    serve,
    show_batches,
    suggest,
    summary,
    sync,
    ui,
    validate,
)
from pipeline.errors import PipelineError
from pipeline.process import quick_exit

COMMANDS: tuple[click.Command, ...] = (
    app.app,
    check.check,
    collect.collect,
    compare.compare,
    convert.convert,
    cross_check.cross_check,
    datasets.datasets,
    env.env,
    evaluate.evaluate,
    explain.explain,
    export.export,
    import_weights.import_weights,
    predict.predict,
    recipes.recipes,
    register.register,
    serve.serve,
    show_batches.show_batches,
    suggest.suggest,
    summary.summary,
    sync.sync,
    ui.ui,
    validate.validate,
)


class _OneLineErrors(click.Group):
    """Prints a PipelineError, or the operating system's error about a file, as one line and exits with status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PipelineError as error:
            click.echo(f"fcos: {error}", err=True)
            sys.exit(1)
        except OSError as error:
            if error.strerror is None or error.filename is None or error.errno == errno.EPIPE:
                raise
            click.echo(f"fcos: {error.filename}: {error.strerror.lower()}", err=True)
            sys.exit(1)


@click.group(cls=_OneLineErrors, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="fcos-pipeline", prog_name="fcos")
def main() -> None:
    """FCOS object detection: data, training, evaluation, inspection."""


for command in COMMANDS:
    main.add_command(command)


def run() -> None:
    """The installed command `fcos`."""
    with quick_exit():
        main()
