"""Pictures that are part of a page, within a limit of bytes."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import PIL.Image

_WEBP_QUALITY = 80
_PLOT_BYTES = 300_000  # of a plot; a larger one is compressed with loss, and smaller
_PLOT_SIDE = 2400  # pixels, at most


@dataclass(frozen=True)
class Picture:
    """A picture with its caption."""

    data: str  # a data URI
    width: int  # pixels
    height: int
    file_name: str
    lines: tuple[str, ...]  # of the caption
    view: str = ""  # which part of the image is shown; empty for the whole image

    @classmethod
    def of(cls, picture: PIL.Image.Image, file_name: str, lines: Sequence[str], view: str = "") -> Self:
        content = _webp(picture, quality=_WEBP_QUALITY)
        return cls(_uri(content), picture.width, picture.height, file_name, tuple(lines), view)


def read_plot(path: Path) -> Picture | None:
    """A PNG file of a plot, without loss if that is small enough; None without the file."""
    if not path.is_file():
        return None
    with PIL.Image.open(path) as stored:
        plot = stored.convert("RGB")
    plot.thumbnail((_PLOT_SIDE, _PLOT_SIDE))
    content = _webp(plot, lossless=True)
    while len(content) > _PLOT_BYTES:
        content = _webp(plot, quality=_WEBP_QUALITY)
        plot = plot.resize((plot.width * 3 // 4, plot.height * 3 // 4))
    with PIL.Image.open(BytesIO(content)) as shown:
        return Picture(_uri(content), shown.width, shown.height, path.name, ())


def _webp(picture: PIL.Image.Image, **options: Any) -> bytes:
    content = BytesIO()
    picture.save(content, "WEBP", method=2, **options)  # takes half the time of the default, 4, for 3 % more bytes
    return content.getvalue()


def _uri(webp: bytes) -> str:
    return "data:image/webp;base64," + base64.b64encode(webp).decode()


def limit(groups: Sequence[Sequence[Picture]], budget: int) -> list[Sequence[Picture]]:
    """The first pictures of each group, as many of each as the bytes of all together allow."""
    longest = max(map(len, groups), default=0)
    for count in range(longest, 0, -1):
        shortened = [group[:count] for group in groups]
        if sum(len(picture.data) for group in shortened for picture in group) <= budget:
            return shortened
    return [group[:0] for group in groups]
