"""`fcos summary`."""

import json

import click

from pipeline.commands.options import set_param


@click.command()
@set_param
@click.option("--size", nargs=2, type=click.IntRange(1), help="Height and width of an image. Default: train.size.")
@click.option("--batch", type=click.IntRange(1), help="Images per training step. Default: train.batch_size.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def summary(overrides: tuple[str, ...], size: tuple[int, int] | None, batch: int | None, as_json: bool) -> None:
    """Show layers, parameters, FLOPs and training memory of params.yaml's detector, and its best possible recall."""
    from pipeline import params
    from pipeline.analysis import best_possible_recall
    from pipeline.analysis import summary as summaries
    from pipeline.analysis.training_memory import training_memory
    from pipeline.inference import network_costs
    from pipeline.overrides import override
    from pipeline.workspace import workspace

    values = override(params.load(), overrides)
    size = size or values.train.size
    split, problem = summaries.read_split(values, workspace())
    classes = len(split.categories) if split else summaries.DEFAULT_CLASSES
    detector = network_costs.meta_detector(values.model, classes)
    costs = network_costs.network_costs(detector, size)
    memory = training_memory(values, detector, size, batch or values.train.batch_size)
    recall = best_possible_recall.best_possible_recall(values, split) if split and not problem else None
    if as_json:
        record = summaries.to_record(classes, costs, memory, recall)
        click.echo(json.dumps(record, indent=2, ensure_ascii=False))
    else:
        click.echo(summaries.report(values, classes, costs, memory) + "\n")
    if problem:
        click.echo(f"fcos: {problem}", err=True)
    elif recall and not as_json:
        click.echo(best_possible_recall.report(recall, summaries.SPLIT_PATH))
