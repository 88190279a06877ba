"""Videos of moving digits with known boxes, written and read with PyAV."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray

from fcos.postprocess import Detections
from pipeline.datasets.digits import MIN_INK, glyph, load_material

Pixels = NDArray[np.uint8]

RATE = Fraction(30_000, 1001)
SIZE = (240, 180)  # width and height
BACKGROUND = (40, 40, 48)


@dataclass(frozen=True)
class MovingDigit:
    """A digit of one color that moves at constant speed."""

    label: int
    ink: NDArray[np.float32]  # [h, w], 0 to 1
    color: tuple[int, int, int]
    start: tuple[float, float]  # x and y of its upper left corner in frame 0
    speed: tuple[float, float]  # pixels per frame

    def box(self, index: int) -> tuple[int, int, int, int]:
        """x1, y1, x2, y2 in a frame."""
        x, y = (round(position + index * step) for position, step in zip(self.start, self.speed, strict=True))
        return x, y, x + self.ink.shape[1], y + self.ink.shape[0]


def moving_digits() -> list[MovingDigit]:
    """Three digits whose paths do not meet in the first 40 frames."""
    material, rng = load_material("val", 0), np.random.default_rng(0)
    rows = [next(row for row in material.digits if material.labels[row] == label) for label in (3, 5, 8)]
    inks = [glyph(material.images[row], rng, 36) >= MIN_INK for row in rows]
    return [
        MovingDigit(3, inks[0].astype(np.float32), (255, 60, 60), (4, 18), (3, 0)),
        MovingDigit(5, inks[1].astype(np.float32), (60, 255, 60), (200, 76), (-3, 0)),
        MovingDigit(8, inks[2].astype(np.float32), (255, 255, 255), (90, 134), (1, 0.1)),
    ]


def paint(digits: Sequence[MovingDigit], index: int, size: tuple[int, int] = SIZE) -> Pixels:
    """A frame, with digits that are partly outside cut off."""
    canvas = np.full((size[1], size[0], 3), BACKGROUND, np.uint8)
    for digit in digits:
        x1, y1, x2, y2 = digit.box(index)
        rows, columns = slice(max(y1, 0), max(y2, 0)), slice(max(x1, 0), max(x2, 0))
        region = canvas[rows, columns]
        ink = digit.ink[max(-y1, 0) :, max(-x1, 0) :][: region.shape[0], : region.shape[1]]
        region[ink > 0] = digit.color
    return canvas


@dataclass(frozen=True)
class ColorDetector:
    """Finds digits by their colors: a detector whose boxes depend on the frame's pixels alone."""

    digits: Sequence[MovingDigit]

    def __call__(self, images: Sequence[torch.Tensor]) -> list[Detections]:
        return [self._detect(image.permute(1, 2, 0).numpy().astype(int)) for image in images]

    def _detect(self, pixels: NDArray[Any]) -> Detections:
        boxes, labels = [], []
        for label, digit in enumerate(self.digits):
            ys, xs = np.nonzero(np.abs(pixels - digit.color).sum(-1) < 150)
            if len(xs) > 20:
                boxes.append([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
                labels.append(label)
        return Detections(
            torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            torch.full((len(boxes),), 0.9),
            torch.tensor(labels),
        )


def write_video(
    path: Path,
    pictures: Sequence[Pixels],
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    times: Sequence[int] | None = None,
    start: int = 0,
    rotation: int = 0,
    mirrored: bool = False,
    sound: Sequence[str] = (),
    options: dict[str, str] | None = None,
) -> Path:
    """Writes a video.

    Args:
        times: of the pictures in milliseconds; default: at the rate `RATE`.
        start: number of frames that are missing before the first.
        rotation, mirrored: how players turn the pictures: degrees counterclockwise, then mirrored.
        sound: codecs of its streams of sound, each a different tone.
        options: of the container.
    """
    with av.open(str(path), "w", container_options=options or {}) as container:
        video = container.add_stream(
            codec, rate=RATE, options={"crf": "10", "preset": "ultrafast"} if "264" in codec else {}
        )
        video.height, video.width = pictures[0].shape[:2]
        video.pix_fmt = pix_fmt
        video.codec_context.time_base = Fraction(1, 1000) if times else 1 / RATE
        if rotation or mirrored:
            video.set_display_rotation(rotation, hflip=mirrored)
        streams: list[Any] = [container.add_stream(name, rate=44_100, layout="mono") for name in sound]
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = times[index] if times else start + index, video.codec_context.time_base
            container.mux(video.encode(frame))
            for number, stream in enumerate(streams):
                container.mux(stream.encode(_tone(start + index, 440 * (1 + number))))
        for stream in (video, *streams):
            container.mux(stream.encode(None))
    return path


def _tone(index: int, frequency: int) -> av.AudioFrame:
    samples = round(44_100 / RATE)
    phase = (index * samples + np.arange(samples)) * 2 * np.pi * frequency / 44_100
    frame = av.AudioFrame.from_ndarray((8000 * np.sin(phase)).astype(np.int16)[None], format="s16", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = 44_100, index * samples, Fraction(1, 44_100)
    return frame


def read_video(path: Path) -> tuple[list[Pixels], list[float]]:
    """The pictures of a video as stored, and their times in seconds."""
    with av.open(str(path)) as container:
        frames = [(frame.to_ndarray(format="rgb24"), float(frame.time)) for frame in container.decode(video=0)]
    return [picture for picture, _ in frames], [time for _, time in frames]


def read_sound(path: Path) -> list[list[tuple[bytes, float]]]:
    """The packets of each stream of sound: content and time."""
    with av.open(str(path)) as container:
        packets: dict[int, list[tuple[bytes, float]]] = {stream.index: [] for stream in container.streams.audio}
        for packet in container.demux():
            if packet.size and packet.stream_index in packets:
                packets[packet.stream_index].append((bytes(packet), float(packet.pts * packet.time_base)))
        return list(packets.values())
