"""`fcos register`."""

import click


@click.command()
@click.option("--name", help="Name of the registered model.  [default: fcos-DATASET]")
@click.option("--alias", default="champion", show_default=True, help="Alias that the new version gets.")
def register(name: str | None, alias: str) -> None:
    """Register the evaluated detector in models/ with MLflow, for serving.

    The model contains weights, code, the operating point and post-processing; its description has metrics and data.
    """
    from pipeline import params
    from pipeline.integrations import mlflow_registry

    values = params.load()
    registered = mlflow_registry.register(values, name or f"fcos-{values.dataset}", alias)
    click.echo(
        f"{registered.name}, version {registered.version}: models:/{registered.name}@{registered.alias} loads it"
    )
