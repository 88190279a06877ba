"""`fcos ui`."""

import click


@click.command()
@click.argument("experiment", required=False)
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True)
@click.option("--prune", is_flag=True, help="Permanently remove runs that were deleted in the UI, and exit.")
@click.option("--yes", is_flag=True, help="With --prune: remove them without asking.")
def ui(experiment: str | None, port: int, prune: bool, yes: bool) -> None:
    """Compare runs in MLflow's UI on 127.0.0.1, until Ctrl-C.

    EXPERIMENT, a name that `dvc exp show` prints, opens the run that made its result, also if DVC restored it from its
    cache. If MLFLOW_TRACKING_URI names a server, the address of the page there is printed.
    """
    if prune:
        if experiment:
            raise click.UsageError("--prune removes all runs that were deleted in the UI: it needs no EXPERIMENT")
        _prune(ask=not yes)
        return
    if yes:
        raise click.UsageError("--yes needs --prune")
    from pipeline.integrations import mlflow_server

    if page := mlflow_server.server_page(experiment):
        click.echo(f"MLflow: {page}")
        return
    with mlflow_server.ui(port, experiment) as server:
        click.echo(f"MLflow: {server.address}  (Ctrl-C stops it)")
        server.wait()


def _prune(*, ask: bool) -> None:
    from pipeline.errors import count_noun
    from pipeline.integrations import mlflow_prune

    found = mlflow_prune.find()
    if found.registered:
        click.echo(f"kept, since their models are registered: {', '.join(found.registered)}")
    if not found.artifacts:
        click.echo("nothing to remove from MLflow")
        return
    runs, models = ", ".join(found.runs.values()) or "no run", count_noun(len(found.models), "model")
    removed = f"{runs}; {models}; {found.megabytes():,.1f} MB"
    if ask:
        click.echo(f"to remove from MLflow: {removed}")
        click.confirm("Remove this permanently?", abort=True)
    mlflow_prune.remove(found)
    click.echo(f"removed from MLflow: {removed}")
