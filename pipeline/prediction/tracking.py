"""Tracks objects from frame to frame with ByteTrack, so that each keeps a number."""

import importlib
from collections.abc import Sequence
from types import ModuleType

import numpy as np

from fcos.postprocess import Detections
from pipeline.errors import PipelineError

# ByteTrack continues tracks with detections down to this score, but begins none with them (Zhang et al., ECCV 2022).
LOWEST_SCORE = 0.1
INSTALL = "pip install 'trackers>=2.6,<3'"

_HIGH = 0.5  # confidence that stands for the threshold of a detection's class
_TRACKED_AGAIN = 1.0  # seconds for which an object may be out of sight
_MIN_UPDATES = 3  # updates for which it may be so, where that takes longer


def lower_thresholds(thresholds: Sequence[float]) -> list[float]:
    """The thresholds with which detections reach the tracker; those above 1 leave classes out, and stay."""
    return [threshold if threshold > 1 else min(threshold, LOWEST_SCORE) for threshold in thresholds]


class Tracker:
    """Numbers the objects of a video.

    An object keeps its number although the class of its detections changes: ByteTrack compares boxes only.

    Args:
        rate: frames per second of the video.
        every: each N-th frame is tracked.
        thresholds: [K], lowest score of a detection of each class that begins a track.

    Raises:
        PipelineError: the package is not installed.
    """

    def __init__(self, rate: float, every: int, thresholds: Sequence[float]) -> None:
        self._thresholds = np.array(thresholds)
        self._supervision = _import("supervision")
        seconds = max(_TRACKED_AGAIN, _MIN_UPDATES * every / rate)
        self._tracker = _import("trackers").ByteTrackTracker(
            frame_rate=rate,
            lost_track_buffer=round(30 * seconds),  # the unit is 1/30 second at every rate
            track_activation_threshold=_HIGH,
            high_conf_det_threshold=_HIGH,
        )

    def update(self, detections: Detections, time: float) -> list[int | None]:
        """Continues the tracks with the detections of the next frame.

        Args:
            detections: those from `LOWEST_SCORE` on; the ones below a class's threshold help to keep a track.
            time: of the frame, in seconds.

        Returns:
            The number of each detection's object, from 1; None: it has not been seen in two frames running, or the
            detection is below the threshold and belongs to no track.
        """
        ids: list[int | None] = [None] * len(detections)
        scores, labels = detections.scores.double().numpy(), detections.labels.numpy()
        found = self._supervision.Detections(
            xyxy=detections.boxes.double().numpy().reshape(-1, 4),
            # ByteTrack knows one threshold; here, each class has its own.
            confidence=_HIGH + (scores - self._thresholds[labels]) / 2,
            class_id=labels,
            data={"index": np.arange(len(detections))},
        )
        tracked = self._tracker.update(found, timestamp=time)
        for index, number in zip(tracked.data.get("index", ()), tracked.tracker_id, strict=True):
            ids[index] = None if number < 0 else int(number) + 1
        return ids


def require_package() -> None:
    """Checks that objects can be tracked.

    Raises:
        PipelineError: the package is not installed.
    """
    _import("trackers")


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise PipelineError(f"--track needs a package: {INSTALL}") from None
