"""`fcos summary`."""

import json

import click


@click.command()
@click.option("--size", nargs=2, type=click.IntRange(1), help="Height and width of an image; default: train.size.")
@click.option("--batch", type=click.IntRange(1), help="Images of a training step; default: train.batch_size.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def summary(size: tuple[int, int] | None, batch: int | None, as_json: bool) -> None:
    """See what params.yaml's detector is made of, what it costs, and how many objects it could find at best."""
    from pipeline import params
    from pipeline.analysis import summary as summing
    from pipeline.workspace import workspace

    values = params.load()
    split, problem = summing.data(values, workspace())
    classes = len(split.categories) if split else summing.COCO_CLASSES
    detector = summing.blank(values.model, classes)
    made = summing.network(detector, size or values.train.size)
    needed = summing.memory(values, detector, size or values.train.size, batch or values.train.batch_size)
    found = summing.recall(values, split) if split and not problem else None
    if as_json:
        click.echo(json.dumps(summing.record(classes, made, needed, found), indent=2, ensure_ascii=False))
    else:
        click.echo(summing.text(values, classes, made, needed) + "\n")
    if problem:
        click.echo(f"fcos: {problem}", err=True)
    elif found and not as_json:
        click.echo(summing.recall_text(found))
