"""`fcos check`."""

import click


@click.command()
def check() -> None:
    """Run one step of everything in params.yaml: memory, speed, and how long the whole training would take."""
    from pipeline import params
    from pipeline.analysis import check as checking
    from pipeline.workspace import workspace

    values, home = params.load(), workspace()
    train, val = checking.read(home)
    measured, advice = checking.check(values, train, val, home / "data/raw" / values.dataset)
    click.echo(checking.text(measured))
    for line in advice:
        click.echo(f"fcos: {line}", err=True)
