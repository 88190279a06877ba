"""`fcos recipes`."""

from pathlib import Path

import click


@click.command()
@click.argument("name", required=False)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Default: params.yaml of the project.")
@click.option("--force", is_flag=True, help="Replace a file with changes that git has not committed.")
def recipes(name: str | None, out: Path | None, force: bool) -> None:
    """List the recipes, or write the recipe NAME to params.yaml."""
    from pipeline import recipes as known
    from pipeline.workspace import workspace

    if name is None and (out or force):
        raise click.UsageError("--out and --force need the NAME of a recipe")
    if name is None:
        for recipe in known.recipes().values():
            click.echo(f"{recipe.name}\n    {recipe.description}\n    Reached: {recipe.reached}")
        return
    recipe, path = known.find(name), out or workspace() / "params.yaml"
    known.write(recipe, path, force=force)
    click.echo(f"{path}: {recipe.description}")
