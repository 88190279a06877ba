"""`fcos show-batches`: pictures of training batches."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import PIL.Image

from fcos.training.batch import Batch
from pipeline.analysis.image_lookup import DataSet
from pipeline.data.images import to_pil
from pipeline.errors import PipelineError, count_noun
from pipeline.files import move_files
from pipeline.params import Params
from pipeline.training.build import make_batches
from pipeline.visualization.boxes import class_color, draw_boxes
from pipeline.visualization.contact_sheets import contact_sheet

_TILE = 400  # pixels


def write(params: Params, home: Path, *, epoch: int, count: int, out: Path) -> list[str]:
    """Writes a contact sheet for each of the first steps of an epoch, each whole or not at all.

    A sheet has the images of all processes.

    Args:
        home: the workspace, which contains data/unified.
        epoch: counted from 0.
        count: number of steps; fewer if the epoch has fewer.
        out: the folder of the pictures.

    Returns:
        A line per step: its file, numbers of images and objects, and sizes.

    Raises:
        PipelineError: the epoch does not exist, the data set is not converted yet, an image can't be decoded, a picture
            would overwrite an image of the data set, or `out` can't be written.
    """
    if epoch >= params.train.epochs:
        raise PipelineError(f"epoch {epoch}: train.epochs in params.yaml is {params.train.epochs}, counted from 0")
    data = DataSet(home, params.dataset, "train")
    split = data.first
    # Without workers the batches are the same, but no more images are decoded than drawn.
    params = replace(params, machine=replace(params.machine, workers=0))
    steps = islice(make_batches(params, split, data.raw)(epoch), count)
    inputs = {(data.raw / image.file_name).resolve() for image in split.images}
    names = [category.name for category in split.categories]
    lines = []
    with TemporaryDirectory() as staging:
        for number, parts in enumerate(steps):
            file = f"epoch-{epoch}-step-{number}.jpg"
            if (out / file).resolve() in inputs:
                raise PipelineError(f"{out / file}: is an image of the data set: choose another --out")
            lines.append(f"{file}: {describe_step(parts)}")
            sheet = draw_step(parts, names, title=f"epoch {epoch}, step {number}: {describe_step(parts)}")
            sheet.save(Path(staging) / file, quality=90)
        move_files(Path(staging), out)
    return lines


def describe_step(parts: Sequence[Batch]) -> str:
    """The numbers of images and objects of a step, and their sizes in pixels."""
    images, objects = sum(len(part.names) for part in parts), sum(part.objects for part in parts)
    heights, widths = zip(*(size for part in parts for size in part.sizes.tolist()), strict=True)
    padded = ", ".join(dict.fromkeys(_size(part.pixels.shape[-2], part.pixels.shape[-1]) for part in parts))
    return (
        f"{count_noun(images, 'image')}, {count_noun(objects, 'object')}, {min(widths)} to {max(widths)} wide, "
        f"{min(heights)} to {max(heights)} high, padded to {padded}"
    )


def draw_step(parts: Sequence[Batch], names: Sequence[str], *, title: str) -> PIL.Image.Image:
    """A contact sheet of the padded images of a step, with their objects."""
    tiles = [_tile(part, index, names) for part in parts for index in range(len(part.names))]
    return contact_sheet(tiles, columns=math.ceil(math.sqrt(len(tiles))), tile_size=_TILE, title=title)


def _tile(part: Batch, index: int, names: Sequence[str]) -> tuple[PIL.Image.Image, str]:
    valid = part.targets.valid[index]
    boxes, labels = part.targets.boxes[index][valid].tolist(), part.targets.labels[index][valid].tolist()
    picture = draw_boxes(
        to_pil(part.pixels[index]), boxes, [names[i] for i in labels], [class_color(i) for i in labels]
    )
    height, width = part.sizes[index].tolist()
    return picture, f"{_size(height, width)}  {part.names[index]}"


def _size(height: int, width: int) -> str:
    return f"{width}×{height}"
