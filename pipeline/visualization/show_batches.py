"""`fcos show-batches`: pictures of what training will see."""

import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import PIL.Image

from fcos.training.batch import Batch
from pipeline.analysis.lookup import DataSet
from pipeline.data.images import to_pil
from pipeline.errors import PipelineError
from pipeline.params import Params
from pipeline.training.build import make_batches
from pipeline.visualization.boxes import class_color, draw_boxes
from pipeline.visualization.contact_sheets import contact_sheet

_TILE = 400  # pixels


def write(params: Params, home: Path, *, epoch: int, count: int, out: Path) -> list[str]:
    """Writes a contact sheet of each of an epoch's first steps, as all processes together see it, all or nothing.

    Args:
        home: the workspace, with data/unified.
        epoch: counted from 0.
        count: of steps; an epoch may have fewer.

    Returns:
        a line a step: images, objects and sizes.

    Raises:
        PipelineError: no such epoch, no data yet, an image can't be decoded, or is where a picture would go.
    """
    if epoch >= params.train.epochs:
        raise PipelineError(f"epoch {epoch}: train.epochs in params.yaml is {params.train.epochs}, counted from 0")
    data = DataSet(home, params.dataset, "train")
    split = data.first
    # As many workers as there are give the same batches, but would decode far more than is looked at.
    alone = replace(params, machine=replace(params.machine, workers=0))
    batches = make_batches(alone, split, data.raw)
    inputs = {(data.raw / image.file_name).resolve() for image in split.images}
    names = [category.name for category in split.categories]
    lines = []
    with TemporaryDirectory() as staging:
        for step, parts in enumerate(islice(batches(epoch), count)):
            file = f"epoch-{epoch}-step-{step}.jpg"
            if (out / file).resolve() in inputs:
                raise PipelineError(f"{out / file}: is an image of the data set: choose another --out")
            lines.append(f"{file}: {line(parts)}")
            sheet(parts, names, title=f"epoch {epoch}, step {step}: {line(parts)}").save(
                Path(staging) / file, quality=90
            )
        out.mkdir(parents=True, exist_ok=True)
        for written in sorted(Path(staging).iterdir()):
            shutil.move(written, out / written.name)
    return lines


def line(parts: Sequence[Batch]) -> str:
    """Images, objects and sizes of a step."""
    images, objects = sum(len(part.names) for part in parts), sum(part.objects for part in parts)
    heights, widths = zip(*(size for part in parts for size in part.sizes.tolist()), strict=True)
    padded = ", ".join(dict.fromkeys(_size(part.pixels.shape[-2], part.pixels.shape[-1]) for part in parts))
    return (
        f"{images} images, {objects} objects, {min(widths)} to {max(widths)} wide, "
        f"{min(heights)} to {max(heights)} high, padded to {padded}"
    )


def sheet(parts: Sequence[Batch], names: Sequence[str], *, title: str) -> PIL.Image.Image:
    """The images of a step, as padded, with their objects."""
    tiles = [_tile(part, index, names) for part in parts for index in range(len(part.names))]
    return contact_sheet(tiles, columns=math.ceil(math.sqrt(len(tiles))), tile_size=_TILE, title=title)


def _tile(part: Batch, index: int, names: Sequence[str]) -> tuple[PIL.Image.Image, str]:
    valid = part.targets.valid[index]
    boxes, labels = part.targets.boxes[index][valid].tolist(), part.targets.labels[index][valid].tolist()
    drawn = draw_boxes(to_pil(part.pixels[index]), boxes, [names[i] for i in labels], [class_color(i) for i in labels])
    height, width = part.sizes[index].tolist()
    return drawn, f"{_size(height, width)}  {part.names[index]}"


def _size(height: int, width: int) -> str:
    return f"{width}×{height}"
