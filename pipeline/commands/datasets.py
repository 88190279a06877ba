"""`fcos datasets`."""

import click


@click.command()
@click.argument("name", required=False)
def datasets(name: str | None) -> None:
    """List the data sets that `dataset` may name, or show the whole entry called NAME, or a .yaml of your own."""
    from pipeline.datasets import registry

    click.echo(registry.entry_text(name) if name else "\n".join(registry.summary_lines()))
