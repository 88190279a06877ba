"""Sides that take turns, and the card of their times."""

from pathlib import Path

import pytest

from benchmarks import turns


def test_sides_take_turns() -> None:
    calls: list[str] = []
    sides = {name: lambda name=name: calls.append(name) for name in ("float32", "bf16")}
    assert turns.compare(sides, repeats=2, warmup=1).keys() == sides.keys()
    assert calls == ["float32", "bf16"] * 3


def test_a_card_of_all_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared: list[str] = []

    def prepare() -> dict[str, turns.Side]:
        prepared.append("row")
        return {"torch": lambda: None, "ours": lambda: None}

    def card(rows: turns.Rows, repeats: int) -> str:
        return f"# {sorted(rows['row'])}, {repeats}\n"

    monkeypatch.setattr("sys.argv", ["turns", "--repeats", "2", "--out", str(tmp_path)])
    turns.main({"row": prepare}, card, kind="turns", about="")
    (path,) = tmp_path.iterdir()
    assert path.name.endswith("-turns.md")
    assert path.read_text() == "# ['ours', 'torch'], 2\n"
    assert prepared == ["row"]
    assert str(path) in capsys.readouterr().out
