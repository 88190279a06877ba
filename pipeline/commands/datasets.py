"""`fcos datasets`."""

import click


@click.command()
@click.argument("name", required=False)
def datasets(name: str | None) -> None:
    """List the data sets that `dataset` may name, or show the entry NAME, which may be your own .yaml file."""
    from pipeline.datasets import registry

    click.echo(registry.entry_text(name) if name else registry.summary())
