"""Videos of moving digits: what is read, what is written, and what stays after an error."""

import gc
import json
import os
import re
import resource
import signal
import wave
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from fcos.postprocess import Detections
from pipeline import process
from pipeline.data.boxes import xywh_to_xyxy
from pipeline.data.image_files import PixelLimit
from pipeline.errors import PipelineError
from pipeline.prediction.video import VideoFiles, VideoSettings, VideoSummary, predict_video
from pipeline.prediction.video_reader import VideoReader
from pipeline.visualization.boxes import class_color
from tests.support.tracking_scores import idf1
from tests.support.videos import (
    BACKGROUND,
    RATE,
    SIZE,
    ColorDetector,
    MovingDigit,
    Pixels,
    moving_digits,
    paint,
    read_sound,
    read_video,
    write_video,
)

Run = Callable[..., list[dict[str, Any]]]

FRAMES = 20


@pytest.fixture(scope="module")
def digits() -> list[MovingDigit]:
    return moving_digits()


@pytest.fixture(scope="module")
def pictures(digits: list[MovingDigit]) -> list[Pixels]:
    return [paint(digits, index) for index in range(FRAMES)]


@pytest.fixture(scope="module")
def settings(digits: list[MovingDigit]) -> VideoSettings:
    categories = [(digit.label + 1, str(digit.label)) for digit in digits]
    return VideoSettings(detect=ColorDetector(digits), categories=categories, thresholds=[0.5] * len(digits))


@pytest.fixture
def run(settings: VideoSettings, tmp_path: Path) -> Run:
    """Predicts a video, written to out/video.mp4; notes are an error."""

    def predict(video: Path, **changes: Any) -> list[dict[str, Any]]:
        items = list(predict_video(video, replace(settings, **changes), files(tmp_path), note=pytest.fail))
        records = [item for item in items if isinstance(item, dict)]
        assert items == records
        return records

    return predict


def files(folder: Path) -> VideoFiles:
    return VideoFiles(folder / "out/video.mp4", folder / "out/video.jsonl")


def read_damaged(video: Path, settings: VideoSettings, folder: Path) -> tuple[list[dict[str, Any]], str]:
    """The records of a video of which a part can't be read, and the line about it, which comes last."""
    *records, problem = predict_video(video, settings, files(folder), note=pytest.fail)
    assert isinstance(problem, PipelineError)
    return [record for record in records if isinstance(record, dict)], str(problem)


def written(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "out").iterdir())


def check_boxes(records: Sequence[dict[str, Any]], digits: Sequence[MovingDigit], tolerance: int = 1) -> None:
    """Every digit is where it was painted. Compression moves its edges by a pixel."""
    for record in records:
        for detection, digit in zip(record["detections"], digits, strict=True):
            x, y, width, height = detection["bbox"]
            assert (x, y, x + width, y + height) == pytest.approx(digit.box(record["frame"]), abs=tolerance)


def outlined(picture: Pixels, box: Sequence[int], label: int) -> bool:
    """Whether the lower and the right edge of a box are drawn in its class's color: its tag may cover the others."""
    x1, y1, x2, y2 = box
    edges = np.concatenate([picture[y2 - 1, x1 + 2 : x2 - 2], picture[y1 + 12 : y2 - 2, x2 - 1]]).astype(int)
    return bool(np.abs(edges - class_color(label)).mean() < 45)


def test_the_video_and_its_records(run: Run, digits: list[MovingDigit], pictures: list[Pixels], tmp_path: Path) -> None:
    video = write_video(tmp_path / "video.mp4", pictures, sound=["aac", "mp3"])
    records = run(video)
    assert [record["frame"] for record in records] == list(range(FRAMES))
    assert [record["time"] for record in records] == pytest.approx([float(n / RATE) for n in range(FRAMES)], abs=1e-5)
    assert {(record["file"], record["width"], record["height"]) for record in records} == {(video.as_posix(), *SIZE)}
    first = records[0]["detections"][0]
    assert {**first, "bbox": None} == {"category_id": 4, "category": "3", "score": 0.9, "bbox": None}
    check_boxes(records, digits)
    lines = (tmp_path / "out/video.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == records
    assert written(tmp_path) == ["video.jsonl", "video.mp4"]

    shown, times = read_video(tmp_path / "out/video.mp4")
    assert times == read_video(video)[1]
    for index in (0, FRAMES - 1):
        assert all(outlined(shown[index], digit.box(index), label) for label, digit in enumerate(digits))
        assert np.abs(shown[index][:3, -20:].astype(int) - BACKGROUND).max() < 6
    assert read_sound(tmp_path / "out/video.mp4") == read_sound(video)
    with av.open(str(tmp_path / "out/video.mp4")) as container:
        video = container.streams.video[0]
        assert (video.codec_context.name, video.pix_fmt, video.width, video.height) == ("h264", "yuv420p", *SIZE)
        assert (video.average_rate, video.frames) == (RATE, FRAMES)


@pytest.mark.parametrize(("rotation", "mirrored"), [(90, False), (180, False), (-90, False), (0, True), (90, True)])
def test_the_output_is_upright(
    run: Run, digits: list[MovingDigit], pictures: list[Pixels], tmp_path: Path, rotation: int, mirrored: bool
) -> None:
    stored = [np.rot90(np.fliplr(image) if mirrored else image, -rotation // 90) for image in pictures[:3]]
    video = write_video(
        tmp_path / "video.mp4", [np.ascontiguousarray(image) for image in stored], rotation=rotation, mirrored=mirrored
    )
    records = run(video)
    check_boxes(records, digits)
    assert (records[0]["width"], records[0]["height"]) == SIZE
    shown, _ = read_video(tmp_path / "out/video.mp4")
    assert shown[2].shape == pictures[2].shape
    assert all(outlined(shown[2], digit.box(2), label) for label, digit in enumerate(digits))


def test_times_of_a_variable_rate_and_odd_sizes_are_kept(run: Run, digits: list[MovingDigit], tmp_path: Path) -> None:
    times = [0, 40, 100, 101, 400, 1000]
    odd = [paint(digits, index, (237, 179)) for index in range(len(times))]
    video = write_video(tmp_path / "video.mkv", odd, codec="mjpeg", pix_fmt="yuvj420p", times=times)
    records = run(video)
    assert [record["time"] for record in records] == [time / 1000 for time in times]
    assert (records[0]["width"], records[0]["height"]) == (237, 179)
    check_boxes(records, digits, tolerance=2)
    shown, shown_times = read_video(tmp_path / "out/video.mp4")
    assert shown_times == pytest.approx([time / 1000 for time in times], abs=1e-4)
    assert shown[0].shape == (180, 238, 3)
    assert np.abs(shown[0][:3, -20:].astype(int) - BACKGROUND).max() < 8  # full range became limited range
    with av.open(str(tmp_path / "out/video.mp4")) as container:
        assert container.streams.video[0].pix_fmt == "yuv420p"


def test_frames_between_detected_ones_show_the_last_boxes(
    run: Run, settings: VideoSettings, digits: list[MovingDigit], pictures: list[Pixels], tmp_path: Path
) -> None:
    sizes: list[int] = []

    def detect(images: Sequence[torch.Tensor]) -> list[Detections]:
        sizes.append(len(images))
        return settings.detect(images)

    records = run(write_video(tmp_path / "video.mp4", pictures), detect=detect, every=7, batch_size=4)
    assert [record["frame"] for record in records] == [0, 7, 14]
    assert sizes == [1, 1, 1]
    check_boxes(records, digits)
    shown, _ = read_video(tmp_path / "out/video.mp4")
    assert len(shown) == FRAMES
    assert outlined(shown[13], digits[0].box(7), 0)
    assert not outlined(shown[13], digits[0].box(13), 0)
    assert outlined(shown[14], digits[0].box(14), 0)


def test_times_begin_at_zero_although_a_broadcast_does_not(run: Run, pictures: list[Pixels], tmp_path: Path) -> None:
    video = write_video(tmp_path / "video.ts", pictures, start=30, sound=["aac"])
    with av.open(str(video)) as container:
        start = float(container.start_time / av.time_base)
    assert start > 0
    stored = [time - start for time in read_video(video)[1]]
    assert [record["time"] for record in run(video)] == pytest.approx(stored, abs=1e-4)
    assert read_video(tmp_path / "out/video.mp4")[1] == pytest.approx(stored, abs=1e-3)  # mp4's unit of the first time
    (before,), (after,) = read_sound(video), read_sound(tmp_path / "out/video.mp4")
    assert [time for _, time in after] == pytest.approx([time - start for _, time in before], abs=1e-3)


def test_sound_that_mp4_cant_contain_becomes_aac(
    settings: VideoSettings, pictures: list[Pixels], tmp_path: Path
) -> None:
    video = write_video(tmp_path / "video.avi", pictures, codec="mpeg4", sound=["adpcm_ms"])
    notes: list[str] = []
    list(predict_video(video, settings, files(tmp_path), note=notes.append))
    assert notes == [f"{video}: its sound is converted to AAC, since mp4 can't contain adpcm_ms"]
    with av.open(str(tmp_path / "out/video.mp4")) as container:
        sound = container.streams.audio[0]
        assert sound.codec_context.name == "aac"
        samples = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(sound)])
    spectrum = np.abs(np.fft.rfft(samples))
    assert spectrum.argmax() * 44_100 / len(samples) == pytest.approx(440, abs=3)  # the tone of the video
    assert len(samples) / 44_100 == pytest.approx(float(FRAMES / RATE), abs=0.1)


def test_without_output_nothing_is_encoded(settings: VideoSettings, pictures: list[Pixels], tmp_path: Path) -> None:
    video = write_video(tmp_path / "video.mp4", pictures, sound=["aac"])
    records = list(predict_video(video, settings, VideoFiles(), note=pytest.fail))
    assert len(records) == FRAMES
    assert list(tmp_path.iterdir()) == [video]


def test_tracked_objects_keep_their_numbers_and_colors_when_they_cross(
    run: Run, digits: list[MovingDigit], tmp_path: Path
) -> None:
    """The 5 hides a part of the 3 in the middle of the video."""
    crossing = [
        replace(digits[0], start=(4, 60), speed=(4, 0)),
        replace(digits[1], start=(196, 63), speed=(-4, 0)),
        digits[2],
    ]
    video = write_video(tmp_path / "video.mp4", [paint(crossing, index) for index in range(45)])
    records = run(video, track=True)
    truth = [dict(enumerate(digit.box(index) for digit in crossing)) for index in range(45)]
    tracked = [
        {item["track_id"]: xywh_to_xyxy(tuple(item["bbox"])) for item in record["detections"] if item["track_id"]}
        for record in records
    ]
    assert idf1(truth, tracked) >= 0.95
    summary = VideoSummary(video)
    for record in records:
        summary.add(record)
    assert str(summary) == f"{video}: 45 frames: 45 × 3, 45 × 5, 45 × 8; 3 tracks"
    assert [item["track_id"] for item in records[0]["detections"]] == [None] * 3
    shown, _ = read_video(tmp_path / "out/video.mp4")
    assert all(outlined(shown[44], digit.box(44), number) for number, digit in enumerate(crossing))


def test_low_scores_reach_the_tracker_but_are_not_shown(
    run: Run, settings: VideoSettings, pictures: list[Pixels], tmp_path: Path
) -> None:
    calls = iter(range(FRAMES))

    def detect(images: Sequence[torch.Tensor]) -> list[Detections]:
        found = settings.detect(images)
        return [replace(d, scores=d.scores * (0.2 if 5 <= next(calls) < 15 else 1)) for d in found]

    records = run(write_video(tmp_path / "video.mp4", pictures), detect=detect, track=True)
    assert [len(record["detections"]) for record in records] == [3] * 5 + [0] * 10 + [3] * 5
    assert [detection["track_id"] for detection in records[-1]["detections"]] == [1, 2, 3]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("text", "can't be read as a video: the file is damaged or of another kind"),
        ("sound", "contains no video"),
        ("half", "can't be read as a video: the file is damaged or of another kind"),  # mp4's index is at the end
        ("missing", "can't be read: no such file or directory"),
        ("large", "0.0 megapixels per frame are more than the limit of 0.04: scale the video down, or raise the "
         "limit: --max-megapixels 1"),
    ],
)  # fmt: skip
def test_a_file_that_cant_be_read_is_one_line_and_leaves_nothing(
    settings: VideoSettings, pictures: list[Pixels], tmp_path: Path, kind: str, reason: str
) -> None:
    video = tmp_path / "video.mp4"
    if kind == "text":
        video.write_text("no video")
    elif kind == "sound":
        with wave.open(str(video), "wb") as sound:
            sound.setparams((1, 2, 8000, 800, "NONE", ""))
            sound.writeframes(bytes(1600))
    elif kind != "missing":
        content = write_video(video, pictures).read_bytes()
        video.write_bytes(content[: len(content) // 2] if kind == "half" else content)
    limit = PixelLimit(0.04, "--max-megapixels ")
    (error,) = predict_video(video, settings, files(tmp_path), limit, note=pytest.fail)
    assert isinstance(error, PipelineError)
    assert str(error) == f"{video}: {reason}"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("suffix", "options"), [("mkv", {}), ("mp4", {"movflags": "faststart"})])
def test_a_truncated_video_is_processed_to_its_end(
    settings: VideoSettings, digits: list[MovingDigit], tmp_path: Path, suffix: str, options: dict[str, str]
) -> None:
    long = [paint(digits, index) for index in range(40)]
    video = write_video(tmp_path / f"video.{suffix}", long, sound=["aac"], options=options)
    content = video.read_bytes()
    video.write_bytes(content[: len(content) // 2])
    records, problem = read_damaged(video, settings, tmp_path)
    assert re.fullmatch(
        rf"{video}: ends after 0\.[3-9] of 1\.3 seconds: the file is truncated; that part was processed", problem
    )
    check_boxes(records[:-1], digits)  # of the last frame, a part may be missing
    assert 10 < len(records) == len(read_video(tmp_path / "out/video.mp4")[0]) < 35
    assert [json.loads(line) for line in (tmp_path / "out/video.jsonl").read_text().splitlines()] == records


def test_a_long_last_frame_is_not_taken_for_missing_ones(
    run: Run, pictures: list[Pixels], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = write_video(tmp_path / "video.mp4", pictures)
    monkeypatch.setattr(VideoReader, "_promised_end", lambda _: 5.0)
    assert len(run(video)) == FRAMES


def test_damaged_frames_are_left_out(settings: VideoSettings, pictures: list[Pixels], tmp_path: Path) -> None:
    video = write_video(tmp_path / "video.avi", pictures, codec="mjpeg", pix_fmt="yuvj420p")
    with av.open(str(video)) as container:
        positions = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    start, size = positions[5]
    content = bytearray(video.read_bytes())
    content[start : start + size] = bytes(size)
    video.write_bytes(content)
    records, problem = read_damaged(video, settings, tmp_path)
    assert problem == f"{video}: contains 1 damaged frame; what can be decoded was processed"
    assert [record["time"] for record in records] == pytest.approx(
        [float(index / RATE) for index in range(FRAMES) if index != 5], abs=1e-5
    )


def test_an_interrupted_run_leaves_what_was_there(
    settings: VideoSettings, pictures: list[Pixels], tmp_path: Path
) -> None:
    video = write_video(tmp_path / "video.mp4", pictures)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/video.mp4").write_text("earlier")
    run = predict_video(video, replace(settings, batch_size=2), files(tmp_path), note=pytest.fail)
    next(run)
    run.close()
    gc.collect()
    assert written(tmp_path) == ["video.mp4"]
    assert (tmp_path / "out/video.mp4").read_text() == "earlier"


def test_a_signal_leaves_nothing_half_written(
    settings: VideoSettings, pictures: list[Pixels], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    video = write_video(tmp_path / "video.mp4", pictures)

    def detect(images: Sequence[torch.Tensor]) -> list[Detections]:
        if len(written(tmp_path)) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return settings.detect(images)

    before = signal.getsignal(signal.SIGTERM)
    run = predict_video(video, replace(settings, detect=detect, batch_size=2), files(tmp_path), note=pytest.fail)
    with pytest.raises(SystemExit) as ended, process.handling_signals("fcos"):
        list(run)
    assert ended.value.code == 128 + signal.SIGTERM
    assert capfd.readouterr().err.splitlines()[-1] == "fcos: stopped by SIGTERM"
    assert written(tmp_path) == []
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.fixture
def small_disk() -> Iterator[None]:
    """Files may have 4,000 bytes; more is an error of the operating system."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_video_that_cant_be_written_is_one_line(
    settings: VideoSettings, pictures: list[Pixels], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    video = write_video(tmp_path / "video.mp4", pictures, sound=["aac"])
    request.getfixturevalue("small_disk")
    with pytest.raises(PipelineError, match=r"out: can't be written: file too large; choose another --out$"):
        list(predict_video(video, settings, files(tmp_path), note=pytest.fail))
    assert written(tmp_path) == []


def test_memory_does_not_depend_on_the_length(tmp_path: Path) -> None:
    """Both videos need the same; all additional frames together would be 18 MB."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("the peak of the memory is read from /proc")
    picture = np.zeros((240, 320, 3), np.uint8)
    videos = [write_video(tmp_path / f"{n}.mp4", [picture] * n, sound=["aac"]) for n in (30, 110)]
    box = Detections(torch.tensor([[20.0, 30, 90, 100]]), torch.tensor([0.9]), torch.tensor([0]))
    settings = VideoSettings(detect=lambda images: [box] * len(images), categories=[(1, "cat")], thresholds=[0.5])
    peaks = []
    for video in (videos[0], *videos):  # the first run fills caches
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        for _ in predict_video(video, settings, VideoFiles(tmp_path / "out.mp4"), note=pytest.fail):
            pass
        peaks.append(int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())[0]) / 1000)
    assert peaks[2] - peaks[1] < 6
