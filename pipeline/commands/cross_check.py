"""`fcos cross-check`."""

from typing import TYPE_CHECKING

import click

from pipeline.commands.options import set_param

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.analysis.label_errors import Candidate
    from pipeline.integrations.cross_check import Fold, Judged
    from pipeline.params import Params


@click.command("cross-check")
@set_param
@click.option("--folds", type=click.IntRange(2), default=3, show_default=True, help="Number of trainings.")
@click.option("--queue", is_flag=True, help="Put the folds into DVC's queue instead of running them now.")
@click.option("--val-only", is_flag=True, help="Train nothing: judge the val split by the evaluate stage's detections.")
@click.option(
    "--count", type=click.IntRange(1), default=500, show_default=True, help="Candidates of each kind that are kept."
)
def cross_check(overrides: tuple[str, ...], folds: int, queue: bool, val_only: bool, count: int) -> None:
    """Find labels that are probably wrong: missing, spurious, of the wrong class, badly drawn.

    The images of train and val are divided into folds. Each fold is an experiment of DVC: a detector is trained on the
    other folds and detects objects in this one. Where its detections disagree with the labels, these are candidates,
    ranked by how sure the detector is, in reports/label_errors.json and .html.

    Finished folds are not run again. -S shortens the trainings: -S train.epochs=5.
    """
    if val_only and (queue or overrides):
        raise click.UsageError("--val-only trains nothing: it needs neither --queue nor -S")
    from pipeline import params
    from pipeline.integrations import cross_check as checks

    values = params.load()
    if val_only:
        _report(values, checks.read_val(), "val alone, whose detections the evaluate stage made", count)
        return
    planned = checks.plan(values, overrides, folds)
    todo = checks.unfinished(planned)
    if queue and todo:
        _enqueue(todo)
        return
    for number, fold in enumerate(planned, start=1):
        state = "" if fold in todo else ", which has finished before"
        click.echo(f"fcos: fold {number} of {folds}: {fold.name}{state}", err=True)
        if fold in todo:
            checks.run(fold)
    _report(values, checks.collect(planned), f"{folds} folds of train and val", count)


def _enqueue(folds: "Sequence[Fold]") -> None:
    from pipeline.errors import count_noun
    from pipeline.integrations import cross_check as checks

    added = checks.queue(folds)
    click.echo(
        f"{count_noun(len(added), 'fold')} queued, {len(folds) - len(added)} in the queue before. Run them with "
        "`dvc queue start`, and this command again once `dvc queue status` shows Success for each."
    )


def _report(values: "Params", judged: "Judged", source: str, count: int) -> None:
    from pipeline.analysis import cross_check_files, label_errors
    from pipeline.errors import count_noun
    from pipeline.files import write_json
    from pipeline.visualization import label_error_page
    from pipeline.workspace import workspace

    candidates = label_errors.first_of_each_kind(label_errors.find(judged.truth, judged.detections), count)
    home = workspace()
    write_json(home / "reports/label_errors.json", [candidate.to_json() for candidate in candidates])
    cross_check_files.write(home, judged.detections)
    raw = home / "data/raw" / values.dataset
    scope = f"{count_noun(judged.num_labels, 'label')} in {count_noun(judged.num_images, 'image')}; {source}"
    label_error_page.write(home / "reports/label_errors.html", judged.truth, candidates, raw, scope=scope)
    click.echo(f"Judged: {scope}.\n")
    click.echo(_table(candidates))
    click.echo("\nreports/label_errors.json has all of them; open reports/label_errors.html in a browser.")
    shown = " and ".join(f"`fcos app{_option(values, split)}`" for split in judged.truth)
    click.echo(f"To correct the labels: {shown}.")


def _option(values: "Params", split: str) -> str:
    return "" if split == values.inspect.split else f" --split {split}"


def _table(candidates: "Sequence[Candidate]") -> str:
    """For each kind: how many candidates there are, and the first one."""
    from pipeline.analysis.label_errors import KINDS
    from pipeline.errors import format_table

    rows = [("label", "candidates", "rank score", "first")]
    for kind in KINDS:
        found = [candidate for candidate in candidates if candidate.kind == kind]
        scores = f"{found[0].rank_score:.2f} to {found[-1].rank_score:.2f}" if found else ""
        rows.append((kind.replace("_", " "), f"{len(found):,}", scores, found[0].file_name if found else ""))
    return format_table(rows, "lrrl")
