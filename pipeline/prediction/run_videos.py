"""The videos of `fcos predict`: from its options to files and records."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.data.image_files import PixelLimit
from pipeline.errors import PipelineError, count_noun
from pipeline.files import unique_jpg_names
from pipeline.prediction.detector import ConfiguredDetector
from pipeline.prediction.options import Echo, Options
from pipeline.prediction.outputs import check_overwrites
from pipeline.prediction.video import VideoFiles, VideoSettings, VideoSummary, predict_video


def prepare(
    detector: ConfiguredDetector, videos: Sequence[Path], options: Options, kinds: Sequence[str], echo: Echo
) -> Callable[[], bool]:
    """Checks what can be wrong, before minutes of work on images.

    Args:
        kinds: of output.

    Returns:
        A function that detects objects in the videos, writes their outputs, and returns whether all could be read.

    Raises:
        PipelineError: an option is not usable, nothing would be written, or a video would be overwritten.
    """
    settings = VideoSettings.of(detector, every=options.every, track=options.track)
    targets = _video_files(videos, options, kinds)

    def run() -> bool:
        summaries = [
            _predict_video(path, settings, files, options.limit, options.as_json, echo)
            for path, files in targets.items()
        ]
        pairs = zip(summaries, targets.values(), strict=True)
        if written := sum(summary.frames > 0 and files != VideoFiles() for summary, files in pairs):
            echo(f"{count_noun(written, 'video')} in {options.folder}", err=True)
        return all(summary.is_complete for summary in summaries)

    return run


def _video_files(videos: Sequence[Path], options: Options, kinds: Sequence[str]) -> dict[Path, VideoFiles]:
    """What is written for each video.

    Raises:
        PipelineError: nothing would be, or a video would be overwritten.
    """
    if options.folder is None:
        return dict.fromkeys(videos, VideoFiles())
    if videos and not options.as_json and not {"pictures", "json"} & set(kinds):
        raise PipelineError(
            f"--save {','.join(kinds)}: only for images; for videos, add pictures (the video with boxes) or json"
        )
    targets: dict[Path, VideoFiles] = {}
    for path, name in zip(videos, unique_jpg_names(videos), strict=True):
        target = (options.folder / name).with_suffix(".mp4")
        records = target.with_suffix(".jsonl") if "json" in kinds else None
        targets[path] = VideoFiles(target if "pictures" in kinds else None, records)
    check_overwrites(videos, [files.video for files in targets.values() if files.video])
    return targets


def _predict_video(
    path: Path, settings: VideoSettings, files: VideoFiles, limit: PixelLimit, as_json: bool, echo: Echo
) -> VideoSummary:
    """Detects objects in a video, and prints a line for each frame or one for the video."""

    def note(line: str) -> None:
        echo(f"fcos: {line}", err=True)

    summary = VideoSummary(path)
    show_progress = not (as_json and sys.stdout.isatty())  # lines would run through the bar
    for item in predict_video(path, settings, files, limit, note=note, show_progress=show_progress):
        if isinstance(item, PipelineError):
            summary.is_complete = False
            note(str(item))
            continue
        summary.add(item)
        if as_json:
            echo(json.dumps(item, ensure_ascii=False))
    if summary.frames and not as_json:
        echo(str(summary))
    return summary
