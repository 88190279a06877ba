"""Memory and cores that a container leaves."""

import math
from pathlib import Path

import pytest
import torch

from pipeline.analysis import auto_facts, resource_limits


def test_limits_of_cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The narrowest limit holds, of the process's cgroup or of one around it; cached files give way."""
    job = tmp_path / "jobs/7"
    job.mkdir(parents=True)
    files = {
        job / "memory.max": "max", job / "cpu.max": "max 100000", job.parent / "cpu.max": "250000 100000",
        job.parent / "memory.max": "1000", job.parent / "memory.current": "700",
        job.parent / "memory.stat": "anon 450\ninactive_file 250\n", tmp_path / "membership": "0::/jobs/7\n",
    }  # fmt: skip
    for file, text in files.items():
        file.write_text(text)
    monkeypatch.setattr(resource_limits, "_ROOT", tmp_path)
    monkeypatch.setattr(resource_limits, "_MEMBERSHIP", tmp_path / "membership")
    assert (resource_limits.memory_below_limit(), resource_limits.core_limit()) == (550, 2.5)
    monkeypatch.setattr(auto_facts, "core_limit", lambda: 0.5)
    monkeypatch.setattr(auto_facts, "memory_below_limit", lambda: 4096.0)
    assert (auto_facts.usable_cores(), auto_facts.free_memory(torch.device("cpu"))) == (1, 4096)
    (tmp_path / "membership").write_text("4:memory:/jobs\n")
    assert (resource_limits.memory_below_limit(), resource_limits.core_limit()) == (math.inf, math.inf)
