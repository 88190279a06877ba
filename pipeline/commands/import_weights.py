"""`fcos import-weights`."""

from pathlib import Path

import click


@click.command("import-weights")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Default: models/detector.safetensors.")
@click.option(
    "--categories", type=click.Path(path_type=Path), help="COCO JSON with the classes. Default: COCO's classes."
)
def import_weights(file: Path, out: Path | None, categories: Path | None) -> None:
    """Convert weights of torchvision's fcos_resnet50_fpn (.pth or .safetensors) to a detector."""
    from pipeline.errors import count_noun
    from pipeline.inference.import_weights import import_weights as convert_file
    from pipeline.workspace import workspace

    out = out or workspace() / "models/detector.safetensors"
    description = convert_file(file, out, categories)
    classes = count_noun(len(description.categories), "class", "classes")
    click.echo(f"{out}: a detector of {classes}; run `fcos predict` to use it")
