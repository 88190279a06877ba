"""Shared by all measurements: timing two sides in turn in one process, and dated cards with machine and results."""

import datetime
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from torch.profiler import ProfilerActivity, profile

from pipeline.files import write_text

Side = Callable[[], object]


class Unavailable(Exception):
    """A measurement cannot run on this machine; the message says in one line what is missing."""


@dataclass(frozen=True)
class Measurement:
    """A comparison: our side must be at least `goal` times as fast as theirs."""

    name: str
    goal: float
    # Builds both sides, ours first; raises Unavailable if this machine lacks what they need.
    prepare: Callable[[], tuple[Side, Side]]


@dataclass(frozen=True)
class Limit:
    """A quantity of our side that must stay below a limit."""

    name: str
    limit: float
    unit: str
    measure: Callable[[], float]  # in the unit; raises Unavailable


@dataclass(frozen=True)
class Times:
    """Median and quartiles of the seconds that one side took."""

    median: float
    low: float  # first quartile
    high: float  # third quartile


@dataclass(frozen=True)
class Comparison:
    """Both sides' times."""

    ours: Times
    theirs: Times

    @property
    def ratio(self) -> float:
        """Their median time divided by ours."""
        return self.theirs.median / self.ours.median


@dataclass(frozen=True)
class Result:
    """The result of a measurement or a limit: a table row, or the reason why there is none."""

    name: str
    goal: str
    ours: str = ""
    theirs: str = ""
    ratio: str = ""
    met: bool = True
    unavailable: str = ""
    profile: str = ""  # if the goal was missed: the operators that our side spends its time on


def compare(ours: Side, theirs: Side, *, repeats: int, warmup: int) -> Comparison:
    """Times two callables in turn, so that other load on the machine affects both equally.

    Args:
        repeats: timed calls of each side; which side goes first alternates.
        warmup: untimed calls of each side before those.
    """
    for _ in range(warmup):
        ours()
        theirs()
    sides: list[tuple[Side, list[float]]] = [(ours, []), (theirs, [])]
    for repeat in range(repeats):
        for side, seconds in sides if repeat % 2 == 0 else reversed(sides):
            seconds.append(seconds_of(side))
    (_, our_seconds), (_, their_seconds) = sides
    return Comparison(times(our_seconds), times(their_seconds))


def seconds_of(call: Callable[[], object]) -> float:
    """The seconds that a call takes, including the work that it starts on a GPU."""
    _wait_for_gpu()
    start = time.perf_counter()
    call()
    _wait_for_gpu()
    return time.perf_counter() - start


def _wait_for_gpu() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def times(seconds: Sequence[float]) -> Times:
    """Median and quartiles; all three are the same for a single repeat."""
    if len(seconds) == 1:
        return Times(seconds[0], seconds[0], seconds[0])
    low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return Times(median, low, high)


def measure(measurement: Measurement, *, repeats: int, warmup: int) -> Result:
    """Prepares and compares both sides; profiles ours if it misses the goal."""
    goal = f"≥ {measurement.goal:g}×"
    try:
        ours, theirs = measurement.prepare()
    except Unavailable as missing:
        return Result(measurement.name, goal, unavailable=str(missing))
    comparison = compare(ours, theirs, repeats=repeats, warmup=warmup)
    met = comparison.ratio >= measurement.goal
    return Result(
        name=measurement.name,
        goal=goal,
        ours=_format_times(comparison.ours),
        theirs=_format_times(comparison.theirs),
        ratio=f"{comparison.ratio:.2f}×",
        met=met,
        profile="" if met else operators(ours),
    )


def check(limit: Limit) -> Result:
    """Measures a quantity and compares it with its limit."""
    goal = f"< {limit.limit:g} {limit.unit}"
    try:
        value = limit.measure()
    except Unavailable as missing:
        return Result(limit.name, goal, unavailable=str(missing))
    return Result(limit.name, goal, ours=f"{value:.3g} {limit.unit}", met=value < limit.limit)


def operators(side: Side) -> str:
    """The eight operators with the longest self time in a call, as a table of torch.profiler."""
    cuda = torch.cuda.is_available()
    with profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * cuda]) as profiler:
        side()
        _wait_for_gpu()
    column = "self_cuda_time_total" if cuda else "self_cpu_time_total"
    return str(profiler.key_averages().table(sort_by=column, row_limit=8, max_name_column_width=40))


def _format_times(seconds: Times) -> str:
    scale, unit = (1e3, "ms") if seconds.median < 1 else (1.0, "s")
    return f"{seconds.median * scale:.3g} {unit} ({seconds.low * scale:.3g}–{seconds.high * scale:.3g})"


def context() -> str:
    """The first line of every card: date, commit and machine."""
    return f"{today()} · commit {commit()} · {machine()}"


def today() -> str:
    return datetime.date.today().isoformat()


def commit() -> str:
    """The abbreviated commit hash, and whether there are uncommitted changes."""
    try:
        name = _git("rev-parse", "--short", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no")
    except (FileNotFoundError, subprocess.CalledProcessError):
        return "unknown"
    return f"{name} with uncommitted changes" if changed else name


def _git(*arguments: str) -> str:
    folder = Path(__file__).parent
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def machine() -> str:
    """Processor, threads, GPU and versions, which the numbers depend on; not the host name."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parts = [
        f"{cores} cores of {_processor()}",
        f"{torch.get_num_threads()} threads",
        torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU",
        f"Python {platform.python_version()}",
        f"torch {torch.__version__}",
        f"torchvision {torchvision.__version__}",
    ]
    return ", ".join(parts)


def _processor() -> str:
    """The processor's model and its widest vector instructions: `Intel Xeon … (AVX512)`."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    model = models[0] if models else platform.processor() or platform.machine()
    return f"{model} ({torch.backends.cpu.get_cpu_capability()})"


def save_card(text: str, kind: str, folder: Path) -> Path:
    """Writes `<date>-<kind>.md`, or `<date>-<kind>-2.md` and so on if that exists, and never overwrites a card."""
    path, number = folder / f"{today()}-{kind}.md", 2
    while path.exists():
        path, number = folder / f"{today()}-{kind}-{number}.md", number + 1
    write_text(path, text)
    return path


def bench_card(results: Sequence[Result], *, command: str, repeats: int, warmup: int) -> str:
    """The card of a `make bench`: table, reasons for missing results, profiles of missed goals, a section for notes."""
    missing = [f"- {result.name}: {result.unavailable}" for result in results if result.unavailable]
    profiles = [f"### {result.name}\n\n```\n{result.profile.strip()}\n```" for result in results if result.profile]
    blocks = [
        f"# Side by side, {today()}",
        context(),
        f"    {command}",
        table(results),
        f"Medians of {repeats} repeats after {warmup} warm-up calls, both sides in turn in one process; "
        "quartiles in parentheses.",
    ]
    if missing:
        blocks += ["## Not measured", "\n".join(missing)]
    if profiles:
        blocks += ["## Profiles of missed goals", *profiles]
    blocks += ["## Notes", "None yet."]
    return "\n\n".join(blocks) + "\n"


def table(results: Sequence[Result]) -> str:
    """A Markdown table of all available results."""
    rows = ["| measurement | ours | theirs | ratio | goal | |", "|---|---|---|---|---|---|"]
    for result in results:
        if not result.unavailable:
            verdict = "met" if result.met else "**missed**"
            cells = (result.name, result.ours, result.theirs, result.ratio, result.goal, verdict)
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)
