"""`fcos suggest`."""

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.commands import options

if TYPE_CHECKING:
    from fcos.postprocess import Postprocess
    from pipeline.analysis.suggestions import Picture, Vectors
    from pipeline.errors import PipelineError
    from pipeline.inference.saved_detector import SavedDetector


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--count", type=click.IntRange(1), default=50, show_default=True, help="Number of images to suggest.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="suggested",
    show_default=True,
    help="Folder for the list and the data set with the detector's boxes; must be empty or new.",
)
@click.option(
    "--to",
    type=click.Choice(["coco", "voc", "yolo"]),
    default="coco",
    show_default=True,
    help="Format of this data set.",
)
@click.option(
    "--images",
    type=click.Choice(["copy", "link", "none"]),
    default="copy",
    show_default=True,
    help="Copy the image files into it, hard-link them, or leave them out.",
)
@options.weights
@click.option(
    "--score", type=click.FloatRange(0, 1), help="Lowest score of a box in the data set. Default: as in `fcos predict`."
)
@options.device
def suggest(
    folder: Path, count: int, out: Path, to: str, images: str, weights: Path | None, score: float | None, device: str
) -> None:
    """Suggest which images of FOLDER to label next: those that the detector is unsure about, and that differ.

    They are compared with the images of the project's data set. The list has the images in the order in which to label
    them. An image that can't be read is reported and left out; the exit status is then 1.
    """
    from pipeline import params
    from pipeline.analysis import suggestions
    from pipeline.errors import PipelineError
    from pipeline.files import require_new_folder
    from pipeline.inference.device import choose_device
    from pipeline.inference.postprocess import make_postprocess
    from pipeline.inference.saved_detector import SavedDetector
    from pipeline.inference.score_thresholds import score_thresholds
    from pipeline.prediction.inputs import find_inputs
    from pipeline.workspace import workspace

    values, home, failed = params.load(), workspace(), 0

    def on_error(error: PipelineError) -> None:
        nonlocal failed
        failed += 1
        click.echo(f"fcos: {error}", err=True)

    require_new_folder(out)  # before minutes of work
    if not folder.is_dir():
        raise PipelineError(f"{folder}: no such folder")
    found = find_inputs([str(folder)], out).images
    if not found:
        raise PipelineError(f"{folder}: no image in this folder")
    labeled, total = suggestions.labeled_images(home, values.dataset, values.seed)
    new = suggestions.without_copies(found, [path for path, _ in labeled])
    weights = weights or home / "models/detector.safetensors"
    model = SavedDetector.load(weights, choose_device(device))
    thresholds = score_thresholds(weights, model.class_names, score)
    unlabeled, vectors = _look(model, labeled, new, make_postprocess(values.postprocess), on_error)
    chosen = suggestions.choose(unlabeled, vectors, thresholds, count)
    if not chosen:
        raise PipelineError(f"{folder}: no image to suggest: all of them are in the data set, or can't be read")
    suggestions.write(chosen, model, folder, out, to=to, images=images)
    for item in chosen:
        click.echo(item.picture.path)
    compared = f"{len(labeled)} of {total}" if len(labeled) < total else str(total)
    summary = f"{len(chosen)} of {_describe(len(found), len(new))}; compared with {compared} labeled ones"
    shown = f"`fcos app --suggested {shlex.quote(str(out))}` shows them"
    click.echo(f"{summary}; list and boxes in {out}; {shown}", err=True)
    if failed:
        sys.exit(1)


def _look(
    model: "SavedDetector",
    labeled: Sequence[tuple[Path, tuple[int, int] | None]],
    new: Sequence[Path],
    postprocess: "Postprocess",
    on_error: Callable[["PipelineError"], None],
) -> tuple[list["Picture"], list["Vectors"]]:
    """The new pictures as the detector sees them, and the embeddings of the labeled ones."""
    from tqdm import tqdm

    from pipeline.analysis.suggestions import look_at_all

    jobs = [*labeled, *((path, None) for path in new)]
    with tqdm(jobs, unit="image", disable=not sys.stderr.isatty()) as bar:
        seen = list(look_at_all(model, bar, postprocess, on_error))
    known = {path for path, _ in labeled}
    unlabeled = [picture for picture in seen if picture.path not in known]
    return unlabeled, [picture.vector for picture in seen if picture.path in known]


def _describe(found: int, new: int) -> str:
    from pipeline.errors import count_noun

    skipped = f", {found - new} in the data set already" if new < found else ""
    return f"{count_noun(found, 'image')}{skipped}"
