"""`fcos ui`."""

import click


@click.command()
@click.argument("experiment", required=False)
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True)
@click.option(
    "--prune", is_flag=True, help="Remove runs that were deleted in the UI for good, with their files, and exit."
)
def ui(experiment: str | None, port: int, prune: bool) -> None:
    """Compare runs in MLflow's UI on 127.0.0.1, until Ctrl-C.

    EXPERIMENT, a name that `dvc exp show` prints, opens the run that made its result, also if DVC restored it from its
    cache. If MLFLOW_TRACKING_URI names a server, the address of the page there is printed.
    """
    if prune:
        if experiment:
            raise click.UsageError("--prune removes all runs that were deleted in the UI: it needs no EXPERIMENT")
        _prune()
        return
    from pipeline.integrations import mlflow_server

    if page := mlflow_server.server_page(experiment):
        click.echo(f"MLflow: {page}")
        return
    with mlflow_server.ui(port, experiment) as server:
        click.echo(f"MLflow: {server.address}  (Ctrl-C stops it)")
        server.wait()


def _prune() -> None:
    from pipeline.errors import count_noun
    from pipeline.integrations import mlflow_prune

    pruned = mlflow_prune.prune()
    runs, models = ", ".join(pruned.runs) or "no run", count_noun(pruned.models, "model")
    click.echo(f"removed from MLflow: {runs}; {models}; {pruned.megabytes:,.1f} MB freed")
    if pruned.registered:
        click.echo(f"kept, since their models are registered: {', '.join(pruned.registered)}")
