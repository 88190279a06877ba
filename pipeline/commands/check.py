"""`fcos check`."""

import click

from pipeline.commands.options import set_param


@click.command()
@set_param
def check(overrides: tuple[str, ...]) -> None:
    """Run a few training steps and a validation with params.yaml, and report memory, speed and training time."""
    from pipeline import params
    from pipeline.analysis import check as checking
    from pipeline.overrides import override
    from pipeline.workspace import workspace

    values, home = override(params.load(), overrides), workspace()
    train, val = checking.read_splits(home)
    measurements, advice = checking.check(values, train, val, home / "data/raw" / values.dataset)
    click.echo(checking.report(measurements))
    for line in advice:
        click.echo(f"fcos: {line}", err=True)
