"""`fcos check`."""

import click


@click.command()
def check() -> None:
    """Run a few training steps and a validation with params.yaml, and report memory, speed and training time."""
    from pipeline import params
    from pipeline.analysis import check as checking
    from pipeline.workspace import workspace

    values, home = params.load(), workspace()
    train, val = checking.read_splits(home)
    measurements, advice = checking.check(values, train, val, home / "data/raw" / values.dataset)
    click.echo(checking.report(measurements))
    for line in advice:
        click.echo(f"fcos: {line}", err=True)
