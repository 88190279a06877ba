"""Does `fcos predict` need more memory for a longer video? Its peak at two lengths, and frames per second.

    python -m benchmarks.video_memory

Videos of noise and a moving square, with sound; a `tiny` detector without training, whose boxes are tracked and drawn.
Writes a dated card.
"""

import argparse
import math
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

from benchmarks.harness import context, save_card, today
from fcos.config import PAPER, InputSize
from fcos.detector import build
from fcos.weights import Description, save_detector

_LENGTHS = (500, 5_000)  # frames
_SIZE = (240, 180)
_RATE, _SAMPLES = 30, 44_100
_OPTIONS = ("--track", "--score", "0.3", "--max-detections", "5", "--device", "cpu")


@dataclass(frozen=True)
class Run:
    """A run of the command."""

    frames: int
    peak: float  # resident memory in megabytes
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--frames", type=int, nargs=2, default=_LENGTHS)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        weights = write_detector(Path(name))
        runs = [measure(weights, write_video(Path(name) / f"{frames}.mp4", frames)) for frames in arguments.frames]
    text = card(runs)
    print(text)
    print(save_card(text, "video-memory-cpu", arguments.results))


def write_detector(folder: Path) -> Path:
    """A detector without training that finds objects everywhere."""
    torch.manual_seed(0)
    config = replace(
        PAPER, backbone="tiny", pretrained=False, batch_norm="auto", channels=16, levels=(3, 4, 5), tower_depth=1,
        frozen_stages=0,
    )  # fmt: skip
    detector = build(config, 1)
    torch.nn.init.zeros_(detector.head.class_logits.bias)  # type: ignore[arg-type]
    path = folder / "detector.safetensors"
    save_detector(
        detector, Description(model=config, categories=((1, "object"),), input_size=InputSize((96, 128))), path
    )
    return path


def write_video(path: Path, frames: int) -> Path:
    """A video with one stream of sound."""
    rng = np.random.default_rng(0)
    width, height = _SIZE
    background = rng.integers(0, 80, (height, width, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=_RATE, width=width, height=height, pix_fmt="yuv420p")
        sound = container.add_stream("aac", rate=_SAMPLES, layout="mono")
        for index in range(frames):
            picture = background.copy()
            x, y = (
                round((side - 40) * (1 + math.sin(index / period)) / 2)
                for side, period in zip(_SIZE, (40, 55), strict=True)
            )
            picture[y : y + 40, x : x + 40] = (250, 200, 40)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            tone = np.sin((np.arange(_SAMPLES // _RATE) + index * (_SAMPLES // _RATE)) / 16)
            samples = av.AudioFrame.from_ndarray((8000 * tone).astype(np.int16)[None], format="s16", layout="mono")
            samples.sample_rate, samples.time_base = _SAMPLES, Fraction(1, _SAMPLES)
            samples.pts = index * (_SAMPLES // _RATE)
            container.mux(sound.encode(samples))
        container.mux(video.encode())
        container.mux(sound.encode())
    return path


def measure(weights: Path, video: Path) -> Run:
    """Runs the command in a process of its own.

    Raises:
        RuntimeError: it failed.
    """
    start = time.perf_counter()
    program = str(Path(sys.executable).parent / "fcos")
    arguments = [
        program,
        "predict",
        str(video),
        "--weights",
        str(weights),
        "--out",
        str(video.parent / "out"),
        *_OPTIONS,
    ]
    child = os.posix_spawn(program, arguments, os.environ)
    _, status, usage = os.wait4(child, 0)
    if status:
        raise RuntimeError(f"{video.name}: fcos predict ended with status {os.waitstatus_to_exitcode(status)}")
    return Run(int(video.stem), usage.ru_maxrss / 1000, time.perf_counter() - start)  # kilobytes on Linux


def card(runs: Sequence[Run]) -> str:
    """The card, in Markdown."""
    short, long = runs
    difference = 100 * (long.peak / short.peak - 1)
    verdict = "met" if difference <= 5 else "**missed**"
    rows = "\n".join(f"| {run.frames:,} | {run.peak:,.0f} MB | {run.seconds:,.1f} s |" for run in runs)
    rate = (long.frames - short.frames) / (long.seconds - short.seconds)
    width, height = _SIZE
    return f"""# Memory of videos, {today()}

{context()}

    python -m benchmarks.video_memory

`fcos predict VIDEO {" ".join(_OPTIONS)}`, in a process of its own.
The video has {width}×{height} pixels and one stream of sound, the detector is a `tiny` one without training at 96×128.
Frames are decoded, detected, tracked, drawn and encoded, and the sound is copied.

| frames | peak of resident memory | time |
|---|---|---|
{rows}

Peak at {long.frames:,} frames against {short.frames:,}: {difference:+.1f} %; goal at most +5 %: {verdict}.
Speed without the start: {rate:.0f} frames/s.
"""


if __name__ == "__main__":
    main()
