"""Recipes: what a known result changes in the default parameters. A `.yaml` beside this file is one, except defaults.

`defaults.yaml` is the complete, commented params.yaml. A recipe begins with a comment (one line that describes it, then
`Source:` and `Reached:`, a line each, and notes) and holds only the keys whose values differ from the defaults.
"""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import params
from pipeline.errors import PipelineError
from pipeline.files import write_text
from pipeline.params import Params

FOLDER = Path(__file__).parent
DEFAULTS = FOLDER / "defaults.yaml"
_HEADER = re.compile(r"# (?P<description>.+)\n# Source: (?P<source>.+)\n# Reached: (?P<reached>.+)\n(?:#.*\n)*")
_LINE = re.compile(r"(?P<indent> *)(?P<key>[\w]+):(?: (?P<value>[^#]*?))?(?: # (?P<comment>.*))?$")


@dataclass(frozen=True)
class Recipe:
    """One overlay of the default parameters."""

    name: str
    description: str
    source: str
    reached: str  # the number, on which data, and who reached it
    text: str  # a complete params.yaml: the header, then the defaults with the recipe's values in place


@dataclass(frozen=True)
class _Setting:
    """One line of an overlay."""

    value: str  # as the file writes it
    comment: str | None


def recipes() -> dict[str, Recipe]:
    """All recipes by name, in alphabetical order.

    Raises:
        PipelineError: a file lacks the header, or sets a key that is no parameter.
    """
    return {path.stem: _read(path) for path in sorted(FOLDER.glob("*.yaml")) if path != DEFAULTS}


def defaults() -> Params:
    """The default parameters, in any folder: no project and no params.yaml is needed."""
    return params.load(DEFAULTS)


def load(name: str) -> Params:
    """The parameters of a recipe.

    Raises:
        PipelineError: there is no such recipe.
    """
    return params.parse(find(name).text, FOLDER / f"{name}.yaml")


def find(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        PipelineError: there is none; the message lists the known ones.
    """
    known = recipes()
    if name not in known:
        raise PipelineError(f"{name!r} is not a recipe; there are {', '.join(known)}")
    return known[name]


def write(recipe: Recipe, path: Path, *, force: bool) -> None:
    """Writes a recipe as a complete parameter file.

    Args:
        force: also where the file's content would be lost: neither git's last commit nor a recipe has it as it is.

    Raises:
        PipelineError: content would be lost, or the file can't be written.
    """
    if not force and path.exists() and not _kept_elsewhere(path):
        raise PipelineError(f"{path}: git has not committed it as it is; commit it, choose another --out, or --force")
    try:
        write_text(path, recipe.text)
    except OSError as error:
        raise PipelineError(f"{path}: not written: {error.strerror}") from None


def comments() -> dict[str, str]:
    """The comment of each line of defaults.yaml, by the parameter's or the section's dotted name."""
    lines = DEFAULTS.read_text(encoding="utf-8").splitlines()
    return {key: match["comment"] for key, match in _keys(lines, DEFAULTS) if match["comment"]}


def _read(path: Path) -> Recipe:
    text = path.read_text(encoding="utf-8")
    header = _HEADER.match(text)
    if header is None:
        raise PipelineError(f"{path}: a recipe begins with three comments: a description, `Source:` and `Reached:`")
    settings = dict(_settings(text[header.end() :], path))
    schema, *rest = DEFAULTS.read_text(encoding="utf-8").splitlines(keepends=True)
    complete = schema + header.group(0) + "".join(_applied(rest, settings, path))
    return Recipe(name=path.stem, text=complete, **header.groupdict())


def _settings(text: str, path: Path) -> Iterator[tuple[str, _Setting]]:
    """Dotted names and values of an overlay, one `key: value` a line."""
    for key, match in _keys(text.splitlines(), path):
        if match["value"]:
            yield key, _Setting(match["value"], match["comment"])


def _applied(lines: list[str], settings: dict[str, _Setting], path: Path) -> Iterator[str]:
    """The defaults' lines with the values of an overlay in place; its comments come before the defaults'."""
    known = {id(line): key for key, line in _default_keys(lines)}
    unknown = sorted(settings.keys() - set(known.values()))
    if unknown:
        raise PipelineError(f"{path}: {unknown[0]} is not a parameter that defaults.yaml has")
    for line in lines:
        setting = settings.get(known.get(id(line), ""))
        match = _LINE.match(line.rstrip("\n"))
        if setting is None or match is None:
            yield line
            continue
        comment = "; ".join(filter(None, (setting.comment, match["comment"])))
        yield f"{match['indent']}{match['key']}: {setting.value}" + (f" # {comment}\n" if comment else "\n")


def _default_keys(lines: list[str]) -> Iterator[tuple[str, str]]:
    sections: list[str] = []
    for line in lines:
        match = _LINE.match(line.rstrip("\n"))
        if match:
            depth = len(match["indent"]) // 2
            sections = [*sections[:depth], match["key"]]
            if match["value"]:
                yield ".".join(sections), line


def _keys(lines: list[str], path: Path) -> Iterator[tuple[str, "re.Match[str]"]]:
    sections: list[str] = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.match(line)
        if match is None:
            raise PipelineError(f"{path}: not `key: value` at line {number} after the header: {line.strip()}")
        sections = [*sections[: len(match["indent"]) // 2], match["key"]]
        yield ".".join(sections), match


def _kept_elsewhere(path: Path) -> bool:
    """Whether a file's content is in git's last commit, or is that of a recipe or of the defaults."""
    content = path.read_bytes()
    own: set[Any] = {recipe.text.encode() for recipe in recipes().values()} | {DEFAULTS.read_bytes()}
    return content in own or content == _committed(path)


def _committed(path: Path) -> bytes | None:
    """The content of git's last commit at this path; None where it has none, or there is no git."""
    try:
        shown = subprocess.run(
            ["git", "show", f"HEAD:./{path.name}"], cwd=path.parent, capture_output=True, check=False
        )
    except FileNotFoundError:
        return None
    return shown.stdout if shown.returncode == 0 else None
