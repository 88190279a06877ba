"""Symbolic links in a person's folder."""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.cli import main
from pipeline.datasets.links import check_links
from pipeline.errors import PipelineError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set, beside private files; without links."""
    (tmp_path / "data/images").mkdir(parents=True)
    (tmp_path / "data/images/a.jpg").write_text("a")
    (tmp_path / "private").mkdir()
    (tmp_path / "private/key.txt").write_text("secret")
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("images/b.jpg", "a.jpg"),
        ("train", "images"),
        ("absolute", "{top}/data/images"),
        (".hidden", "../private/key.txt"),  # isn't copied
        ("images/__MACOSX", "../../private"),
    ],
)
def test_links_inside_and_hidden_ones_are_allowed(folder: Path, link: str, target: str) -> None:
    (folder / link).symlink_to(target.format(top=folder.parent))
    check_links(folder, follow=False)


@pytest.mark.parametrize(
    ("link", "target", "leads_to"),
    [
        ("notes.txt", "../private/key.txt", "private/key.txt"),
        ("images/b.jpg", "{top}/private/key.txt", "private/key.txt"),
        ("images/more", "../../private", "private"),
        ("up", "../../{name}/private", "private"),
        ("device.jpg", "/dev/null", "/dev/null"),
    ],
)
def test_a_link_that_leads_outside_is_an_error_unless_allowed(
    folder: Path, link: str, target: str, leads_to: str
) -> None:
    (folder / link).symlink_to(target.format(top=folder.parent, name=folder.parent.name))
    with pytest.raises(PipelineError) as caught:
        check_links(folder, follow=False)
    assert str(caught.value) == (
        f"{folder / link}: is a link to {folder.parent / leads_to}, outside of the data set; put a copy there, or "
        "follow such links with -S download.follow_links=true"
    )
    if leads_to == "/dev/null":
        with pytest.raises(PipelineError, match=r"device\.jpg: is neither a file nor a folder; remove it"):
            check_links(folder, follow=True)
    else:
        check_links(folder, follow=True)


def test_a_link_outside_by_way_of_a_link_inside(folder: Path) -> None:
    (folder / "one").symlink_to("two")
    (folder / "two").symlink_to("../private")
    with pytest.raises(PipelineError, match=r"one: is a link to .*private, outside of the data set"):
        check_links(folder, follow=False)


@pytest.mark.parametrize(
    ("links", "said"),
    [
        ({"loop": "."}, "loop: is a link to {data}, a folder that contains it; remove the link"),
        ({"images/loop": ".."}, "images/loop: is a link to {data}, a folder that contains it; remove the link"),
        ({"images/to": "../d", "d": "images"}, "d/to: is a link to {data}/images, a folder that contains it"),
        ({"self": "self"}, "self: is a link to itself; remove the link"),
        ({"x": "y", "y": "x"}, "x: is a link to itself; remove the link"),
        ({"gone.jpg": "nowhere.jpg"}, "gone.jpg: is a link to nowhere.jpg, which can't be found; remove the link, or"),
    ],
)
@pytest.mark.parametrize("follow", [False, True])
def test_loops_and_dangling_links_are_one_short_line(
    folder: Path, links: dict[str, str], said: str, follow: bool
) -> None:
    for link, target in links.items():
        (folder / link).symlink_to(target)
    with pytest.raises(PipelineError) as caught:
        check_links(folder, follow=follow)
    assert said.format(data=folder) in str(caught.value)
    assert len(str(caught.value)) < 300 + len(str(folder)) * 2


def test_the_folder_itself_may_be_a_link(folder: Path, tmp_path: Path) -> None:
    (folder / "b").symlink_to("images")
    (tmp_path / "link").symlink_to(folder)
    check_links(tmp_path / "link", follow=False)


@pytest.mark.parametrize("command", [("validate",), ("convert", "--to", "coco", "--out", "out")])
def test_validate_and_convert_refuse_what_the_download_refuses(
    folder: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.chdir(folder.parent)
    (folder / "more").symlink_to("../private")
    refused = CliRunner().invoke(main, [command[0], "data", *command[1:]])
    assert refused.exit_code == 1
    assert "more: is a link to" in refused.stderr
    followed = CliRunner().invoke(main, [command[0], "data", *command[1:], "-S", "download.follow_links=true"])
    assert "no annotations recognized" in followed.stderr


def test_a_pipe_is_an_error(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    with pytest.raises(PipelineError, match="pipe: is neither a file nor a folder; remove it"):
        check_links(folder, follow=False)
