"""Recipes: what a known result changes in the default parameters. Each `.yaml` beside this module is one, but defaults.

`defaults.yaml` is the complete, commented params.yaml. A recipe begins with a comment (one line that describes it, then
`Source:` and `Reached:`, a line each, and notes) and holds only the keys whose values differ from the defaults.
`compose` writes such a file for values that are chosen at run time, by `fcos recipes auto`.
"""

import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
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
_TOP_LEVEL = re.compile(r"(?P<name>\w+):")
_LINE = re.compile(r"(?P<indent> *)(?P<key>[\w]+):(?: (?P<value>[^#]*?))?(?: # (?P<comment>.*))?$")


@dataclass(frozen=True)
class Recipe:
    """An overlay of the default parameters."""

    name: str
    description: str
    source: str
    reached: str  # the number, the data, and who reached it
    text: str  # a complete params.yaml: the header, then the defaults with the recipe's values in place


@dataclass(frozen=True)
class Setting:
    """A line of an overlay."""

    value: str  # as written in the file
    comment: str | None


def recipes() -> dict[str, Recipe]:
    """All recipes by name, in alphabetical order.

    Raises:
        PipelineError: a file has no header, or sets an unknown parameter.
    """
    return {path.stem: _read(path) for path in sorted(FOLDER.glob("*.yaml")) if path != DEFAULTS}


def defaults() -> Params:
    """The default parameters. They need neither a project nor a params.yaml."""
    return params.load(DEFAULTS)


def load(name: str) -> Params:
    """The parameters of a recipe.

    Raises:
        PipelineError: there is no such recipe.
    """
    return params.parse(find(name).text, FOLDER / f"{name}.yaml")


def find(name: str) -> Recipe:
    """The recipe with a name.

    Raises:
        PipelineError: there is none; the message lists the known recipes.
    """
    known = recipes()
    if name not in known:
        raise PipelineError(f"{name!r} is not a recipe; there are {', '.join(known)}")
    return known[name]


def check_replaceable(path: Path, *, force: bool) -> None:
    """Makes sure that no parameter file is lost by writing another one in its place.

    Args:
        force: replace the file even if its content is neither in git's last commit nor that of a recipe.

    Raises:
        PipelineError: the content of the file would be lost.
    """
    if not force and path.exists() and not _can_be_restored(path):
        raise PipelineError(f"{path}: has uncommitted changes; commit it, choose another --out, or use --force")


def write(text: str, path: Path, *, force: bool) -> None:
    """Writes the text of a complete parameter file.

    Args:
        force: as for `check_replaceable`.

    Raises:
        PipelineError: the content of the file would be lost, or the file can't be written.
    """
    check_replaceable(path, force=force)
    try:
        write_text(path, text)
    except OSError as error:
        raise PipelineError(f"{path}: not written: {error.strerror}") from None


def compose(header: Sequence[str], settings: Mapping[str, Setting], kept: Mapping[str, str], path: Path) -> str:
    """The text of a complete parameter file: a header, then the defaults with other values and kept sections.

    Args:
        header: lines of the comment at the top.
        settings: values by dotted name.
        kept: sections of another parameter file, as `sections` returns them, that replace those of the defaults.
        path: names the file in messages.

    Raises:
        PipelineError: a setting is no parameter that defaults.yaml has.
    """
    schema, *rest = DEFAULTS.read_text(encoding="utf-8").splitlines(keepends=True)
    escaped = {key: Setting(setting.value, _escape(setting.comment or "")) for key, setting in settings.items()}
    blocks = sections("".join(_apply(rest, escaped, path)))
    return schema + "".join(f"# {_escape(line)}\n" for line in header) + "".join((blocks | dict(kept)).values())


def _escape(comment: str) -> str:
    """The comment with line breaks and control characters as in Python: it may name classes, which have any letters."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in comment
    )


def sections(text: str) -> dict[str, str]:
    """The text of each top-level key of a parameter file, with its comments; '' is what precedes the first key."""
    blocks = {"": ""}
    for line in text.splitlines(keepends=True):
        match = _TOP_LEVEL.match(line)
        name = match["name"] if match else list(blocks)[-1]
        blocks[name] = blocks.get(name, "") + line
    return blocks


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
    complete = schema + header.group(0) + "".join(_apply(rest, settings, path))
    return Recipe(name=path.stem, text=complete, **header.groupdict())


def _settings(text: str, path: Path) -> Iterator[tuple[str, Setting]]:
    """Dotted names and values of an overlay, which has one `key: value` per line."""
    for key, match in _keys(text.splitlines(), path):
        if match["value"]:
            yield key, Setting(match["value"], match["comment"])


def _apply(lines: list[str], settings: dict[str, Setting], path: Path) -> Iterator[str]:
    """The defaults' lines with an overlay's values; an overlay's comment precedes that of the defaults."""
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


def _can_be_restored(path: Path) -> bool:
    """Whether a file's content is in git's last commit, or that of a recipe or of the defaults."""
    content = path.read_bytes()
    recipe_texts: set[Any] = {recipe.text.encode() for recipe in recipes().values()} | {DEFAULTS.read_bytes()}
    return content in recipe_texts or content == _committed(path)


def _committed(path: Path) -> bytes | None:
    """The file's content in git's last commit; None if there is none."""
    try:
        result = subprocess.run(
            ["git", "show", f"HEAD:./{path.name}"], cwd=path.parent, capture_output=True, check=False
        )
    except FileNotFoundError:
        return None
    return result.stdout if result.returncode == 0 else None
