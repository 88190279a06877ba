"""The images of calibration: which ones, and when they are read."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import PipelineError


@pytest.mark.parametrize(
    ("files", "chosen"), [(3, [0, 1, 2]), (4, [0, 1, 2, 3]), (7, [0, 1, 3, 5]), (9, [0, 2, 4, 6]), (0, [])]
)
def test_they_are_evenly_spaced(files: int, chosen: list[int]) -> None:
    from pipeline.export.images import evenly_spaced

    paths = [Path(f"{index}.png") for index in range(files)]
    assert evenly_spaced(paths, 4) == [paths[index] for index in chosen]


def test_they_are_read_one_at_a_time(tmp_path: Path, picture: Callable[..., Path]) -> None:
    from pipeline.export.images import for_calibration

    picture(tmp_path / "inner/a.PNG", (40, 30))
    (tmp_path / "inner/b.jpg").write_bytes(b"damaged")
    images, description = for_calibration(tmp_path / "detector.safetensors", tmp_path)
    assert description == f"2 images of {tmp_path}"
    assert next(images).shape == (3, 30, 40)
    with pytest.raises(PipelineError, match=r"b\.jpg"):
        next(images)
