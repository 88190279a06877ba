"""Writes mp4 files with new pictures and the sound of the video that is read."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.video.reformatter import ColorRange, VideoReformatter
from av.video.stream import VideoStream

from pipeline.errors import PipelineError
from pipeline.prediction.video_reader import Frame, Packet, Pixels, VideoReader

# Constant quality: the difference from the input is hard to see. The preset encodes faster than most detectors detect.
_ENCODER = {"crf": "20", "preset": "veryfast"}
_AAC_RATES = (96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350)


class VideoWriter:
    """Writes a video as mp4: pictures as H.264, and the video's sound as it is, at the same times.

    Sound in a format that mp4 can't contain is encoded as AAC. An odd width or height becomes a pixel larger, since
    H.264 stores colors at half the resolution.

    Args:
        source: the video that is read.
        note: called with a line about sound that can't be copied.

    Raises:
        PipelineError: the video can't be encoded.
        OSError: the file can't be written.
    """

    def __init__(self, path: Path, source: VideoReader, note: Callable[[str], object]) -> None:
        self._source = source
        self._reformatter = VideoReformatter()
        self._last_dts: dict[int, int] = {}  # of the packets of each stream of sound
        self._container = av.open(f"file:{path}", "w", format="mp4", container_options={"strict": "experimental"})
        self._container.metadata.update(source.metadata)
        with self._errors():
            self._video = self._add_video()
            self._sound = {stream.index: self._add_sound(stream, note) for stream in source.sound}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error:
            with suppress(av.FFmpegError):  # the same one, if the disk is full
                self._container.close()
            return
        with self._errors():
            self._container.mux(self._video.encode())
            for stream, is_copied in self._sound.values():
                if not is_copied:
                    self._container.mux(stream.encode())
            self._container.close()

    def write(self, frame: Frame, picture: Pixels) -> None:
        """Writes a picture at the time of a frame."""
        padding = [(0, picture.shape[0] % 2), (0, picture.shape[1] % 2), (0, 0)]
        encoded = self._reformatter.reformat(
            av.VideoFrame.from_ndarray(np.pad(picture, padding, mode="edge"), format="rgb24"),
            format="yuv420p",
            dst_colorspace=self._source.layout.matrix,
            dst_color_range=ColorRange.MPEG,
        )
        encoded.pts, encoded.time_base, encoded.duration = frame.pts, self._source.time_base, frame.duration
        with self._errors():
            self._container.mux(self._video.encode(encoded))

    def copy(self, packet: Packet) -> None:
        """Writes a packet of the video's sound."""
        stream, is_copied = self._sound[packet.stream_index]
        self._shift(packet)
        with self._errors():
            if is_copied:
                packet.stream = stream
                self._container.mux(packet)
            else:
                for frame in _decoded(packet):
                    self._container.mux(stream.encode(frame))

    def _shift(self, packet: Packet) -> None:
        """Moves a packet to where the video starts at 0, and after the packet before it, which mp4 requires."""
        start, earliest = self._source.start(packet.stream), self._last_dts.get(packet.stream_index, -(2**62)) + 1
        dts = max((packet.dts or 0) - start, earliest)
        packet.pts = max(dts, dts if packet.pts is None else packet.pts - start)
        packet.dts = self._last_dts[packet.stream_index] = dts

    def _add_video(self) -> VideoStream:
        original = self._source.stream.codec_context
        video = self._container.add_stream("libx264", rate=self._source.rate, options=dict(_ENCODER))
        video.width, video.height = (side + side % 2 for side in self._source.size)
        context = video.codec_context
        context.time_base, context.pix_fmt = self._source.time_base, "yuv420p"
        context.sample_aspect_ratio = self._source.pixel_aspect
        context.color_primaries, context.color_trc = original.color_primaries, original.color_trc
        context.colorspace, context.color_range = self._source.layout.matrix, ColorRange.MPEG
        return video

    def _add_sound(self, original: AudioStream, note: Callable[[str], object]) -> tuple[AudioStream, bool]:
        """The stream for a stream of the video's sound, and whether its packets are copied."""
        try:
            sound, is_copied = self._container.add_stream_from_template(original), True
        except ValueError:  # mp4 has no such format
            codec = original.codec_context.name
            note(f"{self._source.path}: its sound is converted to AAC, since mp4 can't contain {codec}")
            rate = min(_AAC_RATES, key=lambda rate: abs(rate - original.rate))
            layout = "mono" if original.channels == 1 else "stereo"
            sound, is_copied = self._container.add_stream("aac", rate=rate, layout=layout), False
        described = {key: value for key, value in original.metadata.items() if key in ("language", "title")}
        sound.metadata.update(described)
        return sound, is_copied

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, error.strerror) from None  # without the name of the temporary file
        except (av.FFmpegError, ValueError) as error:
            problem = getattr(error, "strerror", None) or str(error)
            raise PipelineError(f"{self._source.path}: can't be encoded as mp4: {problem}") from None


def _decoded(packet: Packet) -> list[AudioFrame]:
    try:
        return packet.decode()
    except av.FFmpegError:  # damaged sound is left out
        return []
