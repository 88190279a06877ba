"""Detects objects in the frames of a video; writes the video with their boxes, and a file of records, a line each."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, TextIO

import numpy as np
import PIL.Image
import torch
from tqdm import tqdm

from fcos.inference import above_thresholds
from fcos.postprocess import Detections
from pipeline.data.image_files import DEFAULT_LIMIT, PixelLimit
from pipeline.errors import PipelineError, count_noun
from pipeline.files import atomic_replace, write_errors
from pipeline.prediction import tracking
from pipeline.prediction.detector import ConfiguredDetector
from pipeline.prediction.records import detection_records
from pipeline.prediction.tracking import Tracker
from pipeline.prediction.video_reader import Frame, Packet, Pixels, VideoReader
from pipeline.prediction.video_writer import VideoWriter
from pipeline.visualization.boxes import Color, class_color, draw_boxes

_UNTRACKED: Color = (128, 128, 128)
_TEXT_SIZE = 1 / 54  # of labels, by the longer side: smaller than on pictures, since videos fill a screen


@dataclass(frozen=True, kw_only=True)
class VideoSettings:
    """How objects are detected in videos.

    Args:
        detect: a function of a batch of images, uint8 [3, H, W] RGB each. For `track`, it also returns detections
            below the thresholds, as `tracking.lower_thresholds` says.
        categories: ids and names, indexed by label.
        thresholds: [K], lowest score of a detection of each class.
        every: objects are detected in each N-th frame, from the first on.
        track: number the objects.
        batch_size: number of consecutive frames in memory; those in which objects are detected share a batch.
    """

    detect: Callable[[Sequence[torch.Tensor]], list[Detections]]
    categories: Sequence[tuple[int, str]]
    thresholds: Sequence[float]
    every: int = 1
    track: bool = False
    batch_size: int = 8

    @classmethod
    def of(cls, detector: ConfiguredDetector, *, every: int, track: bool) -> Self:
        """The settings for a detector.

        Raises:
            PipelineError: the package that tracks objects is not installed.
        """
        thresholds, detect = detector.thresholds, detector.detect
        if track:
            tracking.require_package()
            detect = replace(detector, thresholds=tracking.lower_thresholds(thresholds)).detect
        return cls(
            detect=detect,
            categories=detector.model.description.categories,
            thresholds=thresholds,
            every=every,
            track=track,
            batch_size=detector.batch_size,
        )


@dataclass(frozen=True)
class _ShownObjects:
    """The detections of a frame that reach the thresholds, and the numbers of their tracks."""

    detections: Detections
    track_ids: Sequence[int | None]


@dataclass(frozen=True)
class _AnnotatedFrame:
    frame: Frame
    objects: _ShownObjects  # those of the last frame in which objects were detected
    record: dict[str, Any] | None  # of a frame in which objects were detected


@dataclass(frozen=True)
class VideoFiles:
    """What is written for a video: the video with boxes, and the records, a line of JSON each."""

    video: Path | None = None
    records: Path | None = None


def predict_video(
    path: Path,
    settings: VideoSettings,
    files: VideoFiles,
    limit: PixelLimit = DEFAULT_LIMIT,
    *,
    note: Callable[[str], object],
    show_progress: bool = False,
) -> Iterator[dict[str, Any] | PipelineError]:
    """Detects objects in a video, in memory that doesn't depend on its length.

    In the video that is written, frames between two in which objects are detected show the boxes of the first. Each
    file is written whole or not at all.

    Args:
        note: called with a line about sound that can't be copied.
        show_progress: on a terminal, for videos that take longer than a second.

    Yields:
        The record of each frame in which objects are detected; or why the video can't be read. If it is damaged or
        truncated, that comes at the end, when all that can be decoded has been written.

    Raises:
        PipelineError: a file can't be written.
    """
    try:
        video = VideoReader(path, limit, with_sound=files.video is not None)
    except PipelineError as error:
        yield error
        return
    with video:
        with _progress(video, show_progress) as bar, _open_output(files, video, settings, note) as output:
            for item in _annotate(video, settings):
                output.write(item)
                if isinstance(item, _AnnotatedFrame):
                    bar.update()
                    if item.record:
                        yield item.record
        if video.problem:
            yield PipelineError(f"{path}: {video.problem}")


def _progress(video: VideoReader, is_shown: bool) -> "tqdm[Any]":
    return tqdm(
        total=video.num_frames,
        desc=video.path.name,
        unit="frame",
        delay=1.0,
        dynamic_ncols=True,
        disable=None if is_shown else True,
    )


def _annotate(video: VideoReader, settings: VideoSettings) -> Iterator[_AnnotatedFrame | Packet]:
    """Yields all frames with their objects, and the packets of the sound as they come."""
    tracker = Tracker(float(video.rate), settings.every, settings.thresholds) if settings.track else None
    objects: _ShownObjects | None = None
    for batch in _batches(video, settings.batch_size):
        chosen = [item for item in batch if isinstance(item, Frame) and item.index % settings.every == 0]
        pixels = [torch.from_numpy(frame.image).permute(2, 0, 1) for frame in chosen]
        found = iter(settings.detect(pixels) if pixels else [])
        for item in batch:
            if not isinstance(item, Frame):
                yield item
            elif objects is None or item.index % settings.every == 0:
                objects = _shown(next(found), settings.thresholds, tracker, item.time)
                yield _AnnotatedFrame(item, objects, _to_record(video.path, item, objects, settings))
            else:
                yield _AnnotatedFrame(item, objects, None)


def _batches(video: VideoReader, size: int) -> Iterator[list[Frame | Packet]]:
    """Frames and packets in their order, with at most `size` frames in each list."""
    batch: list[Frame | Packet] = []
    num_frames = 0
    for item in video:
        batch.append(item)
        num_frames += isinstance(item, Frame)
        if num_frames == size:
            yield batch
            batch, num_frames = [], 0
    yield batch


def _shown(detections: Detections, thresholds: Sequence[float], tracker: Tracker | None, time: float) -> _ShownObjects:
    ids = tracker.update(detections, time) if tracker else [None] * len(detections)
    positions = torch.arange(len(detections))
    kept = above_thresholds(Detections(positions, detections.scores, detections.labels), thresholds).boxes
    return _ShownObjects(detections[kept], [ids[index] for index in kept.tolist()])


def _to_record(path: Path, frame: Frame, objects: _ShownObjects, settings: VideoSettings) -> dict[str, Any]:
    """The record of a frame: as that of an image, with the frame's number and time, and objects' numbers."""
    height, width = frame.image.shape[:2]
    records = detection_records(objects.detections, settings.categories)
    if settings.track:
        records = [record | {"track_id": number} for record, number in zip(records, objects.track_ids, strict=True)]
    return {
        "file": path.as_posix(),
        "frame": frame.index,
        "time": round(frame.time, 6),
        "width": width,
        "height": height,
        "detections": records,
    }


@dataclass(frozen=True)
class _Output:
    settings: VideoSettings
    video: VideoWriter | None
    records: TextIO | None

    def write(self, item: _AnnotatedFrame | Packet) -> None:
        if self.video:
            if isinstance(item, _AnnotatedFrame):
                self.video.write(item.frame, _draw(item.frame.image, item.objects, self.settings))
            else:
                self.video.copy(item)
        if self.records and isinstance(item, _AnnotatedFrame) and item.record:
            self.records.write(json.dumps(item.record, ensure_ascii=False) + "\n")


@contextmanager
def _open_output(
    files: VideoFiles, source: VideoReader, settings: VideoSettings, note: Callable[[str], object]
) -> Iterator[_Output]:
    with ExitStack() as stack:
        video, records = None, None
        if files.records:
            stack.enter_context(write_errors(files.records.parent))
            partial = stack.enter_context(atomic_replace(files.records))
            records = stack.enter_context(partial.open("w", encoding="utf-8", newline="\n"))
        if files.video:
            stack.enter_context(write_errors(files.video.parent))
            partial = stack.enter_context(atomic_replace(files.video))
            video = stack.enter_context(VideoWriter(partial, source, note))
        yield _Output(settings, video, records)


def _draw(image: Pixels, objects: _ShownObjects, settings: VideoSettings) -> Pixels:
    """The image with the box, class and score of each object, and with its number and a color of its own if tracked."""
    labels = objects.detections.labels.tolist()
    names = [settings.categories[label][1] for label in labels]
    colors = [class_color(label) for label in labels]
    if settings.track:
        names = [f"#{number} {name}" if number else name for name, number in zip(names, objects.track_ids, strict=True)]
        colors = [class_color(number - 1) if number else _UNTRACKED for number in objects.track_ids]
    picture = draw_boxes(
        PIL.Image.fromarray(image),
        objects.detections.boxes.tolist(),
        names,
        colors,
        objects.detections.scores.tolist(),
        enlarge=False,
        text_size=_TEXT_SIZE,
    )
    return np.asarray(picture)


@dataclass
class VideoSummary:
    """What was found in a video, for a line of text."""

    path: Path
    is_complete: bool = True
    frames: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    tracks: set[int] = field(default_factory=set)

    def add(self, record: dict[str, Any]) -> None:
        self.frames += 1
        for detection in record["detections"]:
            self.counts[detection["category"]] += 1
            if detection.get("track_id"):
                self.tracks.add(detection["track_id"])

    def __str__(self) -> str:
        found = ", ".join(f"{number:,} × {name}" for name, number in self.counts.most_common()) or "nothing"
        tracks = f"; {count_noun(len(self.tracks), 'track')}" if self.tracks else ""
        return f"{self.path}: {count_noun(self.frames, 'frame')}: {found}{tracks}"
