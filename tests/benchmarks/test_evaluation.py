"""The measurement of the evaluation, on little data."""

import sys

import pytest

from benchmarks import evaluation


def test_scenes_have_the_stated_size_and_every_part_is_timed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["evaluation", "5", "40", "20"])
    monkeypatch.setattr(evaluation, "write_plots", lambda *_: None)  # 80 classes take seconds
    evaluation.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "5 images, 40 objects, 100 detections, 80 classes"
    assert [line.split(" | ")[0] for line in lines[4:6]] == [
        "| write detections",
        "| read detections (`fcos evaluate` alone)",
    ]
    assert float(lines[-1].split(": ")[1]) < 1e-9
