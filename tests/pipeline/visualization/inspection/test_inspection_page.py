"""reports/inspection.html: numbers of other stages' files, untrusted names, its size, and in a browser."""

import base64
import re
from dataclasses import replace
from html import unescape
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from pipeline.data import annotations
from pipeline.data import detections as results
from pipeline.data.annotations import Category
from pipeline.errors import PipelineError
from pipeline.evaluation import error_kinds, report
from pipeline.evaluation.embedding_files import EmbeddingMap
from pipeline.evaluation.plot_tables import plot_tables
from pipeline.files import write_json
from pipeline.stages.inspect import count_errors
from pipeline.visualization.inspection import (
    cases,
    confusion,
    embedding_plots,
    failure_sheets,
    label_errors,
    page,
    pictures,
)
from pipeline.visualization.inspection.confusion import confused_pairs, confusion_counts
from pipeline.visualization.inspection.failure_sheets import Group
from pipeline.visualization.inspection.page import Inspection
from pipeline.visualization.inspection.pictures import Picture, limit, read_plot
from tests.support.inspected_project import DETECTIONS, SCENE
from tests.support.random_scenes import detected_objects

CHROMIUM = Path("/usr/bin/chromium")
EVIL = "<script>document.title='taken'</script>"


def render(
    home: Path,
    names: tuple[str, str] = ("cat", "dog"),
    split: str = "val",
    vote: dict[str, Any] | None = None,
    *,
    has_map: bool = True,
) -> str:
    """The page of the scene with one error of each kind, its classes renamed."""
    truth = replace(
        SCENE, categories=tuple(Category(old.id, name) for old, name in zip(SCENE.categories, names, strict=True))
    )
    errors = error_kinds.analyze(
        truth, results.read(home / "predictions/val.json", truth), score_threshold=0.4, iou_threshold=0.5
    )
    folder = home / "sheets" / str(len(list(home.glob("sheets/*"))))
    folder.parent.mkdir(exist_ok=True)
    raw = home / "data/raw/digits"
    groups = failure_sheets.write(folder, truth, errors, raw, max_images=24, thresholds=[0.4, 0.4])
    counts = {"errors": count_errors(errors)} | ({"embeddings": vote} if vote else {})
    return page.render(home, Inspection("digits", split, truth, errors, [0.4, 0.4], 0.5, groups, counts, has_map))


def evaluate(home: Path) -> dict[str, Any]:
    truth = annotations.read(home / "data/unified/val.json")
    metrics = report.evaluate(truth, results.read(home / "predictions/val.json", truth)).metrics
    write_json(home / "metrics/evaluate.json", metrics)
    return metrics


def text_of(html: str) -> str:
    """The visible text, with single spaces."""
    body = html.split("<body>")[1]
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>|[\u2068\u2069]", " ", body)).replace(" ,", ","))


def table(html: str, section: str) -> list[list[str]]:
    """The rows of the first table of a section, as text."""
    rows = html.split(f'id="{section}"')[1].split("</table>")[0].split("<tr>")[1:]
    return [[text_of(f"<body>{cell}").strip() for cell in re.split(r"</t[hd]>", row)[:-1]] for row in rows]


def test_a_page_without_an_evaluation_shows_the_errors(inspected: Any) -> None:
    html = render(inspected.root)
    assert html == render(inspected.root)  # the same bytes
    text = text_of(html)
    assert "Validation split: 5 images, 5 objects, 2 classes. Detections with a score of at least 0.4" in text
    # The digest of the fixture's weights: `printf weights | sha256sum`.
    assert "Detector: weights 9a129038d9a0." in text
    assert "Errors 7" in text  # four wrong detections and three missed objects
    assert table(html, "errors")[1:] == [
        ["missed an object without a correct detection", "3"],
        ["background a detection where no object is", "1"],
        ["wrong class a detection on an object of another class", "1"],
        ["poor box a detection of the right class whose box fits poorly, with an IoU from 0.1", "1"],
        ["duplicate a further detection of an object that was found", "1"],
    ]
    certain = text.split("Most certain errors of any kind, highest score first ")[1].split("False positives on ")[0]
    assert certain.startswith("4 in 3 images.")
    captions = (
        "11.png cat 0.80, duplicate",
        "12.png dog 0.70, background",
        "13.png cat 0.60, wrong class, in truth dog cat 0.50, poor box, IoU 0.33",
    )
    places = [certain.index(caption) for caption in captions]
    assert places == sorted(places)
    assert "False positives on background, highest score first 1 in 1 image." in text
    assert "12.png dog 0.70" in text
    assert "13.png cat 0.60, in truth dog" in text
    assert "\u2068cat\u2069 0.60, in truth \u2068dog\u2069" in html  # whichever direction a name is written in
    assert "13.png cat 0.50, IoU 0.33" in text
    assert "12.png cat, 60×60 pixels" in text
    assert table(html, "confusion")[1:] == [["dog", "cat", "1", "100.0 %"]]
    assert table(html, "classes")[1:] == [["cat", "3", "—"], ["dog", "2", "—"]]
    # Three with wrong detections, two with missed objects, one of each other kind.
    assert html.count("data:image/webp;base64,") == 9


def test_numbers_come_from_the_files_of_other_stages(inspected: Any) -> None:
    metrics = evaluate(inspected.root)
    split = {"images": 1234, "images_without_objects": 5, "objects": 6789, "difficult": 7, "crowds": 8}
    facts = {
        "format": "coco", "splits": {"train": split | {"classes": {"cat": 4321}}}, "remarks": ["<b>a remark</b>"],
        "notes": {"boxes moved": 1}, "counts": {"tiny_box": 3}, "corrections": {"applied": {"relabel": 2}},
    }  # fmt: skip
    write_json(inspected.root / "data/unified/report.json", facts)
    write_json(inspected.root / "models/detector.json", {"model": {"backbone": "tiny"}, "size": [64, 96]})
    html = render(inspected.root)
    text, ap, interval = text_of(html), metrics["coco"]["AP"], metrics["intervals"]["AP"]
    assert 0 < ap < 1
    assert f"AP {100 * ap:.1f} {100 * interval['low']:.1f} … {100 * interval['high']:.1f} AP50" in text
    assert "Detector: tiny, input size 64×96, weights " in text
    costs = {kind: f"{100 * error['AP50_cost']:.1f}" for kind, error in metrics["errors"].items()}
    shown = {row[0]: row[2] for row in table(html, "errors")[1:]}
    for kind, (meaning, _) in page._ERROR_KINDS.items():
        assert shown[f"{kind.replace('_', ' ')} {meaning}"] == costs[kind]
    assert len(shown) == len(costs) == 6
    ranked = sorted(metrics["errors"].items(), key=lambda item: -item[1]["AP50_cost"])
    assert f"{ranked[0][0].replace('_', ' ').capitalize()}: the costliest kind of error. Without it, AP50" in text
    cat = next(row for row in table(html, "classes") if row[0] == "cat")
    assert cat[1:4] == ["3", "4,321", f"{100 * metrics['per_class']['cat']['AP']:.1f}"]
    assert table(html, "data")[1:] == [["train", "1,234", "5", "6,789", "7", "8"]]
    assert "format: coco <b>a remark</b> 1 box moved corrections applied: 2 relabel tiny_box : 3" in text


def test_the_test_split_has_metrics_of_its_own_and_no_curves_of_val(inspected: Any) -> None:
    evaluate(inspected.root)
    (inspected.root / "plots/evaluate").mkdir(parents=True)
    Pillow.new("RGB", (40, 30)).save(inspected.root / "plots/evaluate/f1.png")
    write_json(inspected.root / "metrics/test.json", {})
    assert "F1 over the score threshold" in text_of(render(inspected.root))
    text = text_of(render(inspected.root, split="test"))
    assert "Test split: 5 images" in text
    assert "costs AP50" not in text
    assert "F1 over the score threshold" not in text


def test_the_confusion_matrix_is_that_of_the_evaluation() -> None:
    truth, detections = detected_objects(0)
    evaluated = report.evaluate(truth, detections)
    points = evaluated.operating_points
    chosen = {item.id: points.classes[item.name] or points.all for item in truth.categories}
    thresholds = {number: point.score if point else 0.0 for number, point in chosen.items()}
    errors = error_kinds.analyze(truth, detections, score_threshold=thresholds, iou_threshold=0.5)
    counts = confusion_counts(truth, errors, 0.5)
    assert counts.ravel().tolist() == list(plot_tables(truth, detections, evaluated)["confusion"]["count"])
    assert counts[:-1, :-1].sum() > 0


def test_the_most_confused_pairs_come_first() -> None:
    counts = np.array([[5, 1, 0, 9], [3, 0, 1, 0], [0, 0, 8, 0], [7, 0, 0, 0]])
    pairs = confused_pairs(["a", "b", "c"], counts, counts / counts.sum(axis=1, keepdims=True))
    assert [(pair.actual, pair.predicted, pair.count, pair.share) for pair in pairs] == [
        ("b", "a", 3, 0.75), ("a", "b", 1, 1 / 15), ("b", "c", 1, 0.25),
    ]  # fmt: skip


def test_names_that_no_font_has_are_numbers_with_a_legend(inspected: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "has_font", lambda text: text.isascii())
    html = render(inspected.root, ("नाव", "dog"))
    assert "Numbers in the pictures stand for names with letters that no font of the machine has: #1 नाव ." in text_of(
        html
    )
    labels = cases.ClassLabels((Category(3, "नाव"), Category(7, "dog")))
    assert labels.by_id == {3: "#1", 7: "dog"}
    assert "#1: <bdi>नाव</bdi>" in (inspected.root / "sheets/0/index.html").read_text()


def test_label_errors_are_drawn_if_their_label_is_still_there(inspected: Any) -> None:
    candidate = {
        "image_id": 13, "file_name": "pictures/13.png", "kind": "wrong_class", "rank_score": 0.9, "annotation_id": 3,
        "bbox": None, "category": "cat", "split": "val",
    }  # fmt: skip
    found = [
        candidate,
        candidate | {"kind": "missing", "annotation_id": None, "bbox": [60, 60, 30, 30], "category": "dog"},
        candidate | {"kind": "spurious", "annotation_id": 4, "bbox": None, "category": None},
        candidate | {"annotation_id": 999},
        candidate | {"file_name": "pictures/gone.png"},
    ]
    write_json(inspected.root / "reports/label_errors.json", found)
    text = text_of(render(inspected.root))
    assert "5 labels that may be wrong: pictures" in text
    assert "the surest first: 1 missing, 1 spurious, 3 wrong class. The first 3 are shown, more of them in" in text
    assert "13.png labeled dog, looks like cat" in text
    assert "13.png without a label: dog" in text
    assert "13.png nothing there: cat" in text
    # After a correction, the ids of labels are those of others.
    write_json(inspected.root / "reports/cross_check/labels.json", {"val": "digest of other labels"})
    assert "labels that may be wrong" not in text_of(render(inspected.root))
    write_json(inspected.root / "reports/cross_check/labels.json", {})
    write_json(inspected.root / "reports/label_errors.json", [candidate | {"kind": "odd"}])
    with pytest.raises(PipelineError, match=r"label_errors\.json: .*kind.*'odd'.*`fcos cross-check`"):
        render(inspected.root)


def test_the_model_card_is_shown_without_its_html_and_images(inspected: Any) -> None:
    (inspected.root / "reports").mkdir(exist_ok=True)
    card = (
        f"---\nlicense: mit\n---\n\n# Card\n\n{EVIL}\n\n| a | b |\n|---|---|\n| **1** | 2 |\n\n"
        "![x](http://127.0.0.1/x.png) [y](javascript:z)\n"
    )
    (inspected.root / "reports/model_card.md").write_text(card)
    html = render(inspected.root).split('id="card"')[1]
    assert "<h1>Card</h1>" in html
    assert "license" not in html
    assert "<td><strong>1</strong></td>" in html
    assert "<script" not in html
    assert "<img" not in html
    assert 'href="javascript' not in html


def test_the_embeddings_picture_is_shown_with_its_number(inspected: Any) -> None:
    (inspected.root / "reports").mkdir(exist_ok=True)
    Pillow.new("RGB", (50, 40), (9, 99, 199)).save(inspected.root / "reports/embeddings.png")
    picture = 'width="50" height="40" alt="Embeddings of objects, colored by class"'
    assert picture in render(inspected.root)
    vote = {"objects": 1234, "nearest_neighbor_accuracy": 0.5126, "chance_accuracy": 0.1331}
    html = render(inspected.root, vote=vote)
    assert "finds the class of 51.3 % of 1,234 objects; the most common class is that of 13.3 %." in text_of(html)
    assert picture not in render(inspected.root, has_map=False)


def picture(size: int) -> Picture:
    return Picture("x" * size, 1, 1, "", ())


def test_each_kind_of_error_keeps_its_worst_pictures_within_the_limit() -> None:
    groups = [[picture(size) for size in sizes] for sizes in ((10, 20, 30), (40,), ())]
    assert limit(groups, 100) == groups
    assert limit(groups, 99) == [groups[0][:2], groups[1], []]
    assert limit(groups, 50) == [groups[0][:1], groups[1], []]
    assert limit(groups, 49) == [[], [], []]


def test_a_large_plot_is_compressed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "_PLOT_BYTES", 20_000)
    noise = np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8)
    Pillow.fromarray(noise[:60, :90]).save(tmp_path / "small.png")
    Pillow.fromarray(noise).save(tmp_path / "large.png")
    small, large = read_plot(tmp_path / "small.png"), read_plot(tmp_path / "large.png")
    assert small is not None
    assert large is not None
    assert (small.width, small.height) == (90, 60)
    with Pillow.open(BytesIO(base64.b64decode(small.data.partition(",")[2]))) as shown:
        assert (np.asarray(shown) == noise[:60, :90]).all()
    assert large.width in (400, 300, 225, 168)
    assert large.width / large.height == pytest.approx(4 / 3, abs=0.01)
    assert len(large.data) < 20_000 * 4 / 3 + 40
    assert read_plot(tmp_path / "none.png") is None


def test_in_a_browser(inspected: Any) -> None:
    if not CHROMIUM.is_file():
        pytest.skip(f"{CHROMIUM} is not there")
    from playwright.sync_api import sync_playwright

    evaluate(inspected.root)
    html = render(inspected.root, (EVIL, "قطة"))
    path = inspected.root / "inspection.html"
    path.write_text(html, encoding="utf-8")
    map_page = write_map(inspected.root)
    messages: list[str] = []
    requests: list[str] = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page(viewport={"width": 390, "height": 800})
        tab.on("request", lambda request: requests.append(request.url))
        tab.on("console", lambda message: messages.append(message.text))
        tab.goto(path.as_uri())
        widths = tab.evaluate("[...document.images].map(image => image.complete ? image.naturalWidth : 0)")
        page_width = tab.evaluate("document.documentElement.scrollWidth")
        title = tab.title()
        names = tab.locator("#classes + .scroll tr > th:first-child").all_inner_texts()
        assert_the_map_of_embeddings_responds(tab, map_page)
        browser.close()
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    assert messages == []
    assert (len(widths), min(widths)) == (9, 480)
    assert page_width <= 390  # no horizontal scrolling on a phone
    assert title == "digits · what the detector gets wrong"
    assert sorted(names) == sorted(["class", EVIL, "قطة"])


def write_map(root: Path) -> Path:
    """The page of a map with objects 1 and 4, of images 11 and 13, in opposite corners."""
    points, none = np.array([[0, 0], [1, 1]], np.float32), np.empty((0, 2), np.float32)
    found = EmbeddingMap(np.array([11, 13]), points, np.array([1, 4]), points, np.empty(0, np.int64), none, "pca")
    errors = error_kinds.analyze(SCENE, DETECTIONS, score_threshold=0.4, iou_threshold=0.5)
    drawn = embedding_plots.collect_points(found, SCENE, DETECTIONS, errors)
    path = root / "map.html"
    embedding_plots.write_page(drawn, found, SCENE, errors, root / "data/raw/digits", path, "a line\nanother line")
    return path


def assert_the_map_of_embeddings_responds(tab: Any, page: Path) -> None:
    """To a mouse over a point, to its wheel, to a class that is hidden, and to the other map."""
    tab.set_viewport_size({"width": 1200, "height": 1200})
    tab.goto(page.as_uri())
    assert tab.locator("h1 + p").inner_text() == "a line another line"
    box, tip = tab.locator("#map").bounding_box(), tab.locator("#tip")

    def hover(x: float, y: float) -> str:
        tab.mouse.move(box["x"] + box["width"] / 2 + x, box["y"] + box["height"] / 2 + y)
        return tip.inner_text() if tip.is_visible() else ""

    # The map fills 92 % of the smaller side, and is as wide as it is high.
    corner = 0.46 * min(box["width"], box["height"])
    assert hover(-corner, corner) == "cat · object · pictures/11.png"
    assert hover(corner, -corner) == "cat · missed object · pictures/13.png"
    assert hover(0, 0) == ""
    tab.mouse.wheel(0, 200)  # the map gets smaller around the mouse
    assert hover(-corner, corner) == ""
    tab.get_by_text("Whole map").click()
    assert hover(-corner, corner) == "cat · object · pictures/11.png"
    tab.locator("#legend label", has_text="cat").click()
    assert hover(-corner, corner) == ""
    tab.get_by_role("button", name="Images").click()
    assert hover(corner, -corner) == "pictures/13.png: 4 errors"


def test_any_data_set_gives_less_than_10_megabytes(inspected: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The most of everything: pictures, labels, plots, classes, cells of the matrix, and a card that is escaped."""
    full = [f"<{number:03d}> {'x' * 30}" for number in range(100)]
    truth = replace(SCENE, categories=tuple(Category(number, name) for number, name in enumerate(full, start=1)))
    picture = Picture("x" * 60_000, 480, 480, "folder/" + "y" * 60, ("z" * 60,) * 500)
    groups = [Group(name, kind.title, 999, 999, (picture,) * 24) for name, kind in cases.KINDS.items()]
    candidates = label_errors.Candidates({"missing": 24}, (picture,) * 24)
    monkeypatch.setattr(label_errors, "draw", lambda *_: candidates)
    plot = Picture("x" * 400_000, 900, 900, "plot.png", ())
    monkeypatch.setattr(page, "read_plot", lambda _: plot)
    monkeypatch.setattr(confusion, "confusion_counts", lambda *_: np.ones((101, 101), np.int64))
    (inspected.root / "reports").mkdir()
    (inspected.root / "reports/model_card.md").write_text('"' * 1_000_000)
    counts = {"errors": count_errors({})}
    html = page.render(inspected.root, Inspection("digits", "val", truth, {}, [0.4], 0.5, groups, counts))
    assert 9_000_000 < len(html.encode()) < 10_000_000
