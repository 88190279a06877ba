"""Explanations against numbers computed by hand, for a 64×64 image that is not resized."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from click.testing import CliRunner

from fcos.config import PAPER, InputSize, ModelConfig
from fcos.detector import build
from fcos.weights import Description, save_detector
from pipeline.analysis import assignment
from pipeline.analysis.image_lookup import DataSet
from pipeline.cli import main
from pipeline.data import annotations
from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image
from pipeline.errors import PipelineError
from pipeline.visualization import boxes, contact_sheets, heat_colors
from pipeline.visualization.fonts import load_font

# Strides 8, 16 and 32: levels for sizes up to 64, up to 128, and more.
SMALL = replace(
    PAPER,
    backbone="tiny",
    pretrained=False,
    batch_norm="auto",
    frozen_stages=0,
    channels=16,
    tower_depth=1,
    levels=(3, 4, 5),
)
Box = tuple[float, float, float, float]


def assign(config: ModelConfig, boxes: list[Box], side: int = 64) -> assignment.ImageAssignment:
    """Boxes are x1, y1, x2, y2."""
    objects = [Annotation(i, 1, 1, (x1, y1, x2 - x1, y2 - y1), 1.0) for i, (x1, y1, x2, y2) in enumerate(boxes)]
    outputs = assignment.zero_outputs(config, assignment.input_locations(config, side, side), 1)
    labels = torch.zeros(len(boxes), dtype=torch.int64)
    return assignment.assign_image(config, outputs, objects, torch.tensor(boxes).view(-1, 4), labels)


def test_positives_of_a_box_by_hand() -> None:
    """P3 has locations at 4, 12, 20, … Less than 12 px from (20, 20) in x and y are 12, 20, 28: 3 × 3 locations."""
    (item,) = assign(SMALL, [(0, 0, 40, 40)]).objects
    assert item.positives == (9, 0, 0)
    assert item.centerness == 1
    assert item.unassigned_reason is None


def test_positives_on_two_levels_by_hand() -> None:
    (item,) = assign(SMALL, [(0, 0, 120, 120)], side=128).objects
    # P3 has 52, 60, 68 within 12 px of the center; only from the middle one is no side over 64 px away. P4 has 40, 56,
    # 72 within 24 px; no side is over 64 px from (56, 56), so the other eight are positive.
    assert item.positives == (1, 8, 0)


def test_an_image_without_objects() -> None:
    assigned = assign(SMALL, [])
    assert assigned.objects == ()
    assert not assigned.positive.any()


@pytest.mark.parametrize(
    ("config", "box", "expected"),
    [
        # P4 has a location every 16 px, the first at 8; P5 every 32 px, the first at 16.
        (replace(SMALL, levels=(4, 5)), (9, 9, 15, 15), "too small: no location inside its box of 6×6 px"),
        # Between the locations of P3, around location (8, 8) of P4.
        (SMALL, (5, 5, 11, 11), "too small for P4, and no other level has a location inside"),
        # Only P3 has locations with y = 28; from each of them a side is at least 60 px away.
        (
            replace(SMALL, levels=(3, 4), regression_ranges=(40.0,)),
            (0, 27, 120, 29),
            "too large for P3, and no other level",
        ),
        # 0.2 strides are 1.6, 3.2 and 6.4 px; the locations nearest to (22, 22) are 2, 2 and 6 px off.
        (
            replace(SMALL, center_sampling_radius=0.2, levels=(3, 4)),
            (4.5, 4.5, 31.5, 31.5),
            "no location within the radius of 0.2",
        ),
        (SMALL, (0, 0, 40, 40), "hidden: all its locations are assigned to smaller objects"),
        (replace(SMALL, assigner="atss"), (5, 5, 11, 11), "the assigner atss assigned no location"),
    ],
)
def test_why_an_object_has_no_location(config: ModelConfig, box: Box, expected: str) -> None:
    locations = assignment.input_locations(config, 128, 128)
    assert assignment.unassigned_reason(config, locations, torch.tensor(box, dtype=torch.float32)).startswith(expected)


def test_an_object_behind_another_is_hidden() -> None:
    """Both boxes contain the same nine locations, which are all assigned to the smaller box."""
    front, behind = assign(SMALL, [(1, 1, 39, 39), (0, 0, 40, 40)]).objects
    assert front.unassigned_reason is None
    assert behind.positives == (0, 0, 0)
    assert behind.unassigned_reason is not None
    assert behind.unassigned_reason.startswith("hidden")


@pytest.mark.parametrize("levels", [(3, 4, 5), (3, 4, 5, 6, 7)])
def test_locations_equal_those_of_the_detector(levels: tuple[int, ...]) -> None:
    detector = build(replace(SMALL, levels=levels), 1).eval()
    with torch.inference_mode():
        locations = detector(detector.prepare([torch.zeros(3, 140, 290, dtype=torch.uint8)])).locations
    here = assignment.input_locations(detector.config, 140, 290)
    assert here.grids == locations.grids
    assert torch.equal(here.xy, locations.xy)


@pytest.fixture
def project(home: Path, setting: Callable[..., None], picture: Callable[..., Path]) -> Path:
    """A workspace with three images. The first has an object, one without a location, a difficult one and a crowd."""
    setting(**{"train.size": [64, 64]})
    raw = home / "data/raw/digits"
    for number, name in enumerate(["a/one.png", "b/one.png", "c.png"]):
        picture(raw / name, (64, 64), number)
    boxes = [(0.0, 0.0, 40.0, 40.0), (5.0, 5.0, 6.0, 6.0), (50.0, 50.0, 10.0, 10.0), (1.0, 1.0, 60.0, 60.0)]
    objects = [Annotation(i, 1, 4, box, 9.0, iscrowd=int(i == 3), difficult=int(i == 2)) for i, box in enumerate(boxes)]
    classes = (Category(2, "cat"), Category(4, "dog"))
    train = AnnotationSet(classes, (Image(1, "a/one.png", 64, 64), Image(2, "c.png", 64, 64)), tuple(objects))
    annotations.write(train, home / "data/unified/train.json")
    val = AnnotationSet(classes, (Image(1, "b/one.png", 64, 64),), ())
    annotations.write(val, home / "data/unified/val.json")
    return home


def run(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["explain", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def save_weights(home: Path) -> Path:
    torch.manual_seed(0)
    path = home / "models/detector.safetensors"
    description = Description(model=SMALL, categories=((2, "cat"), (4, "dog")), input_size=InputSize((64, 64)))
    save_detector(build(SMALL, 2), description, path)
    return path


@pytest.mark.usefixtures("project")
def test_explain_without_a_detector() -> None:
    code, out, err = run("a/one.png")
    assert code == 0
    assert out == (
        "a/one.png (train): 2 objects, 9 positive locations (P3 9, P4 0, P5 0), 1 without a location: "
        "dog (too small for P4, and no other level has a location inside)\n"
    )
    assert "no heat maps" in err
    assert "dvc repro train" in err
    assert sorted(file.name for file in Path("explained").iterdir()) == ["explained.json", "one-centers.jpg"]
    (record,) = json.loads(Path("explained/explained.json").read_text())
    assert record["network_size"] == [64, 64]
    assert record["left_out"] == 2
    assert [level["range"] for level in record["levels"]] == [[0, 64], [64, 128], [128, None]]
    assert [level["positives"] for level in record["levels"]] == [9, 0, 0]
    assert record["objects"][0]["positives"] == {"P3": 9, "P4": 0, "P5": 0}
    assert record["objects"][0]["without_location"] is None
    assert record["objects"][1]["bbox"] == [5, 5, 6, 6]


def test_heat_maps_of_images_in_and_outside_the_data_set(project: Path, picture: Callable[..., Path]) -> None:
    save_weights(project)
    other = picture(project / "elsewhere/one.png", (50, 30))
    code, out, err = run("c.png", other, "--out", "out")
    assert code == 0, err
    assert "c.png (train): 0 objects, 0 positive locations" in out
    assert f"{other}: no ground truth, 0 detections" in out
    names = ["c-centers.jpg", "c-heat.jpg", "explained.json", "one-heat.jpg"]
    assert sorted(file.name for file in Path("out").iterdir()) == names
    known, unknown = json.loads(Path("out/explained.json").read_text())
    assert "objects" not in unknown
    assert unknown["detector"]["network_size"] == [38, 64]
    assert [set(level) for level in known["detector"]["levels"]] == [
        {"name", "highest_class", "highest_centerness"}
    ] * 3


def test_detections_are_post_processed_as_params_yaml_or_options_say(
    project: Path, setting: Callable[..., None]
) -> None:
    """A detector that is sure of an object at every location."""
    detector = build(SMALL, 2)
    torch.nn.init.constant_(detector.head.class_logits.bias, 5.0)
    description = Description(model=SMALL, categories=((2, "cat"), (4, "dog")), input_size=InputSize((64, 64)))
    save_detector(detector, description, project / "models/detector.safetensors")

    def detections(*options: str) -> int:
        code, _, err = run("c.png", *options)
        assert code == 0, err
        (record,) = json.loads(Path("explained/explained.json").read_text())
        return int(record["detector"]["detections"])

    assert detections() > 3
    setting(**{"postprocess.max_detections": 1})
    assert detections() == 1
    assert detections("--max-detections", "3") == 3
    assert detections("--score", "0.9999") == 0


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["one.png"], r"one.png: 2 images have this name: a/one.png (train), b/one.png (val); give the path"),
        (["none.png"], "none.png: no such file, and no such image of train, val in data/unified"),
        (["data"], "data: is a folder; give the images in it"),
        (["c.png", "--weights", "none.safetensors"], "none.safetensors: no such file"),
        (["c.png", "--split", "test"], "data/unified/test.json: does not exist yet; run `dvc repro convert` first"),
        (["c.png", "--split", "val"], "c.png: no such file, and no such image of val in data/unified"),
        (["params.yaml"], "params.yaml: not in data/unified, and there is no trained detector, so nothing to explain"),
    ],
)
def test_errors_are_one_line(arguments: list[str], message: str) -> None:
    code, out, err = run(*arguments)
    assert code == 1
    assert out == ""
    assert message in err.splitlines()[-1]
    assert not Path("explained").exists()


def test_without_unified_data(home: Path) -> None:
    code, _, err = run("c.png")
    assert code == 1
    assert err == f"fcos: {home}/data/unified: does not exist yet; run `dvc repro convert` first\n"


@pytest.mark.usefixtures("project")
def test_an_assigner_that_needs_predictions_needs_a_detector(setting: Callable[..., None]) -> None:
    setting(**{"model.assigner": "task_aligned"})
    code, _, err = run("c.png")
    assert code == 1
    assert "model.assigner task_aligned needs the predictions of a trained detector, and there is none" in err


def test_an_input_is_never_overwritten(project: Path, picture: Callable[..., Path]) -> None:
    path = picture(project / "data/raw/digits/c-centers.jpg")
    save_weights(project)
    before = path.read_bytes()
    code, _, err = run("c.png", path, "--out", path.parent)
    assert code == 1
    assert "c-centers.jpg: is an input, and a picture would overwrite it; choose another --out" in err
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["c.png", "data/raw/digits/c.png", "{home}/data/raw/digits/c.png", "link/c.png"])
def test_an_image_is_found_by_name_and_by_path(project: Path, name: str) -> None:
    (project / "link").symlink_to(project / "data/raw/digits")
    found = DataSet(project, "digits").find(Path(name.format(home=project)))
    assert (found.name, found.split) == ("c.png", "train")


def test_a_split_makes_a_file_name_unambiguous(project: Path) -> None:
    assert DataSet(project, "digits", "val").find(Path("one.png")).name == "b/one.png"


def test_a_missing_image_is_named(project: Path) -> None:
    (project / "data/raw/digits/c.png").unlink()
    with pytest.raises(PipelineError, match=r"c\.png: no such file; run `dvc repro download`"):
        DataSet(project, "digits").find(Path("c.png"))


def test_object_colors_are_distinct_and_bright() -> None:
    assert len({boxes.object_color(index) for index in range(60)}) == 60
    assert all(max(boxes.object_color(index)) >= 230 for index in range(60))


def test_heat_colors_grow_brighter() -> None:
    brightness = heat_colors.heat_color(np.linspace(0, 1, 50)) @ [0.299, 0.587, 0.114]
    assert (np.diff(brightness) > 0).all()


def test_a_heat_map_covers_its_area() -> None:
    """Two cells over the right half of an image: the upper has the value 0, the lower the value 1."""
    black = PIL.Image.new("RGB", (40, 20))
    pixels = np.asarray(heat_colors.overlay_heat(black, np.array([[0.0], [1.0]]), (20, 0, 40, 20)))
    assert (pixels[:10, 20:] == pixels[0, 20]).all()
    assert (pixels[10:, 20:] == (252, 255, 164)).all()


def test_wrapped_lines_fit_the_width() -> None:
    text = "a location learns the object of its color"
    lines = contact_sheets.wrap_text(text, 20, 150)
    assert " ".join(line.text for line in lines) == text
    assert len(lines) > 1
    assert all(load_font(20).getlength(line.text) <= 150 for line in lines)
    assert contact_sheets.wrap_text("", 20, 150) == []


def test_a_dot_has_the_right_position_and_area() -> None:
    pixels = np.asarray(boxes.draw_dots(PIL.Image.new("RGB", (40, 40)), [boxes.Dot(10, 20, 6, (255, 0, 0))]))
    ys, xs = np.nonzero(pixels[..., 0] > 250)
    assert abs(xs.mean() + 0.5 - 10) < 0.5
    assert abs(ys.mean() + 0.5 - 20) < 0.5
    assert 60 < len(xs) < 113  # π·6², less the rim
