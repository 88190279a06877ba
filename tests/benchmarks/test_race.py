"""The race: both sides train for the time they have, on the same images, and its table tells who was ahead when."""

from pathlib import Path

import pytest
import torch

from benchmarks import race, tiles
from benchmarks.race import Loop, Pictures, Race, Result, epochs_for, make_model, run_ours, table
from benchmarks.tiles import make_split
from pipeline import recipes
from pipeline.overrides import override


def _result(side: str, seed: int, ap: float, curve: list[tuple[float, float, float]]) -> Result:
    metrics = {"AP": ap, "AP50": 0.9, "AP75": None}
    intervals = {"AP": (ap - 0.05, ap + 0.05), "AP50": (0.85, None)}
    return Result("bccd", side, seed, "lr 0.001", 12, 599.6, metrics, intervals, curve)


def test_the_table_tells_when_each_side_had_the_others_final_ap() -> None:
    results = [
        _result("ours", 0, 0.6, [(100, 0.4, 0.8), (300.4, 0.56, 0.9), (599.6, 0.6, 0.9)]),
        _result("torchvision", 0, 0.55, [(300, 0.5, 0.8), (599.6, 0.55, 0.9)]),
        _result("ours", 1, 0.58, [(599.6, 0.58, 0.9)]),
    ]
    assert table(results).splitlines()[2:] == [
        "| bccd | 0 | ours | lr 0.001 | 12 | 600 | 60.0 (55.0–65.0) | 90.0 (85.0–0.0) | 0.0 | 300 s |",
        "| bccd | 0 | torchvision | lr 0.001 | 12 | 600 | 55.0 (50.0–60.0) | 90.0 (85.0–0.0) | 0.0 | – |",
        "| bccd | 1 | ours | lr 0.001 | 12 | 600 | 58.0 (53.0–63.0) | 90.0 (85.0–0.0) | 0.0 | – |",
    ]


def test_as_many_whole_epochs_as_fit_and_at_least_one() -> None:
    assert epochs_for(seconds=100, step=0.5, steps=60) == 3
    assert epochs_for(seconds=1, step=0.5, steps=60) == 1


def test_both_sides_train_and_are_scored_on_the_same_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "_SCENE", 96)
    monkeypatch.setattr(race, "_TIMED_STEPS", 1)
    split = make_split(tmp_path, "train", scenes=4, count=4)
    small = ["train.size=[64, 64]", "train.batch_size=2", "model.backbone=resnet18", "model.pretrained=false"]
    contest = Race("bccd", tmp_path, split, split, seconds=0.01)
    ours = run_ours(contest, 0, small)
    theirs = Loop(contest, override(recipes.load("lite0_small"), small), seed=0, lr=0.001).run()
    for result in (ours, theirs):
        assert result.epochs == 1
        assert len(result.curve) == 1
        assert result.metrics["AP"] is not None
        assert result.seconds > 0.01
    assert theirs.settings in ("lr 0.001, bf16", "lr 0.001, float32")


def test_pictures_and_boxes_are_mirrored_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "_SCENE", 96)
    split = make_split(tmp_path, "train", scenes=1, count=4)
    contest = Race("bccd", tmp_path, split, split, seconds=1)
    plain, boxes = (Pictures(contest, flip=False)[0][0], Pictures(contest, flip=False)[0][1]["boxes"])
    monkeypatch.setattr(torch, "rand", lambda *_: torch.tensor(0.2))
    mirrored, target = Pictures(contest, flip=True)[0]
    torch.testing.assert_close(mirrored.flip(-1), plain)
    torch.testing.assert_close(96 - target["boxes"][:, [2, 0]], boxes[:, [0, 2]])


def test_the_other_side_has_our_levels_and_towers() -> None:
    params = override(recipes.load("lite0_small"), ["model.backbone=resnet18", "model.pretrained=false"])
    model = make_model(params, 3)
    assert len(model.anchor_generator.sizes) == 3
    assert (
        sum(isinstance(layer, torch.nn.Conv2d) for layer in model.head.regression_head.conv) == params.model.tower_depth
    )
    with_p6 = make_model(override(params, ["model.levels=[3, 4, 5, 6]"]), 3)
    assert len(with_p6.anchor_generator.sizes) == 5
