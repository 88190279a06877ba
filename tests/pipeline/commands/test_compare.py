"""`fcos compare` of files of detections: numbers, exit status, the page, and what it refuses."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pipeline.cli import main
from pipeline.evaluation import resampling
from pipeline.integrations import fiftyone
from pipeline.visualization import comparison_page

Write = Callable[..., Path]
EVIL = "<script>alert(1)</script>"


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, picture: Write) -> None:
    """Ten images with an object each. A finds all; B has a wrong detection instead in images 1 and 2."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(resampling, "DRAWS", 50)
    box, other = [10, 10, 20, 20], [40, 30, 15, 15]
    write("gt.json", {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 60, "height": 50} for n in range(1, 11)],
        "annotations": [{"image_id": n, "category_id": 1, "bbox": box} for n in range(1, 11)],
        "categories": [{"id": 1, "name": EVIL}, {"id": 2, "name": "dog"}],
    })  # fmt: skip
    a = [{"image_id": n, "category_id": 1, "bbox": box, "score": 0.9} for n in range(1, 11)]
    wrong = [{"image_id": n, "category_id": 1, "bbox": other, "score": 0.95} for n in (1, 2)]
    write("a.json", a)
    write("b.json", a[2:] + wrong)
    for number in range(1, 11):
        picture(tmp_path / f"images/{number}.png", (60, 50), seed=number)


def write(name: str, content: object) -> None:
    Path(name).write_text(json.dumps(content))


def compare(*arguments: str) -> Result:
    result = CliRunner().invoke(main, ["compare", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def test_numbers_and_images() -> None:
    result = json.loads(compare("a.json", "b.json", "--gt", "gt.json", "--json").stdout)
    (found,) = result["comparisons"]
    # B: two wrong detections come first, so that the precision is 8/10 up to a recall of 0.8 (81 of 101 recalls).
    ap = found["metrics"]["AP"]
    assert (ap["a"], ap["b"]) == (pytest.approx(1), pytest.approx(81 / 101 * 0.8))
    assert ap["difference"] == pytest.approx(81 / 101 * 0.8 - 1)
    assert ap["low"] < ap["difference"] < 0 < ap["high"]  # in 8 of 10 images there is no difference
    assert ap["excludes_zero"] is False
    assert found["classes"]["dog"]["AP"] == dict.fromkeys(("a", "b", "difference", "low", "high", "excludes_zero"))
    # Without these two, the precision is 1 up to that recall; without the missed objects, 0.8 at all recalls.
    cost = {kind: found["metrics"][f"errors/{kind}"] for kind in ("background", "missed")}
    assert cost["background"]["difference"] == pytest.approx(81 / 101 * 0.2)
    assert cost["missed"]["difference"] == pytest.approx(20 / 101 * 0.8)
    for value in cost.values():
        assert value["low"] < value["difference"] < value["high"]
        assert value["excludes_zero"] == (value["low"] > 0)
    assert found["worse"] == [{"image": f"{n}.png", "a": 0, "b": 2} for n in (2, 1)]
    assert (found["better"], result["parameters"]) == ([], {})
    text = compare("a.json", "b.json", "--gt", "gt.json").stdout
    assert re.search(r"^ AP +1\.000 +0\.642 +-0\.358 .* no difference$", text, re.MULTILINE)
    assert re.search(r"^ errors/background +0\.000 +0\.160 +\+0\.160 +[+-]\d.*$", text, re.MULTILINE)
    assert "B has fewer errors than A in 0 images, more in 2, and as many in 8" in text


def test_exit_status() -> None:
    for options, status in ((["-36"], 0), (["-35"], 1), (["-36", "--by", "lower"], 1)):
        result = compare("a.json", "b.json", "--gt", "gt.json", "--fail-below", *options)
        assert result.exit_code == status, options
        assert result.stderr.startswith("fcos: b.json: ") == bool(status)


def test_the_first_is_compared_with_each_other() -> None:
    result = compare("a.json", "a.json", "b.json", "--gt", "gt.json", "--json", "--fail-below", "-1")
    found = json.loads(result.stdout)["comparisons"]
    assert [(item["a"], item["b"], item["metrics"]["AP"]["difference"] < 0) for item in found] == [
        ("A", "B", False),
        ("A", "C", True),
    ]
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)


def test_the_page_has_everything_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison_page, "MAX_IMAGES", 1)
    Path("images/1.png").unlink()
    arguments = ("a.json", "b.json", "--gt", "gt.json", "--images", "images", "--html", "page.html")
    assert compare(*arguments).stderr == "page.html: open it in a browser\n"
    page = Path("page.html").read_text()
    assert len(re.findall('<img src="data:image/jpeg;base64,', page)) == 2  # image 2, beside each other
    assert not re.findall(r"(?:src|href)=[\"'](?!data:)", page)
    assert "<script" not in page
    assert "2 images with more errors in B" in page
    assert "<b>B</b>: 1 missed, 1 background" in page
    assert re.search(r"AP50 lost: background .*\n *<td>0\.0</td><td>16\.0</td><td>\+16\.0</td>.*title=\"\S+ … \+", page)
    monkeypatch.setattr(comparison_page, "MAX_IMAGES", 2)
    compare(*arguments)
    assert Path("page.html").read_text().count("1.png: no such file") == 2
    compare("a.json", "b.json", "--gt", "gt.json", "--html", "page.html")
    assert Path("page.html").read_text().count("give it with --images") == 4


def test_the_app_shows_the_images_that_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What FiftyOne gets; the App itself is not started."""
    started, specs = list[object](), list[dict[str, Any]]()

    @contextmanager
    def serve(name: str, port: int, build: Callable[[], object]) -> Iterator[SimpleNamespace]:
        build()
        yield SimpleNamespace(address=f"http://127.0.0.1:{port}/{name}", wait=lambda: started.append(name))

    Path("dvc.yaml").touch()  # the images are copied into the project's state
    monkeypatch.setattr(fiftyone, "serve", serve)
    monkeypatch.setattr(fiftyone, "run_child", lambda *arguments: specs.append(arguments[2]))
    arguments = ("a.json", "b.json", "--gt", "gt.json", "--app", "--port", "5200")
    result = compare(*arguments, "--images", "images")
    assert result.stderr == "FiftyOne: http://127.0.0.1:5200/fcos-comparison  (Ctrl-C stops it)\n"
    assert started == ["fcos-comparison"]
    (spec,) = specs
    assert [(item["file"], item["errors"]) for item in spec["samples"]] == [
        (f"{n}.png", {"A": 0, "B": 2}) for n in (1, 2)
    ]
    sample, box = spec["samples"][0], pytest.approx([10 / 60, 10 / 50, 20 / 60, 20 / 50])
    assert sample["objects"] == [{"label": EVIL, "bounding_box": box}]
    assert sample["sides"]["A"] == [{"label": EVIL, "bounding_box": box, "confidence": 0.9, "error": "correct"}]
    assert [item["error"] for item in sample["sides"]["B"]] == ["background"]
    assert (Path(spec["images"]) / "1.png").read_bytes() == Path("images/1.png").read_bytes()
    assert compare(*arguments).stderr.endswith("the folder with the images is unknown: give it with --images\n")
    same = compare("a.json", "a.json", *arguments[2:], "--images", "images")
    assert (same.exit_code, len(specs)) == (1, 1)
    assert "no image has more or fewer errors: there is nothing to show in the App" in same.stderr


def test_what_is_refused() -> None:
    assert compare("a.json").exit_code == 2
    assert compare("a.json", "b.json").stderr == "fcos: a.json: give the ground truth of these detections: --gt FILE\n"
    missing = compare("a.json", "c.json", "--gt", "gt.json")
    assert (missing.exit_code, missing.stderr) == (1, "fcos: c.json: cannot be read: no such file or directory\n")
    Path("folder").write_text("")
    failed = compare("a.json", "b.json", "--gt", "gt.json", "--html", "b.json")  # no result is overwritten
    assert (failed.exit_code, failed.output) == (1, "fcos: b.json: the name of the page must end in .html\n")
    failed = compare("a.json", "b.json", "--gt", "gt.json", "--html", "folder/page.html")
    assert (failed.exit_code, failed.stderr) == (1, "fcos: folder/page.html: not written: File exists\n")
