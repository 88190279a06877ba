"""Workspaces for stages that run as DVC runs them, and small real data sets."""

import shutil
import subprocess
from collections.abc import Callable
from functools import partial, partialmethod
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML
from tqdm import tqdm

from tests.support.parameters import PAPER, replace_lines, set_value
from tests.support.paths import PROJECT
from tests.support.projects import run_stage


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace of its own, with the project's dvc.yaml and params.yaml, but PAPER; the current folder."""
    monkeypatch.delenv("DVC_ROOT", raising=False)
    folder = tmp_path / "home"
    folder.mkdir()
    shutil.copyfile(PROJECT / "dvc.yaml", folder / "dvc.yaml")
    (folder / "params.yaml").write_text(replace_lines((PROJECT / "params.yaml").read_text(), PAPER))
    for name in ("start_from", "extend_from"):  # as in the project: DVC accepts no missing dependency
        (folder / "data" / name).mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def setting(home: Path) -> Callable[..., None]:
    """Changes params.yaml of the workspace: `setting(dataset="custom")`, `setting(**{"convert.train": "a"})`."""

    def change(**values: object) -> None:
        yaml = YAML()
        content = yaml.load(home / "params.yaml")
        for key, value in values.items():
            set_value(content, key, value)
        yaml.dump(content, home / "params.yaml")

    return change


@pytest.fixture
def stage(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Runs a stage in the workspace, in this process and without progress bars; tests/end_to_end starts processes."""
    monkeypatch.setattr(tqdm, "__init__", partialmethod(tqdm.__init__, disable=True))
    return partial(run_stage, home)


@pytest.fixture
def archive() -> Callable[[str], Path]:
    """The path of a shared archive of real data; skips, naming it, where it is not there."""

    def find(name: str) -> Path:
        path = PROJECT.parent / "shared" / "data" / name
        if not path.is_file():
            pytest.skip(f"../shared/data/{name} is not there")
        return path

    return find


@pytest.fixture
def picture() -> Callable[..., Path]:
    """Writes a small image, different for each `seed`: `picture(path, (width, height), seed)`."""

    def write(path: Path, size: tuple[int, int] = (40, 30), seed: int = 0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        return path

    return write


@pytest.fixture
def voc_xml() -> Callable[..., Path]:
    """Writes a Pascal VOC annotation; objects are (name, xmin, ymin, xmax, ymax) or with a sixth, difficult."""

    def write(path: Path, objects: list[tuple[object, ...]], size: tuple[int, int] | None = (40, 30)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [f"<annotation><filename>{path.stem}.png</filename>"]
        if size:
            lines.append(f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>")
        for name, xmin, ymin, xmax, ymax, *difficult in objects:
            flag = f"<difficult>{difficult[0]}</difficult>" if difficult else ""
            box = f"<xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax>"
            lines.append(f"<object><name>{name}</name>{flag}<bndbox>{box}</bndbox></object>")
        path.write_text("\n".join([*lines, "</annotation>"]))
        return path

    return write
