"""The measurement of a training's memory: its images, and its card. The training itself is the stage's."""

from collections import Counter
from pathlib import Path

from benchmarks import training_memory
from benchmarks.training_memory import Run, Sample
from pipeline.data import annotations
from pipeline.data.annotations import AnnotationSet, Category, Image


def test_images_share_a_file_and_have_the_boxes_of_coco(tmp_path: Path) -> None:
    (tmp_path / "data/raw/digits").mkdir(parents=True)
    path = tmp_path / "data/unified/train.json"
    annotations.write(AnnotationSet((Category(1, "1"),), (Image(1, "a.png", 8, 8),), ()), path)
    assert training_memory.write_images(tmp_path, 100) == 729
    split = annotations.read(path)
    files = [tmp_path / "data/raw/digits" / image.file_name for image in split.images]
    assert len({file.stat().st_ino for file in files}) == 1
    assert Counter(Counter(item.image_id for item in split.annotations).values()) == {7: 71, 8: 29}
    for item in split.annotations:
        x, y, width, height = item.bbox
        assert min(x, y) >= 0
        assert max(x + width, y + height) <= 32


def test_card() -> None:
    few = Run(1000, 7290, [Sample(300, 800, 1), Sample(200, 700, 5), Sample(250, 600, 5)], 9)
    many = Run(118_000, 860_220, [Sample(900, 900, 1), Sample(600, 2848, 5)], 99)
    text = training_memory.card(few, many)
    assert "| 1,000 | 7,290 | 200 | 500 | 700 | 800 | 9 s |" in text
    assert "+2.00 GiB with more images; goal at most 2: met." in text
    worse = Run(118_000, 860_220, [Sample(600, 2900, 5)], 99)
    assert "goal at most 2: **missed**" in training_memory.card(few, worse)
