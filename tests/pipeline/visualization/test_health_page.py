"""The page of `fcos validate --html`: in a browser, with untrusted names, and with many classes."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from pipeline.cli import main
from pipeline.visualization.thumbnails import MARKED_COLOR, ThumbnailSpec, draw_thumbnails

Write = Callable[..., Path]
CHROMIUM = Path("/usr/bin/chromium")
EVIL = "<script>document.title='taken'</script>"


def write_page(raw: Path, *arguments: str) -> str:
    answer = CliRunner().invoke(main, ["validate", str(raw), "--html", "page.html", *arguments])
    assert answer.exception is None or isinstance(answer.exception, SystemExit)
    assert answer.stderr == "page.html: open it in a browser\n"
    return Path("page.html").read_text()


@pytest.fixture
def wrong(raw: Path, voc_xml: Write, picture: Write) -> Path:
    """A data set with boxes outside their image, and with HTML in the names of a class and of an image."""
    evil = [("dog", 3, 3, "1e308", 9), (EVIL.replace("<", "&lt;"), 1, 1, 30, 60), ("dog", 3, 3, 9, 9)]
    voc_xml(raw / "Annotations/<img src=x onerror=1>.xml", evil)
    path = raw / "Annotations/<img src=x onerror=1>.xml"
    path.write_text(path.read_text().replace("<filename><img src=x onerror=1>", "<filename>&lt;img src=x onerror=1>"))
    picture(raw / "JPEGImages/<img src=x onerror=1>.png", seed=9)
    lists = raw / "ImageSets/Main/train.txt"
    lists.write_text(lists.read_text() + "<img src=x onerror=1>\n")
    return raw


def test_in_a_browser(wrong: Path) -> None:
    if not CHROMIUM.is_file():
        pytest.skip(f"{CHROMIUM} is not there")
    from playwright.sync_api import sync_playwright

    write_page(wrong)
    requests: list[str] = []
    messages: list[str] = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme="dark")
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.goto(Path("page.html").resolve().as_uri())
        widths = page.evaluate("[...document.images].map(image => image.complete ? image.naturalWidth : 0)")
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page_width = page.evaluate("document.documentElement.scrollWidth")
        title = page.title()
        classes = page.locator("#class-table tbody tr th, #class-table tr > th:first-child").all_inner_texts()
        outside = page.locator("#problem-out_of_bounds_box img").count()
        page.emulate_media(color_scheme="light")
        light = page.evaluate("getComputedStyle(document.body).backgroundColor")
        browser.close()
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    assert len([url for url in requests if url.startswith("file:")]) == 1
    assert messages == []
    assert len(widths) >= 4
    assert min(widths) >= 40
    assert page_width <= 390  # no horizontal scrolling on a phone
    assert title == "mine · fcos validate"
    assert EVIL in classes
    assert outside == 1
    assert sum(map(int, re.findall(r"\d+", dark))) < 150 < 600 < sum(map(int, re.findall(r"\d+", light)))


def test_every_chart_shows_the_train_split(raw: Path) -> None:
    """The train split has a box of the whole 40×30 image, and one of 6×7 pixels."""
    text = write_page(raw, "--size", "480", "640")
    for title, bar in (
        ("Objects per pyramid level", r"<th>P4"),
        ("Box size (√area) in px at the input size", r'title="512 to 724 px: 1 objects'),
        ("Aspect ratio (width : height)", r'title="1\.2 to 1\.7 : 1: 1 objects \(50\.0 %\)"'),
        ("Objects per image", r'title="1 object: 2 images \(66\.7 %\)"'),
        ("Sizes of stored images in px", r"<th>40×30"),
    ):
        card = text.split(f"<h3>{title}</h3>")[1].split("</section>")[0]
        assert re.search(bar, card), card
    advice = write_page(raw, "--size", "30", "40").split("<h3>Advice</h3>")[1].split("</section>")[0]
    assert "<li>" in advice


def test_names_are_escaped_and_the_page_makes_no_requests(wrong: Path) -> None:
    text = write_page(wrong)
    assert EVIL not in text
    assert EVIL.replace("'", "&#39;").replace("<", "&lt;").replace(">", "&gt;") in text
    assert "<img src=x" not in text
    assert "<script" not in text
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in text
    assert re.findall(r'(?:src|href)="(?!data:|#class-\d)', text) == []
    assert "http" not in re.sub(r"http-equiv", "", text)


def test_the_same_data_set_gives_the_same_bytes(wrong: Path) -> None:
    assert write_page(wrong) == write_page(wrong)


def test_the_size_option_sets_the_input_size(raw: Path) -> None:
    """At 512 px, a box of 40×30 becomes 683×512, with √area 591."""
    small, large = write_page(raw, "--size", "30", "40"), write_page(raw, "--size", "512", "700")
    assert "Training at an input size of 30×40 px" in small
    assert 'title="32 to 45 px: 1 objects (50.0 %)"' in small
    assert 'title="512 to 724 px: 1 objects (50.0 %)"' in large
    assert "% of the boxes are under 8 px at the input size" in small
    assert "% of the boxes are under 8 px at the input size" not in large


def test_a_page_of_hundreds_of_classes_is_small(home: Path, picture: Write) -> None:
    """One picture per class, in a few seconds."""
    count = 320
    for seed, split in enumerate(("train", "val")):
        picture(home / "many" / split / "x.png", (64, 48), seed)
        content = {
            "images": [{"id": 1, "file_name": "x.png", "width": 64, "height": 48}],
            "annotations": [
                {"id": n, "image_id": 1, "category_id": n, "bbox": [n % 40, n % 30, 10, 10]}
                for n in range(1, count + 1)
            ],
            "categories": [{"id": n, "name": f"class {n}"} for n in range(1, count + 1)],
        }
        (home / "many" / f"{split}.json").write_text(json.dumps(content))
    started = time.process_time()
    text = write_page(home / "many")
    assert text.count("<img ") == count
    assert text.count('<th><a href="#class-') == count
    assert len(text) < 3_000_000
    assert time.process_time() - started < 20


def test_boxes_have_the_right_position(tmp_path: Path) -> None:
    """Half the size, with a margin on the right for a box that reaches out of the image."""
    path = tmp_path / "x.png"
    Image.new("RGB", (200, 100), (0, 0, 90)).save(path)
    inside, outside, missing = draw_thumbnails(
        [
            ThumbnailSpec(path, ((20, 20, 120, 80),), (), "inside", 100),
            ThumbnailSpec(path, ((120, 20, 240, 80),), (), "outside", 100),
            ThumbnailSpec(tmp_path / "nosuch.png", (), (), "missing", 100),
        ]
    )
    assert missing is None
    assert inside is not None
    assert outside is not None
    assert (inside.width, inside.height, inside.caption) == (100, 50, "inside")
    assert (outside.width, outside.height) == (122, 50)
    assert extent(inside.data) == pytest.approx((10, 10, 60, 40), abs=2)
    assert extent(outside.data) == pytest.approx((60, 10, 120, 40), abs=2)


def extent(data: str) -> tuple[int, ...]:
    """Left, top, right and bottom of the pixels in the marking color."""
    from base64 import b64decode
    from io import BytesIO

    pixels = np.asarray(Image.open(BytesIO(b64decode(data.split(",")[1])))).astype(int)
    rows, columns = np.nonzero(np.abs(pixels - MARKED_COLOR).max(axis=-1) < 70)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
