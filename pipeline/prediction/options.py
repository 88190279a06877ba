"""The options of `fcos predict`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.data.image_files import PixelLimit

Echo = Callable[..., None]  # prints a line, as click.echo does


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of the command."""

    weights: Path | None
    out: Path | None
    save: str | None
    images: str
    as_json: bool
    classes: str | None
    score: float | None
    max_detections: int | None
    nms_iou_threshold: float | None
    batch: int | None
    every: int
    track: bool
    sizes: tuple[tuple[int, int], ...]
    flip: bool | None
    tiles: tuple[int, float] | None
    merge: Literal["nms", "wbf"] | None
    plain: bool
    max_megapixels: float
    device: str

    @property
    def folder(self) -> Path | None:
        """The folder to write to."""
        return self.out or (None if self.as_json and self.save is None else Path("predicted"))

    @property
    def limit(self) -> PixelLimit:
        """The largest image or frame that is decoded."""
        return PixelLimit(self.max_megapixels, "--max-megapixels ")
