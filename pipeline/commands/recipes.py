"""`fcos recipes`."""

from pathlib import Path

import click

_AUTO = "auto"
_TIME = "1h"


@click.command()
@click.argument("name", required=False)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Default: params.yaml of the project.")
@click.option("--force", is_flag=True, help="Replace a file with changes that git has not committed.")
@click.option("--time", help=f"auto: how long training may take, such as 30m, 2h or 1h30m. [default: {_TIME}]")
def recipes(name: str | None, out: Path | None, force: bool, time: str | None) -> None:
    """List the recipes, or write the recipe NAME to params.yaml.

    NAME auto: parameters for the converted data of the project and for this machine, each with its reason.
    """
    if name is None and (out or force or time):
        raise click.UsageError("--out, --force and --time need the NAME of a recipe")
    if time and name != _AUTO:
        raise click.UsageError("--time is for the recipe auto")
    if name is None:
        _list()
    elif name == _AUTO:
        _auto(out, force, time or _TIME)
    else:
        _write(name, out, force)


def _list() -> None:
    from pipeline import recipes as known

    for recipe in known.recipes().values():
        click.echo(f"{recipe.name}\n    {recipe.description}\n    Reached: {recipe.reached}")
    click.echo(
        f"{_AUTO}\n    Your own converted data: chosen from its objects, this machine and --time (see docs/recipes.md)."
    )


def _write(name: str, out: Path | None, force: bool) -> None:
    from pipeline import recipes as known
    from pipeline.workspace import workspace

    recipe, path = known.find(name), out or workspace() / "params.yaml"
    known.write(recipe.text, path, force=force)
    click.echo(f"{path}: {recipe.description}")


def _auto(out: Path | None, force: bool, time: str) -> None:
    from pipeline import recipes as known
    from pipeline.analysis import auto_recipe
    from pipeline.workspace import workspace

    try:
        auto_recipe.parse_duration(time)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--time") from None
    home = workspace()
    path = out or home / "params.yaml"
    known.check_replaceable(path, force=force)  # before minutes of measuring
    recipe = auto_recipe.make(home / "params.yaml", home, time, lambda line: click.echo(f"fcos: {line}", err=True))
    known.write(recipe.text, path, force=force)
    for choice in recipe.choices:
        click.echo(f"{choice.key}={auto_recipe.to_yaml(choice.value)}  # {choice.reason}")
    for line in recipe.advice:
        click.echo(f"fcos: {line}", err=True)
    default = home / "params.yaml"
    copy = "" if path.resolve() == default.resolve() else f"copy it to {default}, then "
    click.echo(f"{path}: written; {copy}train with `dvc repro`")
