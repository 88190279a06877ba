"""`fcos ui`."""

import click


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True)
def ui(port: int) -> None:
    """Compare runs in MLflow's UI on 127.0.0.1, until Ctrl-C."""
    from pipeline.integrations import mlflow

    with mlflow.ui(port) as server:
        click.echo(f"MLflow: {server.address}  (Ctrl-C stops it)")
        server.wait()
