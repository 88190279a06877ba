"""Conversion of a data set of any supported format to the unified format: read, check, repair, split and report.

Rules for all formats:
- The image size in the unified files is that of the decoded image as stored. EXIF rotation is ignored, because boxes
  usually refer to stored pixels. If the annotated size is that of the rotated image, the boxes can be rotated back.
- An annotated size that differs from the image's is an issue: the boxes may belong to another version of the image.
- Boxes are checked by `boxes.check_box`.
- A train or val image that is byte-for-byte identical to an image of a later split is an issue.
- Corrections that people made (`data/corrections/`) come last, so that the splits don't depend on them.
- `checks.CHECKS` lists all issues and what can be done about each.
"""

from pathlib import Path
from typing import Any

from pipeline.conversion.survey import Survey, survey, survey_original_splits
from pipeline.data.annotations import write
from pipeline.errors import PipelineError
from pipeline.files import atomic_replace, write_json
from pipeline.params import ConvertParams

__all__ = ["Survey", "convert", "survey", "survey_original_splits"]


def convert(
    raw: Path, unified: Path, options: ConvertParams, format: str = "auto", corrections: Path | None = None
) -> dict[str, Any]:
    """Converts the data set in the folder `raw` and writes the folder `unified` atomically.

    Args:
        corrections: a file of corrections (`conversion.corrections`), if it exists.

    Returns:
        The report, with the content of `report.json`.

    Raises:
        PipelineError: The data set or the corrections can't be read, an issue counts as an error, or there is nothing
            to learn from.
    """
    surveyed = survey(raw, options, format, corrections=corrections)
    for obstacle in surveyed.obstacles():
        raise PipelineError(obstacle)
    report = {"issues": options.issues, **surveyed.report()}
    with atomic_replace(unified) as folder:
        for split, annotations in surveyed.splits.items():
            write(annotations, folder / f"{split}.json")
        write_json(folder / "report.json", report)
    return report
