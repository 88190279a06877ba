"""The measurements of data sets on few images."""

import tempfile
from pathlib import Path

import pytest

from benchmarks import datasets
from pipeline import params


def test_cost_of_converting_coco_files() -> None:
    cost = datasets.coco_cost(40)
    assert 0 < cost.seconds < 60
    assert 0 < cost.peak < 3  # GiB


def test_our_side_reads_all_objects() -> None:
    folder = tempfile.TemporaryDirectory()
    with folder:
        ours, _ = datasets.voc_sides(folder, 10)
        assert ours() == 20  # two in each image


def test_parameters_of_the_measurements_exist(tmp_path: Path) -> None:
    datasets.write_params(
        tmp_path, ("  image_check: decode", "  image_check: trust"), ("    size: 256", "    size: 64")
    )
    options = params.load(tmp_path / "params.yaml")
    assert (options.convert.image_check, options.download.digits.size) == ("trust", 64)
    with pytest.raises(AssertionError):
        datasets.write_params(tmp_path, ("  images: decode", "  images: trust"))
