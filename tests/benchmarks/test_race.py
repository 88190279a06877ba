"""The race: both sides train for the time they have, on the same images, and its table tells who was ahead when."""

from pathlib import Path

import pytest
import torch

from benchmarks import tiles
from benchmarks.race import __main__ as race
from benchmarks.race import ours, torchvision_fcos
from benchmarks.race.results import parse, table, to_line
from benchmarks.race.scoring import Race, Result
from benchmarks.race.torchvision_fcos import Loop, Pictures, make_model
from benchmarks.tiles import make_split
from pipeline import recipes
from pipeline.data.annotations import AnnotationSet
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
        "| bccd | 0 | ours | lr 0.001 | 12 | 600 | 60.0 (55.0 to 65.0) | 90.0 (85.0 to –) | – | 300 s |",
        "| bccd | 0 | torchvision | lr 0.001 | 12 | 600 | 55.0 (50.0 to 60.0) | 90.0 (85.0 to –) | – | – |",
        "| bccd | 1 | ours | lr 0.001 | 12 | 600 | 58.0 (53.0 to 63.0) | 90.0 (85.0 to –) | – | – |",
    ]


def test_results_survive_their_file() -> None:
    result = _result("ours", 0, 0.6, [(100, 0.4, 0.8)])
    assert table([parse(to_line(result))]) == table([result])


def test_without_results_there_is_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = tmp_path / "race.jsonl"
    monkeypatch.setattr("sys.argv", ["race", "table", "--results", str(missing)])
    with pytest.raises(SystemExit) as ended:
        race.main()
    assert ended.value.code == f"{missing}: no results; run a race first"


def test_as_many_whole_epochs_as_fit_and_at_least_one(tmp_path: Path) -> None:
    nothing = AnnotationSet((), (), ())
    assert Race("bccd", tmp_path, nothing, nothing, seconds=100).epochs(step=0.5, steps=60) == 3
    assert Race("bccd", tmp_path, nothing, nothing, seconds=1).epochs(step=0.5, steps=60) == 1


def test_validations_of_a_training(tmp_path: Path) -> None:
    nothing = AnnotationSet((), (), ())
    assert Race("bccd", tmp_path, nothing, nothing, seconds=1).validate_every(24) == 3
    assert Race("bccd", tmp_path, nothing, nothing, seconds=1).validate_every(3) == 1
    assert Race("bccd", tmp_path, nothing, nothing, seconds=1, validations=1).validate_every(24) == 24


def test_both_sides_train_and_are_scored_on_the_same_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "_SCENE", 96)
    for side in (ours, torchvision_fcos):
        monkeypatch.setattr(side, "TIMED_STEPS", 1)
    split = make_split(tmp_path, "train", scenes=4, count=4)
    small = ["train.size=[64, 64]", "train.batch_size=2", "model.backbone=resnet18", "model.pretrained=false"]
    params = override(recipes.load("lite0_small"), small)
    contest = Race("bccd", tmp_path, split, split, seconds=0.01)
    results = [ours.run(contest, params, "small"), Loop(contest, params, lr=0.001).run()]
    for result in results:
        assert result.epochs == 1
        assert len(result.curve) == 1
        assert result.metrics["AP"] is not None
        assert result.seconds > 0.01
    assert results[0].settings == "small"
    assert results[1].settings in ("lr 0.001, bf16", "lr 0.001, float32")


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
    tower = [layer for layer in model.head.regression_head.conv if isinstance(layer, torch.nn.Conv2d)]
    assert len(tower) == params.model.tower_depth
    with_p6 = make_model(override(params, ["model.levels=[3, 4, 5, 6]"]), 3)
    assert len(with_p6.anchor_generator.sizes) == 5
