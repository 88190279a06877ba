"""The picture and the page of a map of embeddings."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image as Pillow

from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image
from pipeline.evaluation.embedding_files import EmbeddingMap
from pipeline.evaluation.error_kinds import ImageErrors
from pipeline.visualization.inspection import embedding_plots
from pipeline.visualization.inspection.embedding_plots import Point, collect_points, write_page, write_picture

IMAGE = Image(1, "1.png", 100, 50)
TITLE = "a line\nanother line"


def points(classes: int) -> list[Point]:
    generator = np.random.default_rng(0)
    return [
        Point(*generator.normal(size=2), number % classes, kind, IMAGE, (0, 0, 9, 9), None if number % 2 else 0.5)
        for kind in embedding_plots.KINDS
        for number in range(2 * classes)
    ]


@pytest.mark.parametrize("classes", [1, 10, 80])
def test_legends_fit_beside_the_map(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, classes: int) -> None:
    def check(draw, _: Path, size: tuple[float, float]) -> None:  # type: ignore[no-untyped-def]
        figure = Figure(figsize=size, dpi=100)
        renderer = FigureCanvasAgg(figure).get_renderer()
        draw(figure)
        kinds, names = (legend.get_window_extent(renderer) for legend in figure.legends)
        (axes,) = figure.axes
        assert axes.get_window_extent(renderer).x1 < min(kinds.x0, names.x0)
        assert max(kinds.x1, names.x1) <= figure.bbox.width
        assert names.y0 >= 0
        assert names.y1 <= kinds.y0
        assert len(figure.legends[1].get_texts()) == classes

    monkeypatch.setattr(embedding_plots, "save_png", check)
    write_picture(
        points(classes), [f"$a name of 40 letters, which is too long {n}" for n in range(classes)], TITLE, tmp_path
    )


def test_an_empty_map_is_drawn(tmp_path: Path) -> None:
    write_picture([], ["cat"], TITLE, tmp_path / "map.png")
    with Pillow.open(tmp_path / "map.png") as picture:
        assert len(np.unique(np.asarray(picture))) > 5  # the text


def test_the_page_has_a_small_picture_of_each_object_and_escapes_names(tmp_path: Path) -> None:
    odd = "</script><b>&"
    pixels = np.zeros((50, 100, 3), np.uint8)
    pixels[10:30, 60:80] = (200, 30, 30)
    Pillow.fromarray(pixels).save(tmp_path / "1.png")
    truth = AnnotationSet((Category(1, odd),), (IMAGE,), (Annotation(5, 1, 1, (60, 10, 20, 20), 400),))
    none = np.empty((0, 2), np.float32)
    one = np.zeros((1, 2), np.float32)
    found = EmbeddingMap(np.array([1]), one, np.array([5]), one, np.empty(0, np.int64), none, "pca")
    errors = {1: ImageErrors((), truth.annotations)}
    drawn = collect_points(found, truth, (), errors)
    assert drawn == [Point(0, 0, 0, "missed", IMAGE, (60, 10, 20, 20), None)]
    write_page(drawn, found, truth, errors, tmp_path, tmp_path / "map.html", TITLE)
    page = (tmp_path / "map.html").read_text()
    assert odd not in page
    assert "PCA" in page
    assert "script-src 'unsafe-inline'" in page
    tile = embedding_plots._crop(Pillow.open(tmp_path / "1.png").convert("RGB"), (60, 10, 20, 20))
    assert tile.size == (64, 64)
    assert np.abs(np.subtract(tile.getpixel((32, 32)), (200, 30, 30))).max() < 3
    assert tile.getpixel((2, 2)) == (0, 0, 0)
    # The object fills 1 / 1.3 of the tile.
    assert (np.asarray(tile)[32, :, 0] > 100).sum() == pytest.approx(64 / 1.3, abs=2)
    corner = embedding_plots._crop(Pillow.open(tmp_path / "1.png").convert("RGB"), (90, 40, 10, 10))
    assert corner.getpixel((63, 63)) == (128, 128, 128)
