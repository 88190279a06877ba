"""README's way to bring data of one's own: real `dvc` on an archive outside the project."""

import shutil
import zipfile
from pathlib import Path

from tests.support.projects import clone, read, readme, run, stages_run


def test_readmes_own_data(tmp_path: Path) -> None:
    """An archive outside the project, in COCO layout; a change in it is noticed."""
    project = tmp_path / "project"
    project.mkdir()
    clone(project)
    run(project, "dvc", "repro", "download")
    params = project / "params.yaml"
    params.write_text(params.read_text().replace("  limit: null", "  limit: 8"))
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
