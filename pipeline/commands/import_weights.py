"""`fcos import-weights`."""

from pathlib import Path

import click


@click.command("import-weights")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Default: models/detector.safetensors.")
@click.option("--categories", type=click.Path(path_type=Path), help="COCO JSON with the classes; default: COCO's.")
def import_weights(file: Path, out: Path | None, categories: Path | None) -> None:
    """Make a detector of a file of torchvision's fcos_resnet50_fpn, .pth or .safetensors."""
    from pipeline.inference import import_weights as importing
    from pipeline.workspace import workspace

    out = out or workspace() / "models/detector.safetensors"
    about = importing.import_weights(file, out, categories)
    click.echo(f"{out}: a detector of {len(about.categories)} classes; fcos predict uses it")
