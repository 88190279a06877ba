"""`fcos app`."""

from pathlib import Path

import click


@click.command()
@click.argument("experiments", nargs=-1)
@click.option("--port", type=click.IntRange(1, 65535), default=5151, show_default=True)
@click.option("--prune", is_flag=True, help="Remove experiments that DVC no longer has from the dataset, and exit.")
@click.option(
    "--split",
    type=click.Choice(["train", "val", "test"]),
    help="Show another split than inspect.split: train with the detections of `fcos cross-check`.",
)
@click.option(
    "--suggested", type=click.Path(path_type=Path), help="Show what `fcos suggest` has written to this folder instead."
)
def app(experiments: tuple[str, ...], port: int, prune: bool, split: str | None, suggested: Path | None) -> None:
    """Browse detections and failures in FiftyOne's App on 127.0.0.1, until Ctrl-C.

    Each experiment has a field with its detections, and an evaluation. Those whose inspect stage has filled FiftyOne's
    dataset are there; EXPERIMENTS are added: names of experiments of DVC, git revisions, names or ids of MLflow runs.
    """
    from pipeline import params
    from pipeline.integrations import fiftyone

    if suggested and (experiments or prune or split):
        raise click.UsageError("--suggested shows images without labels: it needs no EXPERIMENTS, --prune or --split")
    if split == "train" and experiments:
        raise click.UsageError("--split train: EXPERIMENTS have no detections in train")
    if prune:
        removed = fiftyone.prune(params.load())
        click.echo(f"removed from FiftyOne: {', '.join(removed) or 'nothing'}")
        return
    opened = (
        fiftyone.suggestions_app(params.load(), suggested, port)
        if suggested
        else fiftyone.app(params.load(), experiments, port, split=split)
    )
    with opened as server:
        click.echo(f"FiftyOne: {server.address}  (Ctrl-C stops it)")
        server.wait()
