"""`fcos sync`."""

import click


@click.command()
def sync() -> None:
    """Send to MLflow what a server that was down or slow has not received.

    The stages keep it in .fcos/mlflow. Only what is meant for the server in MLFLOW_TRACKING_URI is sent, or for the
    project's own store if the variable is not set.
    """
    from pipeline.errors import count_noun
    from pipeline.integrations import mlflow

    sent = mlflow.sync()
    click.echo(f"MLflow: sent {count_noun(len(sent.stages), 'stage')}" if sent.stages else "MLflow: nothing to send")
    for server in sent.elsewhere:
        where = f"set MLFLOW_TRACKING_URI to {server}" if server else "unset MLFLOW_TRACKING_URI"
        click.echo(f"MLflow: more waits for another place: {where}, and run `fcos sync` again")
