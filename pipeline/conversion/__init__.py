"""From a data set as published to the unified format: reads, checks, repairs where asked to, and reports.

Rules, for whatever format:
- An image's size is the decoded one, as stored. Where EXIF turns the picture, boxes are taken to refer to the stored
  pixels, unless the declared size is the turned picture's: then they can be turned back.
- A declared size that differs is a problem: the boxes may belong to another rendition. Repair: the decoded size counts.
- Boxes: see `boxes.checked`. An image of train or val that is in a later split too, byte for byte, is a problem.
  Repair: it stays in the later one.
- What counts as a problem, and what can be done about it, is listed in `checks.CHECKS`.
"""

from pathlib import Path
from typing import Any

from pipeline.conversion.survey import Survey, survey, survey_original_splits
from pipeline.data.annotations import write
from pipeline.errors import PipelineError
from pipeline.files import atomic_replace, write_json
from pipeline.params import ConvertParams

__all__ = ["Survey", "convert", "survey", "survey_original_splits"]


def convert(raw: Path, unified: Path, options: ConvertParams, format: str = "auto") -> dict[str, Any]:
    """Converts the data set in the folder `raw` and writes the folder `unified`, whole or not at all.

    Returns:
        the report, as written to `report.json`.

    Raises:
        PipelineError: the data set can't be read, has a problem that is an error, or nothing to learn from.
    """
    found = survey(raw, options, format)
    for line in found.obstacles():
        raise PipelineError(line)
    report = {"issues": options.issues, **found.report()}
    with atomic_replace(unified) as folder:
        for split, annotations in found.splits.items():
            write(annotations, folder / f"{split}.json")
        write_json(folder / "report.json", report)
    return report
