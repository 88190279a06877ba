"""Detects objects in the frames of a film; writes the film with their boxes, and a file of records, a line each."""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import PIL.Image
import torch
from tqdm import tqdm

from fcos.postprocess import Detections
from pipeline.data.boxes import xyxy_to_xywh
from pipeline.errors import PipelineError, count_noun
from pipeline.files import atomic_replace, write_errors
from pipeline.inference.predict import above_thresholds
from pipeline.prediction.tracking import Tracker
from pipeline.prediction.video_reader import Frame, Packet, Pixels, VideoReader
from pipeline.prediction.video_writer import VideoWriter
from pipeline.visualization.boxes import Color, class_color, draw_boxes

_UNTRACKED: Color = (128, 128, 128)


@dataclass(frozen=True, kw_only=True)
class VideoSettings:
    """How objects are detected in films.

    Args:
        detect: a function of a batch of images, uint8 [3, H, W] RGB each. For `track`, it also returns detections
            below the thresholds, as `tracking.lower_thresholds` says.
        categories: ids and names, indexed by label.
        thresholds: [K], lowest score of a detection of each class.
        every: objects are detected in each N-th frame, from the first on.
        track: number the objects.
        batch_size: number of consecutive frames in memory; those of them that are detected share a batch.
    """

    detect: Callable[[Sequence[torch.Tensor]], list[Detections]]
    categories: Sequence[tuple[int, str]]
    thresholds: Sequence[float]
    every: int = 1
    track: bool = False
    batch_size: int = 8


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


def predict_video(
    path: Path,
    settings: VideoSettings,
    target: Path | None = None,
    *,
    note: Callable[[str], object],
    show_progress: bool = False,
) -> Iterator[dict[str, Any]]:
    """Detects objects in a film, in memory that doesn't depend on the film's length.

    With `target`, an mp4 file, writes the film with boxes there, and the records beside it, a line of JSON each. Frames
    between two in which objects are detected show the boxes of the first. Both files are written whole or not at all.

    Args:
        note: called with a line about sound that can't be copied.

    Yields:
        The record of each frame in which objects are detected.

    Raises:
        PipelineError: the film can't be read, or `target` can't be written. For a film that is damaged or truncated,
            it is raised at the end, when all that can be decoded has been written.
    """
    with VideoReader(path, with_sound=target is not None) as film:
        with _progress(film, show_progress) as bar, _open_output(target, film, settings, note) as output:
            for item in _annotate(film, settings):
                if output:
                    output.write(item)
                if isinstance(item, _AnnotatedFrame):
                    bar.update()
                    if item.record:
                        yield item.record
        if film.problem:
            raise PipelineError(f"{path}: {film.problem}")


def _progress(film: VideoReader, is_shown: bool) -> "tqdm[Any]":
    """A bar with the time left, for films that take more than a second."""
    interval = 0.2 if sys.stderr.isatty() else 10.0  # seconds; a log file needs few updates
    return tqdm(
        total=film.num_frames,
        desc=film.path.name,
        unit="frame",
        delay=1.0,
        mininterval=interval,
        dynamic_ncols=True,
        disable=not is_shown,
    )


def _annotate(film: VideoReader, settings: VideoSettings) -> Iterator[_AnnotatedFrame | Packet]:
    """Yields all frames with their objects, and the packets of the sound as they come."""
    tracker = Tracker(float(film.rate), settings.every, settings.thresholds) if settings.track else None
    objects: _ShownObjects | None = None
    for batch in _batches(film, settings.batch_size):
        chosen = [item for item in batch if isinstance(item, Frame) and item.index % settings.every == 0]
        pixels = [torch.from_numpy(frame.image).permute(2, 0, 1) for frame in chosen]
        found = iter(settings.detect(pixels) if pixels else [])
        for item in batch:
            if not isinstance(item, Frame):
                yield item
            elif objects is None or item.index % settings.every == 0:
                objects = _shown(next(found), settings.thresholds, tracker, item.time)
                yield _AnnotatedFrame(item, objects, _to_record(film.path, item, objects, settings))
            else:
                yield _AnnotatedFrame(item, objects, None)


def _batches(film: VideoReader, size: int) -> Iterator[list[Frame | Packet]]:
    """Frames and packets in their order, with at most `size` frames in each list."""
    batch: list[Frame | Packet] = []
    num_frames = 0
    for item in film:
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


def to_records(detections: Detections, categories: Sequence[tuple[int, str]]) -> list[dict[str, Any]]:
    return [
        {
            "category_id": categories[label][0],
            "category": categories[label][1],
            "score": round(score, 4),
            "bbox": [round(value, 2) for value in xyxy_to_xywh(box)],
        }
        for box, score, label in zip(
            detections.boxes.tolist(), detections.scores.tolist(), detections.labels.tolist(), strict=True
        )
    ]


def _to_record(path: Path, frame: Frame, objects: _ShownObjects, settings: VideoSettings) -> dict[str, Any]:
    """The record of a frame: as that of an image, with the frame's number and time, and objects' numbers."""
    height, width = frame.image.shape[:2]
    records = to_records(objects.detections, settings.categories)
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


class _Output:
    """The film with boxes, and the file of records."""

    def __init__(self, film: VideoWriter, records: TextIO, settings: VideoSettings) -> None:
        self._film, self._records, self._settings = film, records, settings

    def write(self, item: _AnnotatedFrame | Packet) -> None:
        if not isinstance(item, _AnnotatedFrame):
            self._film.copy(item)
            return
        self._film.write(item.frame, _draw(item.frame.image, item.objects, self._settings))
        if item.record:
            self._records.write(json.dumps(item.record, ensure_ascii=False) + "\n")


@contextmanager
def _open_output(
    target: Path | None, film: VideoReader, settings: VideoSettings, note: Callable[[str], object]
) -> Iterator[_Output | None]:
    if target is None:
        yield None
        return
    with (
        write_errors(target.parent),
        atomic_replace(records_path(target)) as lines,
        atomic_replace(target) as partial,
        lines.open("w", encoding="utf-8", newline="\n") as records,
        VideoWriter(partial, film, note) as writer,
    ):
        yield _Output(writer, records, settings)


def records_path(target: Path) -> Path:
    """The file of records beside a film with boxes."""
    return target.with_suffix(".jsonl")


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
    )
    return np.asarray(picture)


@dataclass
class VideoSummary:
    """What was found in a film, for a line of text."""

    file: str = ""
    frames: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    tracks: set[int] = field(default_factory=set)

    def add(self, record: dict[str, Any]) -> None:
        self.file = record["file"]
        self.frames += 1
        for detection in record["detections"]:
            self.counts[detection["category"]] += 1
            if detection.get("track_id"):
                self.tracks.add(detection["track_id"])

    def __str__(self) -> str:
        found = ", ".join(f"{number:,} × {name}" for name, number in self.counts.most_common()) or "nothing"
        tracks = f"; {count_noun(len(self.tracks), 'track')}" if self.tracks else ""
        return f"{self.file}: {count_noun(self.frames, 'frame')}: {found}{tracks}"
