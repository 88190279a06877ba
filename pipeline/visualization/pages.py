"""Self-contained HTML pages: templates beside this file, which share `page.html.jinja`; pictures are in the page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.errors import PipelineError
from pipeline.files import write_text


def render(template: str, content: Mapping[str, Any]) -> str:
    """The HTML of a page. Names of classes and files are untrusted, so everything but the template itself is escaped.

    Args:
        template: the name of the template's file.
        content: what the template calls `page`.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(page=content)


def write(html: str, path: Path) -> None:
    """Writes a page, whole or not at all.

    Raises:
        PipelineError: the file can't be written.
    """
    try:
        write_text(path, html)
    except OSError as error:
        raise PipelineError(f"{path}: not written: {error.strerror or error}") from None
