"""Small data sets like those that people have had trouble with: what comes out of each, with the default parameters."""

from collections.abc import Callable

import pytest

from pipeline.analysis.findings import Health
from pipeline.analysis.health import examine, open_dataset
from pipeline.params import load
from tests.support.paths import PROJECT, SHARED


@pytest.fixture
def health() -> Callable[[str], Health]:
    """What `fcos validate` finds in a shared input; skips, naming it, where it is not there."""

    def validate(name: str) -> Health:
        path = SHARED / "cases" / name
        if not path.exists():
            pytest.skip(f"../shared/cases/{name} is not there")
        with open_dataset(path) as raw:
            return examine(raw, load(PROJECT / "params.yaml").convert)

    return validate


def counts(health: Health) -> tuple[int, int]:
    """The usable images and objects of all splits."""
    splits = health.survey.splits.values()
    return sum(len(split.images) for split in splits), sum(len(split.annotations) for split in splits)


@pytest.mark.parametrize(
    ("name", "format"),
    [("nfd_coco", "coco"), ("nfd_yolo", "yolo"), ("zips/infozip_utf8.zip", "coco"), ("jfif_coco", "coco")],
)
def test_ten_images(health: Callable[[str], Health], name: str, format: str) -> None:
    found = health(name)
    assert found.usable
    assert (found.survey.format, *counts(found)) == (format, 10, 20)
    assert found.survey.unused_image_files == 0
