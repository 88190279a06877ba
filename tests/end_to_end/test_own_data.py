"""The commands of README.md for custom data: real `dvc` on an archive outside the project."""

import shutil
import zipfile
from pathlib import Path

from tests.support.projects import copy, read, readme, run, stages_run


def test_readmes_own_data(reproduced: Path, tmp_path: Path) -> None:
    """The archive is in COCO layout. A change in it runs the stages again."""
    project = copy(reproduced, tmp_path / "project")
    params = project / "params.yaml"
    text = params.read_text()
    assert text.count("  max_images: null") == 1
    params.write_text(text.replace("  max_images: null", "  max_images: 8").replace("  epochs: 2 ", "  epochs: 1 "))
    archive = tmp_path / "mine.zip"
    shutil.make_archive(str(archive.with_suffix("")), "zip", project / "data/raw/digits")
    validate, command = (
        [word.replace("/data/mine.zip", str(archive)) for word in line] for line in readme("Your own data")
    )
    assert "nothing would stop the conversion" in run(project, *validate)
    assert stages_run(run(project, *command)) == {"download", "convert", "train", "evaluate", "inspect"}
    assert read(project, "models/detector.json")["size"] == [480, 640]
    assert stages_run(run(project, "dvc", "repro")) == set()
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr("note.txt", "new")
    assert "download" in stages_run(run(project, "dvc", "repro", "download"))
