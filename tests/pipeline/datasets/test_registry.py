"""Entries of the registry: their fields, the errors of invalid ones, and their listings."""

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import params
from pipeline.cli import main
from pipeline.datasets import registry
from pipeline.errors import PipelineError
from pipeline.stages import download
from tests.support.dataset_layouts import LAYOUTS
from tests.support.paths import PROJECT


@pytest.mark.parametrize("name", registry.names())
def test_every_entry_is_complete(name: str) -> None:
    entry = registry.find(name)
    assert set(LAYOUTS[name]) == {file.name for file in entry.files}
    assert entry.title
    assert entry.homepage
    assert entry.license != "not stated"
    assert entry.citation
    assert entry.images
    assert entry.format != "auto"
    content = yaml.safe_load((registry.FOLDER / f"{name}.yaml").read_text())
    assert all({"name", "urls", "size", "checksum"} <= set(file) for file in content["files"])


def test_entries_that_share_an_archive_describe_it_equally() -> None:
    known: dict[str, Any] = {}
    for name in registry.names():
        for file in registry.find(name).files:
            assert known.setdefault(file.name, file) == file


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("files: []", "files is [], but should have at least 1 value"),
        ("files: [{urls: [ftp://a/b.zip]}]", "files.1.urls.1 is 'ftp://a/b.zip', but should be an address, http"),
        ("files: [{urls: [http://a/]}]", "files.1: name: '' is not a file name"),
        ("files: [{urls: [http://a/b.zip], name: ../b}]", "files.1: name: '../b' is not a file name"),
        ("files: [{urls: [http://a/b.zip], into: ../b}]", "files.1: into: '../b' leaves the data set's folder"),
        ("files: [{urls: [http://a/b.zip], size: '7'}]", "files.1.size is '7', but should be a valid integer"),
        ("files: [{urls: [http://a/b.zip], checksum: abc}]", "files.1.checksum is 'abc', but should be md5:…, sha1"),
        ("files: [{urls: [http://a/b.zip], sise: 7}]", "files.1.sise is unknown; known ones: urls, name, size"),
        ("files: [{urls: [http://a/b.zip]}, {urls: [http://b/b.zip]}]", "files: 'b.zip' is there twice"),
        (
            "files: [{urls: [http://a/b.zip]}]\nsplits: {training: a}",
            "splits.training is unknown; known ones: train",
        ),
        ("files: [{urls: [http://a/b.zip]}]\nsplits: a", "splits is 'a', but should have the keys train, val, test"),
        ("files: [{urls: [http://a/b.zip]}]\nformat: cocoa", "format: 'cocoa' is not known; known ones: auto, coco"),
        ("title: nothing", "files is missing"),
        ("licens: MIT", "licens is unknown; known ones: title, homepage"),
        ("- a list", "it is ['a list'], but should have the keys title"),
        ("", "it is None, but should have the keys title"),
        ("title: a\ntitle: b", 'not YAML: found duplicate key "title" with value "b"'),
        ("files: [", "not YAML: "),
        ("!!python/object:os.system {}", ""),
        ("? [a, b]\n: c", "keys should be words"),
        ("files: &a [*a]", "not YAML: *a at line 1 refers to a value that contains it"),
        ("files: [{urls: ['http://[a/b.zip']}]", "files.1: Invalid IPv6 URL"),
        ("title: \x00", "not YAML: "),
    ],
)
def test_invalid_entries_give_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(PipelineError) as caught:
        registry.read(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "invalid",
    [
        {"name": "../a"},
        {"name": "a/b"},
        {"name": ".."},
        {"name": ".lock"},
        {"name": "a.part"},
        {"name": "a.part.json"},
        {"name": "a\nb"},
        {"name": "a\\b"},
        {"urls": []},
        {"urls": ["ftp://example.org/a"]},
        {"urls": ["http://"]},
        {"urls": ["http://[::1/"]},
        {"urls": ["http://example.org/a b"]},
        {"checksum": "md5:123"},
        {"checksum": "crc:" + "0" * 32},
        {"checksum": "sha1:" + "g" * 40},
        {"size": -1},
        {"size": 0},
    ],
)
def test_files_that_cannot_be_downloaded_are_refused(tmp_path: Path, invalid: dict[str, Any]) -> None:
    valid = {"name": "a.zip", "urls": ["http://example.org/a.zip"], "checksum": "md5:" + "0" * 32, "size": 7}
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({"files": [valid]}))
    assert registry.read(path).files[0].name == "a.zip"
    path.write_text(yaml.safe_dump({"files": [valid | invalid]}))
    with pytest.raises(PipelineError):
        registry.read(path)


WORDS = st.sampled_from(
    ["files", "urls", "name", "size", "checksum", "into", "splits", "train", "title", "format", "x"]
)
VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), st.just("http://a/b.zip"))
ANYTHING = st.recursive(
    VALUES, lambda children: st.lists(children, max_size=3) | st.dictionaries(WORDS, children, max_size=4)
)


@given(ANYTHING)
@settings(max_examples=60, deadline=None)
def test_any_yaml_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, values: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(yaml.safe_dump(values, allow_unicode=True))
    with suppress(PipelineError):  # the only exception allowed
        assert registry.read(path).files


def test_an_unknown_data_set_lists_the_known_ones(home: Path, setting: Callable[..., None]) -> None:
    setting(dataset="coco")
    known = re.escape(", ".join(["digits", "custom", "fiftyone:NAME", *registry.names()]))
    with pytest.raises(PipelineError, match=f"^dataset: 'coco' is not known; known ones: {known} "):
        download.run(params.load())
    assert list((home / "data/raw").iterdir()) == []


def run_datasets(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["datasets", *arguments])
    return result.exit_code, result.output


def test_command_lists_the_data_sets() -> None:
    code, output = run_datasets()
    assert code == 0
    names = [line.split()[0] for line in output.splitlines()]
    assert names == ["digits", "custom", "fiftyone:NAME", *registry.names()]
    assert re.search(r"^coco2017 +123,287 images +20\.41 GB  COCO 2017, .* \(annotations: CC BY", output, re.MULTILINE)
    assert re.search(r"^bccd +364 images +size unknown  BCCD, ", output, re.MULTILINE)


def test_command_shows_an_entry(tmp_path: Path) -> None:
    code, output = run_datasets("voc0712")
    assert code == 0
    assert "International Journal of Computer Vision" in output
    assert "sha256:e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb" in output
    custom = tmp_path / "custom.yaml"
    custom.write_text("files: [{urls: [http://a/b.zip]}]\n")
    assert run_datasets(str(custom)) == (0, custom.read_text())
    assert run_datasets("digits") == (0, "digits: handwritten digits over photographs, generated locally\n")
    code, output = run_datasets("voc")
    assert (code, output.count("\n")) == (1, 1)
    assert output.startswith("fcos: dataset: 'voc' is not known; known ones: digits, ")


def documented_rows(name: str) -> set[str]:
    """The table rows of docs/datasets.md for an entry and its files."""
    entry = registry.find(name)
    splits = [f"{split} `{source}`" for split, source in vars(entry.splits).items() if source]
    split_text = ", ".join(splits) or "none of its own: `convert.val_fraction`"
    files = ", ".join(f"`{file.name}`" for file in entry.files)
    link = f"[{entry.title}]({entry.homepage})"
    rows = {f"| `{name}` | {link} | {entry.images:,} | {split_text} | {entry.license} | {files} |"}
    for file in entry.files:
        addresses = ", ".join(f"[{number}]({url})" for number, url in enumerate(file.urls, 1))
        size = f"{file.size:,}" if file.size else "none published"
        checksum = f"`{file.checksum}`" if file.checksum else "none published"
        rows.add(f"| `{file.name}` | {size} | {checksum} | {addresses} |")
    return rows


def test_docs_have_the_tables() -> None:
    section = (PROJECT / "docs/datasets.md").read_text().split("\n## Data sets by name\n")[1].split("\n## ")[0]
    listed = re.findall(r"^\| `(?!dataset).*$", section, re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert set(listed) == set().union(*(documented_rows(name) for name in registry.names()))
