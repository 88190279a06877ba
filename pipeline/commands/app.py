"""`fcos app`."""

import click


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), default=5151, show_default=True)
def app(port: int) -> None:
    """Browse detections and failures in FiftyOne's App on 127.0.0.1, until Ctrl-C."""
    from pipeline import params
    from pipeline.integrations import fiftyone

    with fiftyone.app(fiftyone.dataset_spec(params.load()), port) as server:
        click.echo(f"FiftyOne: {server.address}  (Ctrl-C stops it)")
        server.wait()
