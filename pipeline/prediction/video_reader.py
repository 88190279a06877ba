"""Decodes video files frame by frame, upright."""

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

import av
import numpy as np
from av.audio.stream import AudioStream
from av.sidedata.sidedata import Type
from av.stream import Disposition, Stream
from av.video.reformatter import ColorRange, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from pipeline.data.image_files import DEFAULT_LIMIT, PixelLimit
from pipeline.errors import PipelineError, count_phrase

if TYPE_CHECKING:
    Packet = av.Packet[AudioStream]
else:  # it can't be subscripted when it runs
    Packet = av.Packet

Pixels = NDArray[np.uint8]  # [H, W, 3] RGB

_DEFAULT_RATE = Fraction(25)  # frames per second of a file that doesn't tell its rate
_MAX_MISSING = 0.5  # seconds by which a video may be shorter than its header says

# Matrices between RGB and YUV that FFmpeg's scaler knows, by their numbers in H.264.
_BT709, _BT601 = 1, 5
_MATRICES = (_BT709, 4, _BT601, 6, 7, 9)
_HD_HEIGHT = 720  # from this height on, players assume BT.709 if a file names no matrix


@dataclass(frozen=True)
class Frame:
    """A frame as players show it: rotated and mirrored as the file says."""

    index: int  # from 0
    pts: int  # when it is shown, in units of the video's time base
    time: float  # the same in seconds from the video's start
    duration: int  # in units of the video's time base; 0: unknown
    image: Pixels


@dataclass(frozen=True)
class Layout:
    """How frames are stored. The first frame's layout holds for all of a video, as the size of the output does."""

    width: int  # in pixels, before the frame is turned
    height: int
    matrix: int  # between RGB and the stored YUV
    is_transposed: bool = False  # rows and columns are exchanged, and then mirrored
    row_step: int = 1  # -1: mirrored
    column_step: int = 1

    @classmethod
    def of(cls, decoded: av.VideoFrame) -> Self:
        default = _BT709 if decoded.height >= _HD_HEIGHT else _BT601
        stored = decoded.width, decoded.height, decoded.colorspace if decoded.colorspace in _MATRICES else default
        side_data = cast(Any, decoded.side_data)
        if Type.DISPLAYMATRIX not in side_data:
            return cls(*stored)
        # The matrix maps x and y to (a·x + c·y, b·x + d·y).
        a, b, _, c, d, *_ = np.frombuffer(side_data[Type.DISPLAYMATRIX], np.int32)
        is_transposed = abs(b) > abs(a)
        x, y = (c, b) if is_transposed else (a, d)
        return cls(*stored, is_transposed, -1 if y < 0 else 1, -1 if x < 0 else 1)

    def upright(self, image: Pixels) -> Pixels:
        """A copy of a stored image, as players show it."""
        turned = image.transpose(1, 0, 2) if self.is_transposed else image
        return np.array(turned[:: self.row_step, :: self.column_step], order="C")


class VideoReader:
    """An open video. Iterating over it decodes its frames; packets of its sound streams come between them.

    Damaged parts are left out, and `problem` describes them after the last frame.

    Raises:
        PipelineError: when it is opened: the file can't be read, or contains no frame that can be decoded.
    """

    def __init__(self, path: Path, limit: PixelLimit = DEFAULT_LIMIT, *, with_sound: bool = True) -> None:
        self.path = path
        self.problem: str | None = None
        self._last: Frame | None = None
        self._reformatter = VideoReformatter()  # it keeps the tables and threads that a conversion needs
        self._num_damaged = 0
        self._container = _open(path)
        try:
            self.stream = self._find_stream(limit)
            sound = self._container.streams.audio if with_sound else ()
            self.sound: list[AudioStream] = [stream for stream in sound if stream.codec_context]
            self.metadata = _descriptive(self._container.metadata)
            self.time_base = self.stream.time_base or 1 / self.rate
            self._items, self.size = self._begin()
        except BaseException:
            self._container.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._container.close()

    def __iter__(self) -> Iterator[Frame | Packet]:
        return self._items

    @property
    def rate(self) -> Fraction:
        """Frames per second, on average."""
        return self.stream.average_rate or self.stream.guessed_rate or _DEFAULT_RATE

    @property
    def num_frames(self) -> int | None:
        """The number of frames by the file's header, or an estimate by its length; None if both are unknown."""
        if self.stream.frames:
            return self.stream.frames
        end = self._promised_end()
        return None if end is None else max(1, round(end * self.rate))

    @property
    def pixel_aspect(self) -> Fraction:
        """Width of a pixel by its height, when the frame is upright."""
        aspect = self.stream.sample_aspect_ratio or Fraction(1)
        return 1 / aspect if self.layout.is_transposed else aspect

    def start(self, stream: Stream) -> int:
        """The video's start in units of a stream's time base: not every file starts at 0."""
        start = Fraction(max(0, self._container.start_time or 0), av.time_base)  # sound may begin before the pictures
        return round(start / stream.time_base) if stream.time_base else 0

    def _find_stream(self, limit: PixelLimit) -> VideoStream:
        stream = self._container.streams.best("video")
        if not isinstance(stream, VideoStream) or Disposition.attached_pic in stream.disposition:
            raise PipelineError(f"{self.path}: contains no video")
        if not stream.codec_context:
            raise PipelineError(f"{self.path}: its video codec is unknown; convert it to H.264 first")
        megapixels = stream.codec_context.width * stream.codec_context.height / 1e6
        if megapixels > limit.megapixels:
            raise PipelineError(
                f"{self.path}: {megapixels:,.1f} megapixels per frame are more than the limit of {limit.megapixels:g}: "
                f"scale the video down, or raise the limit: {limit.option}{math.ceil(megapixels)}"
            )
        stream.codec_context.thread_type = "SLICE"  # with a thread per frame, a damaged one would take others with it
        return stream

    def _begin(self) -> tuple[Iterator[Frame | Packet], tuple[int, int]]:
        """Decodes the first frame; returns an iterator that begins with it, and its width and height."""
        items, begin = self._read(), list[Frame | Packet]()
        for item in items:
            begin.append(item)
            if isinstance(item, Frame):
                return chain(begin, items), (item.image.shape[1], item.image.shape[0])
        raise PipelineError(f"{self.path}: no frame of it can be decoded: the file is damaged or not a video")

    def _read(self) -> Iterator[Frame | Packet]:
        complete = True
        packets = self._container.demux(self.stream, *self.sound)
        try:
            for packet in packets:
                if isinstance(packet.stream, AudioStream):
                    if packet.dts is not None:
                        yield packet  # type: ignore[misc] # of sound
                elif packet.size or packet.dts is None:  # AVI repeats a frame by a packet without content
                    yield from self._decode(packet)  # the last packet, without content and time, empties the decoder
        except av.FFmpegError:
            complete = False
        if not complete:
            yield from self._decode(None)
        self.problem = self._describe_damage(complete)

    def _decode(self, packet: "av.Packet[Any] | None") -> Iterator[Frame]:
        try:
            frames = self.stream.codec_context.decode(packet)
        except av.FFmpegError:
            self._num_damaged += 1
            return
        for decoded in frames:
            self._num_damaged += decoded.is_corrupt
            yield self._to_frame(decoded)

    def _to_frame(self, decoded: av.VideoFrame) -> Frame:
        last, index, pts = self._last, 0, 0
        if decoded.pts is not None:
            pts = decoded.pts - self.start(self.stream)
        if last is not None:
            index = last.index + 1
            step = last.duration or max(1, round(1 / self.rate / self.time_base))
            # Times increase: a damaged file may go back, and some formats have none.
            pts = last.pts + step if decoded.pts is None else max(pts, last.pts + 1)
        self._last = Frame(index, pts, float(pts * self.time_base), decoded.duration, self._upright(decoded))
        return self._last

    def _upright(self, decoded: av.VideoFrame) -> Pixels:
        if self._last is None:
            self.layout = Layout.of(decoded)
        layout = self.layout
        rgb = self._reformatter.reformat(
            decoded, layout.width, layout.height, "rgb24", src_colorspace=layout.matrix, dst_color_range=ColorRange.JPEG
        )
        return layout.upright(rgb.to_ndarray().astype(np.uint8, copy=False))

    def _describe_damage(self, complete: bool) -> str | None:
        end, promised = self._end(), self._promised_end()
        # The length of the last frame may be unknown, so that only the number of frames tells that none is missing.
        has_all = self.stream.frames and self._last and self._last.index + 1 >= self.stream.frames
        if promised is not None and promised - end > _MAX_MISSING and not has_all:
            return f"ends after {end:.1f} of {promised:.1f} seconds: the file is truncated; that part was processed"
        if not complete:
            return f"can't be read further after {end:.1f} seconds: the file is damaged; that part was processed"
        if self._num_damaged:
            damaged = count_phrase(self._num_damaged, "damaged frames")
            return f"contains {damaged}; what can be decoded was processed"
        return None

    def _end(self) -> float:
        """When the last decoded frame ends, in seconds."""
        last = self._last
        return 0.0 if last is None else last.time + float(last.duration * self.time_base)

    def _promised_end(self) -> float | None:
        """When the last frame ends according to the file's header, in seconds; None if it doesn't say so."""
        stream, start = self.stream, float(self.start(self.stream) * self.time_base)
        if stream.duration:
            return float(((stream.start_time or 0) + stream.duration) * self.time_base) - start
        hours, _, rest = stream.metadata.get("DURATION", "").partition(":")  # of Matroska, such as 00:01:02.500000000
        minutes, _, seconds = rest.partition(":")
        with suppress(ValueError):
            return 3600 * int(hours) + 60 * int(minutes) + float(seconds) - start
        if self._container.duration and not self._container.streams.audio:  # otherwise the sound may be longer
            return self._container.duration / av.time_base
        return None


def _open(path: Path) -> av.container.InputContainer:
    try:
        # Without `file:`, a colon in the name would end a protocol. A playlist may name files, but no address.
        return av.open(f"file:{path}", options={"protocol_whitelist": "file"}, metadata_errors="replace")
    except av.FFmpegError as error:
        if isinstance(error, OSError):
            raise PipelineError(f"{path}: can't be read: {(error.strerror or str(error)).lower()}") from None
        raise PipelineError(f"{path}: can't be read as a video: the file is damaged or of another kind") from None


def _descriptive(metadata: dict[str, str]) -> dict[str, str]:
    """The title, the date and so on, without what describes the file itself."""
    technical = ("major_brand", "minor_version", "compatible_brands", "encoder", "software", "duration")
    return {key: value for key, value in metadata.items() if key.lower() not in technical}
