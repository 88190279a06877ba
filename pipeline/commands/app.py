"""`fcos app`."""

import click


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), default=5151, show_default=True)
@click.option("--prune", is_flag=True, help="Remove experiments that DVC no longer has from the dataset, and exit.")
def app(port: int, prune: bool) -> None:
    """Browse detections and failures in FiftyOne's App on 127.0.0.1, until Ctrl-C.

    Each experiment whose inspect stage has run has a field with its detections, and an evaluation.
    """
    from pipeline import params
    from pipeline.integrations import fiftyone

    if prune:
        removed = fiftyone.prune(params.load())
        click.echo(f"removed from FiftyOne: {', '.join(removed) or 'nothing'}")
        return
    with fiftyone.app(fiftyone.dataset_spec(params.load()), port) as server:
        click.echo(f"FiftyOne: {server.address}  (Ctrl-C stops it)")
        server.wait()
