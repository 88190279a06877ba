"""What all measurements share: two sides timed in turn in one process, and a dated card that says where and how."""

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
    """A measurement can't be made here; the message says what is missing, in one line."""


@dataclass(frozen=True)
class Measurement:
    """One comparison: ours must be at least `goal` times as fast as theirs."""

    name: str
    goal: float
    # Builds both sides, ours first; raises Unavailable where this machine lacks what they need.
    prepare: Callable[[], tuple[Side, Side]]


@dataclass(frozen=True)
class Limit:
    """One quantity of ours that must stay below a limit."""

    name: str
    limit: float
    unit: str
    measure: Callable[[], float]  # in the unit; raises Unavailable


@dataclass(frozen=True)
class Times:
    """Seconds that one side took."""

    median: float
    low: float  # a quarter of the repeats took less,
    high: float  # a quarter more


@dataclass(frozen=True)
class Comparison:
    """Both sides' times."""

    ours: Times
    theirs: Times

    @property
    def ratio(self) -> float:
        """How many times as fast ours is, by the medians."""
        return self.theirs.median / self.ours.median


@dataclass(frozen=True)
class Result:
    """What became of a measurement or a limit: a table row, or why there is none."""

    name: str
    goal: str
    ours: str = ""
    theirs: str = ""
    ratio: str = ""
    met: bool = True
    unavailable: str = ""
    profile: str = ""  # where the goal was missed: what ours spends its time on


def compare(ours: Side, theirs: Side, *, repeats: int, warmup: int) -> Comparison:
    """Times two callables in turn, so that whatever else the machine does meets both alike.

    Args:
        repeats: timed calls of each; the one that goes first changes from pair to pair.
        warmup: calls of each before that, not timed.
    """
    for _ in range(warmup):
        ours()
        theirs()
    sides: list[tuple[Side, list[float]]] = [(ours, []), (theirs, [])]
    for repeat in range(repeats):
        for side, taken in sides if repeat % 2 == 0 else reversed(sides):
            taken.append(_seconds(side))
    (_, of_ours), (_, of_theirs) = sides
    return Comparison(times(of_ours), times(of_theirs))


def _seconds(side: Side) -> float:
    """Of one call, until a GPU has done its part."""
    _wait_for_gpu()
    start = time.perf_counter()
    side()
    _wait_for_gpu()
    return time.perf_counter() - start


def _wait_for_gpu() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def times(seconds: Sequence[float]) -> Times:
    """Median and quartiles; of a single repeat, it itself."""
    if len(seconds) == 1:
        return Times(seconds[0], seconds[0], seconds[0])
    low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return Times(median, low, high)


def measure(measurement: Measurement, *, repeats: int, warmup: int) -> Result:
    """Prepares and compares; where ours misses the goal, also says what it spends its time on."""
    goal = f"≥ {measurement.goal:g}×"
    try:
        ours, theirs = measurement.prepare()
    except Unavailable as missing:
        return Result(measurement.name, goal, unavailable=str(missing))
    found = compare(ours, theirs, repeats=repeats, warmup=warmup)
    met = found.ratio >= measurement.goal
    return Result(
        name=measurement.name,
        goal=goal,
        ours=_shown(found.ours),
        theirs=_shown(found.theirs),
        ratio=f"{found.ratio:.2f}×",
        met=met,
        profile="" if met else operators(ours),
    )


def check(limit: Limit) -> Result:
    """Measures one quantity and holds it against its limit."""
    goal = f"< {limit.limit:g} {limit.unit}"
    try:
        value = limit.measure()
    except Unavailable as missing:
        return Result(limit.name, goal, unavailable=str(missing))
    return Result(limit.name, goal, ours=f"{value:.3g} {limit.unit}", met=value < limit.limit)


def operators(side: Side) -> str:
    """The eight operators that a call spends most of its own time in, as torch.profiler's table."""
    cuda = torch.cuda.is_available()
    with profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * cuda]) as profiled:
        side()
        _wait_for_gpu()
    column = "self_cuda_time_total" if cuda else "self_cpu_time_total"
    return str(profiled.key_averages().table(sort_by=column, row_limit=8, max_name_column_width=40))


def _shown(found: Times) -> str:
    scale, unit = (1e3, "ms") if found.median < 1 else (1.0, "s")
    return f"{found.median * scale:.3g} {unit} ({found.low * scale:.3g}–{found.high * scale:.3g})"


def context() -> str:
    """Date, commit and machine, in one line: what every card begins with."""
    return f"{today()} · commit {commit()} · {machine()}"


def today() -> str:
    return datetime.date.today().isoformat()


def commit() -> str:
    """Git's short name of the commit, and whether the files are still its own."""
    try:
        name = _git("rev-parse", "--short", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no")
    except (FileNotFoundError, subprocess.CalledProcessError):
        return "unknown"
    return f"{name} with uncommitted changes" if changed else name


def _git(*arguments: str) -> str:
    here = Path(__file__).parent
    return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()


def machine() -> str:
    """What numbers depend on: processor, GPU, versions; not the machine's name."""
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
    """The processor's model and its widest arithmetic: `Intel Xeon … (AVX512)`."""
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    model = models[0] if models else platform.processor() or platform.machine()
    return f"{model} ({torch.backends.cpu.get_cpu_capability()})"


def save_card(text: str, kind: str, folder: Path) -> Path:
    """Writes `<date>-<kind>.md`; a card that is there already keeps its notes, and the new one gets a number."""
    path, number = folder / f"{today()}-{kind}.md", 2
    while path.exists():
        path, number = folder / f"{today()}-{kind}-{number}.md", number + 1
    write_text(path, text)
    return path


def bench_card(results: Sequence[Result], *, command: str, repeats: int, warmup: int) -> str:
    """The card of one `make bench`: table, what wasn't measured, profiles of what missed its goal, room for notes."""
    missing = [f"- {result.name}: {result.unavailable}" for result in results if result.unavailable]
    profiles = [f"### {result.name}\n\n```\n{result.profile.strip()}\n```" for result in results if result.profile]
    blocks = [
        f"# Side by side, {today()}",
        context(),
        f"    {command}",
        table(results),
        f"Medians of {repeats} repeats, both sides in turn in one process, after {warmup} that don't count; "
        "in brackets the quartiles.",
    ]
    if missing:
        blocks += ["## Not measured here", "\n".join(missing)]
    if profiles:
        blocks += ["## What ours spends its time on, where it missed its goal", *profiles]
    blocks += ["## Notes", "None yet."]
    return "\n\n".join(blocks) + "\n"


def table(results: Sequence[Result]) -> str:
    """A Markdown table of everything measured."""
    rows = ["| what | ours | theirs | ratio | goal | |", "|---|---|---|---|---|---|"]
    for one in results:
        if not one.unavailable:
            verdict = "met" if one.met else "**missed**"
            rows.append(f"| {one.name} | {one.ours} | {one.theirs} | {one.ratio} | {one.goal} | {verdict} |")
    return "\n".join(rows)
