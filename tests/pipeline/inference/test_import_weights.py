"""`fcos import-weights` on state dicts of torchvision's model with random weights."""

import argparse
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from torchvision.models.detection import FCOS

from fcos.config import InputSize
from fcos.inference import detect
from fcos.torchvision_weights import TORCHVISION_POSTPROCESS, coco_categories
from pipeline.cli import main
from pipeline.data.images import read_image
from pipeline.errors import PipelineError
from pipeline.inference.import_weights import read_detector
from pipeline.inference.saved_detector import SavedDetector

SIZE = (160, 240)


@pytest.fixture(scope="module")
def small(random_fcos: Callable[[int], FCOS]) -> FCOS:
    return random_fcos(4)


@pytest.fixture(scope="module")
def small_file(small: FCOS, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "small.pth"
    torch.save({"model": small.state_dict(), "epoch": 3}, path)
    return path


def write_categories(path: Path, names: dict[int, str]) -> Path:
    path.write_text(json.dumps({"categories": [{"id": id, "name": name} for id, name in names.items()]}))
    return path


def test_91_classes_of_coco_become_80_with_the_same_detections(
    random_fcos: Callable[[int], FCOS], tmp_path: Path, picture: Callable[..., Path]
) -> None:
    theirs = random_fcos(91)
    unused = [row for row in range(91) if row not in dict(coco_categories())]
    with torch.no_grad():  # as after training on COCO: an unused id is never detected
        theirs.head.classification_head.cls_logits.bias[unused] = -100
    theirs.transform.min_size, theirs.transform.max_size = SIZE[:1], SIZE[1]
    theirs.detections_per_img = 10**6
    file, out, image = tmp_path / "coco.safetensors", tmp_path / "models/detector.safetensors", tmp_path / "image.png"
    save_file(theirs.state_dict(), file)
    picture(image, (230, 160))  # as high as SIZE: neither model resizes it
    result = CliRunner().invoke(main, ["import-weights", str(file), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "80 classes" in result.output
    model = SavedDetector.load(out, torch.device("cpu"))
    assert model.description.input_size == InputSize((800, 1333))
    assert model.description.categories == coco_categories()
    pixels = read_image(image)
    (detections,) = detect(model.detector, [pixels], InputSize(SIZE), TORCHVISION_POSTPROCESS)
    with torch.no_grad():
        (expected,) = theirs([pixels / 255])
    assert len(detections) == 100
    whole = (expected["boxes"][:, 2:] > expected["boxes"][:, :2]).all(dim=-1)  # torchvision keeps boxes without area
    scores, boxes, labels = (expected[name][whole][:100] for name in ("scores", "boxes", "labels"))
    torch.testing.assert_close(detections.scores, scores, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(detections.boxes, boxes, rtol=1e-4, atol=1e-2)
    assert [model.description.categories[label][0] for label in detections.labels] == labels.tolist()


def test_categories_match_rows_by_order_or_by_id(small: FCOS, small_file: Path, tmp_path: Path) -> None:
    weight = small.head.classification_head.cls_logits.weight
    detector, categories = read_detector(small_file)
    assert categories == ((1, "class_1"), (2, "class_2"), (3, "class_3"))
    assert torch.equal(detector.head.class_logits.weight, weight[1:])
    _, categories = read_detector(
        small_file, write_categories(tmp_path / "names.json", {10: "cat", 20: "dog", 30: "cow"})
    )
    assert categories == ((10, "cat"), (20, "dog"), (30, "cow"))
    detector, categories = read_detector(small_file, write_categories(tmp_path / "ids.json", {3: "cow", 1: "cat"}))
    assert categories == ((1, "cat"), (3, "cow"))
    assert torch.equal(detector.head.class_logits.weight, weight[[1, 3]])


@pytest.mark.parametrize(
    ("names", "problem"),
    [({10: "cat", 20: "dog"}, "2 categories, but the weights have 3 classes"), ({}, "not a COCO JSON")],
)
def test_categories_that_do_not_match_the_weights(
    small_file: Path, tmp_path: Path, names: dict[int, str], problem: str
) -> None:
    with pytest.raises(PipelineError, match=problem):
        read_detector(small_file, write_categories(tmp_path / "names.json", names))


class Call:
    """What pickle turns into a call of a function."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def test_a_reference_checkpoint_and_the_prefix_of_wrappers(small: FCOS, small_file: Path, tmp_path: Path) -> None:
    """As torchvision's training reference, DataParallel, an average of the weights, and Lightning write them."""
    state = small.state_dict()
    wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
    arguments = argparse.Namespace(lr=0.1, path=Path("x"), device=torch.device("cpu"), best=np.float64(0.5))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1])
    others = {"optimizer": optimizer.state_dict(), "lr_scheduler": schedule.state_dict(), "args": arguments, "epoch": 3}
    contents: list[object] = [
        {"model": state, **others},
        wrapped,
        {"model": wrapped, **others},
        {"n_averaged": torch.tensor(3), **wrapped},
        {"state_dict": {f"model.{name}": tensor for name, tensor in state.items()}, "hyper_parameters": arguments},
    ]
    expected = read_detector(small_file)[0].state_dict()
    old = {"model": state, "args": argparse.Namespace(lr=0.1, path=Path("x"))}  # as torch before 1.6 writes it
    for number, (content, zipped) in enumerate([*((content, True) for content in contents), (old, False)]):
        torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
        found = read_detector(tmp_path / "x.pth")[0].state_dict()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items()), number


@pytest.mark.parametrize(
    ("function", "name"), [(os.system, "posix.system"), (eval, "builtins.eval"), (subprocess.call, "commands.call")]
)
def test_code_in_a_file_never_runs(small: FCOS, tmp_path: Path, function: Callable[..., object], name: str) -> None:
    argument = f"open({str(tmp_path / 'ran')!r}, 'w')" if function is eval else f"touch {tmp_path / 'ran'}"
    torch.save({"model": small.state_dict(), "args": Call(function, argument)}, tmp_path / "x.pth")
    with pytest.raises(
        PipelineError, match=rf"x\.pth: reading it would run code \({name}\): get the weights from another"
    ):
        read_detector(tmp_path / "x.pth")
    assert not (tmp_path / "ran").exists()


def test_objects_of_other_packages_are_ignored(small: FCOS, small_file: Path, tmp_path: Path) -> None:
    """A class of a module that isn't installed here, with arguments and a state."""
    torch.save({"model": small.state_dict(), "config": Call(pytest.approx, 3)}, tmp_path / "x.pth")
    found, expected = read_detector(tmp_path / "x.pth")[0], read_detector(small_file)[0]
    assert torch.equal(found.head.class_logits.weight, expected.head.class_logits.weight)


def test_a_compressed_checkpoint_is_refused(tmp_path: Path) -> None:
    torch.save({"x": torch.zeros(10**6)}, tmp_path / "stored.pth")
    with ZipFile(tmp_path / "stored.pth") as stored, ZipFile(tmp_path / "x.pth", "w", ZIP_DEFLATED) as compressed:
        for name in stored.namelist():
            compressed.writestr(name, stored.read(name))
    with pytest.raises(PipelineError, match=r"x\.pth: its tensors are compressed, so torch\.save did not write it"):
        read_detector(tmp_path / "x.pth")


def test_a_state_dict_that_differs_is_said_completely(small: FCOS, tmp_path: Path) -> None:
    state = small.state_dict()
    del state["backbone.body.conv1.weight"]
    state["head.extra"] = torch.ones(2)
    state["backbone.body.bn1.weight"] = torch.ones(3)
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(PipelineError) as caught:
        read_detector(tmp_path / "x.pth")
    assert str(caught.value) == (
        f"{tmp_path / 'x.pth'}: not a state dict of torchvision's fcos_resnet50_fpn: 1 tensor is missing, such as "
        "backbone.parts.0.0.weight; 1 tensor is unknown, such as head.extra; backbone.parts.0.1.weight has the shape "
        "[3] instead of [64]"
    )


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("none.pth", None, "no such file"),
        ("bytes.pth", b"no weights", "damaged, or not a file that torch.save wrote"),
        ("empty.pth", b"", "damaged, or not a file that torch.save wrote"),
        ("four.pth", bytes(4), "damaged, or not a file that torch.save wrote"),
        ("bytes.safetensors", b"no weights", "damaged, or not a safetensors file"),
        ("four.safetensors", bytes(4), "damaged, or not a safetensors file"),
        ("object.pth", {"model": Path("x")}, "contains no state dict"),
        (
            "module.pth",
            torch.nn.Linear(2, 2),
            "contains no state dict (names mapped to tensors): save model.",
        ),
        ("list.pth", [torch.ones(1)], "contains no state dict"),
        ("other.pth", {"fc.weight": torch.ones(1)}, "not a state dict of torchvision's fcos_resnet50_fpn"),
    ],
)
def test_an_invalid_file_is_a_one_line_error(tmp_path: Path, name: str, content: object, problem: str) -> None:
    file, out = tmp_path / name, tmp_path / "out.safetensors"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        torch.save(content, file)
    result = CliRunner().invoke(main, ["import-weights", str(file), "--out", str(out)])
    assert result.exit_code == 1
    assert problem in result.stderr
    assert result.stderr.count("\n") == 1
    assert not out.exists()
