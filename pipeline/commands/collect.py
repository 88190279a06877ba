"""`fcos collect`."""

import click


@click.command()
@click.option(
    "--split",
    type=click.Choice(["train", "val", "test"]),
    help="Another split than inspect.split, as `fcos app --split` shows it.",
)
@click.option("--dry-run", is_flag=True, help="Print the changes and write nothing.")
def collect(dry_run: bool, split: str | None) -> None:
    """Turn what was tagged and edited in FiftyOne's App into data/corrections/, which `dvc repro` applies.

    Tags of images: exclude. Tags of boxes: remove and relabel:CLASS for the ground truth, add for a detection that the
    ground truth lacks. Boxes of the ground truth that were edited, drawn or deleted in the App count without a tag.
    """
    from pipeline import params
    from pipeline.integrations import fiftyone, fiftyone_corrections

    values = params.load()
    spec = fiftyone.dataset_spec(values, split)
    change = fiftyone_corrections.collect(values.dataset, spec, write=not dry_run)
    for line in change.describe():
        click.echo(line)
