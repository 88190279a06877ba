"""Recipes: complete parameter files, each known result's. A `.yaml` beside this file is one; nothing else lists them.

A recipe begins with a comment: one line that describes it, then `Source:` and `Reached:`, a line each.
"""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.files import write_text

FOLDER = Path(__file__).parent
_HEADER = re.compile(r"# (?P<description>.+)\n# Source: (?P<source>.+)\n# Reached: (?P<reached>.+)\n")


@dataclass(frozen=True)
class Recipe:
    """One parameter file."""

    name: str
    description: str
    source: str
    reached: str  # the number, on which data, and who reached it
    text: str  # the whole file


def recipes() -> dict[str, Recipe]:
    """All recipes by name, in the alphabet's order."""
    return {path.stem: _read(path) for path in sorted(FOLDER.glob("*.yaml"))}


def _read(path: Path) -> Recipe:
    text = path.read_text(encoding="utf-8")
    header = _HEADER.match(text)
    if header is None:
        raise PipelineError(f"{path}: a recipe begins with three comments: a description, `Source:` and `Reached:`")
    return Recipe(name=path.stem, text=text, **header.groupdict())


def find(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        PipelineError: there is none; the message lists those that there are.
    """
    known = recipes()
    if name not in known:
        raise PipelineError(f"{name!r} is not a recipe; there are {', '.join(known)}")
    return known[name]


def write(recipe: Recipe, path: Path, *, force: bool) -> None:
    """Writes a recipe as a parameter file.

    Args:
        force: also where a file's content would be lost: neither git's last commit nor a recipe has it as it is.

    Raises:
        PipelineError: a content would be lost, or the file can't be written.
    """
    if not force and path.exists() and not _kept_elsewhere(path):
        raise PipelineError(f"{path}: git has not committed it as it is; commit it, choose another --out, or --force")
    try:
        write_text(path, recipe.text)
    except OSError as error:
        raise PipelineError(f"{path}: not written: {error.strerror}") from None


def _kept_elsewhere(path: Path) -> bool:
    """Whether a file's content stands in git's last commit, or is a recipe's."""
    content = path.read_bytes()
    return content in {recipe.text.encode() for recipe in recipes().values()} or content == _committed(path)


def _committed(path: Path) -> bytes | None:
    """What git's last commit has at this path; None where it has nothing, or there is no git."""
    try:
        shown = subprocess.run(
            ["git", "show", f"HEAD:./{path.name}"], cwd=path.parent, capture_output=True, check=False
        )
    except FileNotFoundError:
        return None
    return shown.stdout if shown.returncode == 0 else None
