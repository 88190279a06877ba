"""The memory and the cores that a container or a job may use: the limits of its cgroups, version 2, on Linux."""

import math
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


def memory_below_limit() -> float:
    """Bytes until the process reaches the memory limit of a cgroup; infinity without a limit."""
    return min((_room(folder) for folder in _cgroups() if (folder / "memory.max").is_file()), default=math.inf)


def _room(folder: Path) -> float:
    limit = (folder / "memory.max").read_text().strip()
    if limit == "max":
        return math.inf
    # Cached file contents count as used, but give way to a program that needs memory.
    status = (folder / "memory.stat").read_text().splitlines()
    cached = next((int(line.split()[1]) for line in status if line.startswith("inactive_file ")), 0)
    return max(0, int(limit) - int((folder / "memory.current").read_text()) + cached)


def core_limit() -> float:
    """Cores whose time the process may use, maybe a fraction; infinity without a limit."""
    return min(
        (_cores(folder / "cpu.max") for folder in _cgroups() if (folder / "cpu.max").is_file()), default=math.inf
    )


def _cores(file: Path) -> float:
    quota, period = file.read_text().split()
    return math.inf if quota == "max" else int(quota) / int(period)


def _cgroups() -> Iterator[Path]:
    """The folders of the process's cgroup and of those around it, whose limits hold, too."""
    lines = _MEMBERSHIP.read_text().splitlines() if _MEMBERSHIP.is_file() else []
    for line in lines:
        if line.startswith("0::/"):
            folder = _ROOT / line.removeprefix("0::/")
            yield from [folder, *(parent for parent in folder.parents if parent.is_relative_to(_ROOT))]
