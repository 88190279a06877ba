"""`model.start_from`: files that are found, read and refused, and the detector that training starts with."""

import argparse
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torchvision.models import resnet18
from torchvision.models.detection import FCOS
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from fcos.backbones import build_backbone
from fcos.config import InputSize, ModelConfig
from fcos.detector import build
from fcos.torchvision_weights import coco_categories
from fcos.weights import Description, save_detector
from pipeline import params
from pipeline.errors import PipelineError
from pipeline.params import Params
from pipeline.training.initial_weights import find_weights, make_detector, read_source

FILE_CLASSES = ((4, "cat"), (7, "dog"))


def values(home: Path, **changes: object) -> Params:
    whole = params.load(home / "params.yaml")
    return replace(whole, model=replace(whole.model, channels=16, tower_depth=1, **changes))  # type: ignore[arg-type]


def write_detector(path: Path, config: ModelConfig, seed: int = 3) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    description = Description(model=config, categories=FILE_CLASSES, input_size=InputSize((320, 416)))
    save_detector(build(config, 2), description, path)
    return load_file(path)


def started(values: Params, *classes: str) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The weights that training starts with, and the lines for people."""
    lines: list[str] = []
    return make_detector(values, classes, torch.device("cpu"), lines.append).state_dict(), lines


def test_a_detector_in_the_default_folder_is_taken_and_the_rest_is_as_without_it(home: Path) -> None:
    wanted = values(home, levels=(3, 4, 5, 6))
    scratch, lines = started(wanted, "dog", "cow")
    assert lines == []
    given = write_detector(home / "data/start_from/mine.safetensors", values(home, levels=(3, 4)).model)
    state, lines = started(wanted, "dog", "cow")
    assert torch.equal(state["head.class_logits.weight"][0], given["head.class_logits.weight"][1])
    assert torch.equal(state["head.class_logits.weight"][1], scratch["head.class_logits.weight"][1])
    new = ("neck.extra", "neck.output.2", "head.class_logits", "head.scales")
    assert all(torch.equal(state[name], given[name]) for name in state if not name.startswith(new))
    assert all(torch.equal(state[name], scratch[name]) for name in state if name.startswith(new[:2]))
    total = sum(not name.endswith("num_batches_tracked") for name in state)
    assert lines == [
        f"model.start_from: {home}/data/start_from/mine.safetensors: took {total - 7} of {total} tensors; new: "
        "neck.output (2 tensors), neck.extra (2 tensors), head.scales (1 tensor), head.class_logits of 1 class not in "
        "the file (cow)"
    ]


def test_imagenet_weights_are_loaded_only_for_a_backbone_that_the_file_lacks(home: Path) -> None:
    """The file of `pretrained` does not exist, so that loading it is noticed."""
    config = values(home, pretrained="absent.pth").model
    write_detector(home / "data/start_from/x.safetensors", replace(config, pretrained=False, batch_norm="frozen"))
    state, lines = started(replace(values(home), model=config), "cat", "dog")
    assert lines[0].endswith("new: none")
    assert not any(name.endswith("num_batches_tracked") for name in state)  # frozen, as with pretrained weights
    with pytest.raises(PipelineError, match=r"model\.pretrained: .*absent\.pth: no such file"):
        started(values(home, pretrained="absent.pth", backbone="resnet18"), "cat", "dog")


def test_the_backbone_comes_from_pretrained_weights_if_the_file_has_another(home: Path) -> None:
    torch.manual_seed(9)
    resnet = build_backbone(values(home, backbone="resnet18").model).parts
    stem = resnet.state_dict()["0.0.weight"]
    torch.save({**resnet18().state_dict(), "conv1.weight": stem}, home / "imagenet.pth")
    given = write_detector(home / "data/start_from/x.safetensors", values(home).model)
    state, lines = started(values(home, backbone="resnet18", pretrained="imagenet.pth"), "cat", "dog")
    assert torch.equal(state["backbone.parts.0.0.weight"], stem)
    assert torch.equal(state["neck.output.0.weight"], given["neck.output.0.weight"])
    assert "new: backbone (" in lines[0]


@pytest.fixture(scope="module")
def torchvision_state() -> dict[str, torch.Tensor]:
    """Weights of torchvision's FCOS with a small ResNet, COCO's classes, and values that are all different."""
    torch.manual_seed(0)
    extra = LastLevelP6P7(256, 256)
    backbone = _resnet_fpn_extractor(resnet18(), 5, returned_layers=[2, 3, 4], extra_blocks=extra)
    model = FCOS(backbone, num_classes=91)
    state: dict[str, torch.Tensor] = model.state_dict()
    return state


@pytest.fixture
def like_torchvision(home: Path) -> Params:
    whole = params.load(home / "params.yaml")
    levels = (3, 4, 5, 6, 7)
    model = replace(whole.model, backbone="resnet18", channels=256, levels=levels, tower_depth=4, frozen_stages=0)
    return replace(whole, model=model)


def test_torchvision_s_checkpoint_and_that_of_its_training_script(
    home: Path, like_torchvision: Params, torchvision_state: dict[str, torch.Tensor]
) -> None:
    """The script saves the optimizer and its arguments too, which only code could read completely."""
    file = home / "data/start_from/model_25.pth"
    whole = {"optimizer": {"state": {}}, "args": argparse.Namespace(lr=0.01, output_dir=Path("x")), "epoch": 25}
    rows = {name: row for row, name in coco_categories()}
    for content in (torchvision_state, {"model": torchvision_state, **whole}):
        torch.save(content, file)
        state, (line,) = started(like_torchvision, "zebra", "unicorn", "person")
        weight = torchvision_state["head.classification_head.cls_logits.weight"]
        assert torch.equal(state["head.class_logits.weight"][[0, 2]], weight[[rows["zebra"], rows["person"]]])
        for ours, theirs in (
            ("backbone.parts.3.1.conv2.weight", "backbone.body.layer3.1.conv2.weight"),
            ("neck.lateral.2.weight", "backbone.fpn.inner_blocks.2.0.weight"),
            ("neck.extra.1.weight", "backbone.fpn.extra_blocks.p7.weight"),
            ("head.box_tower.4.weight", "head.regression_head.conv.4.weight"),
            ("head.quality.bias", "head.regression_head.bbox_ctrness.bias"),
        ):
            assert torch.equal(state[ours], torchvision_state[theirs]), ours
        assert line.endswith("tensors; new: head.class_logits of 1 class not in the file (unicorn)")


def test_classes_of_torchvision_weights_of_other_data_have_no_names(
    home: Path, like_torchvision: Params, torchvision_state: dict[str, torch.Tensor]
) -> None:
    names = [name for name in torchvision_state if "cls_logits" in name]
    few = {**torchvision_state, **{name: torchvision_state[name][:4].clone() for name in names}}
    save_file(few, home / "data/start_from/own.safetensors")
    _, (line,) = started(like_torchvision, "class_1", "cat", "dog")
    assert line.endswith(
        "(class_1, cat, dog); the file does not name its classes (`fcos import-weights --categories` does)"
    )


class Call:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.system, ("touch ran",)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        (
            "x.pth",
            {"model": {}, "args": Call()},
            "x.pth: reading it would run code (posix.system): get the weights from",
        ),
        ("x.pth", b"no weights", "x.pth: damaged, or not a file that torch.save wrote"),
        ("x.safetensors", b"no weights", "x.safetensors: damaged, or not a safetensors file"),
        ("x.pth", {"fc.weight": torch.ones(1)}, "x.pth: neither a detector (.safetensors, its .json beside it) nor"),
        ("x.pth", {"head.classification_head.cls_logits.weight": torch.ones(9)}, "x.pth: no tensor fits by name and"),
        ("x.pth", {"head.classification_head.cls_logits.weight": torch.tensor(1.0)}, "x.pth: neither a detector"),
        (
            "x.pth",
            {
                "head.classification_head.cls_logits.weight": torch.ones(1).expand(10**9),
                "head.regression_head.bbox_reg.bias": torch.eye(4).to_sparse()[0],
            },
            "x.pth: head.box.bias is no plain tensor",
        ),
    ],
)
def test_untrusted_files_give_one_line(home: Path, name: str, content: Any, problem: str) -> None:
    file = home / "data/start_from" / name
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(PipelineError) as caught:
        started(values(home), "cat", "dog")
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (home / "ran").exists()


def test_a_damaged_detector_is_refused(home: Path) -> None:
    path = home / "data/start_from/detector.safetensors"
    write_detector(path, values(home).model)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        PipelineError, match=r"detector\.safetensors: damaged: its numbers are not those that were saved"
    ):
        read_source(path)


def test_which_file_of_a_folder(home: Path, tmp_path: Path) -> None:
    folder = home / "data/start_from"
    (folder / ".gitkeep").touch()
    (folder / ".DS_Store").touch()  # of macOS's file manager
    assert find_weights("data/start_from", "key") is None
    (folder / "a.pth").touch()
    assert find_weights("data/start_from", "key") == folder / "a.pth"
    assert find_weights(str(folder / "a.pth"), "key") == folder / "a.pth"
    (folder / "last.safetensors").touch()
    with pytest.raises(PipelineError, match=r"^key: .*/start_from: holds a.pth and last.safetensors: set it to one of"):
        find_weights("data/start_from", "key")
    (folder / "detector.safetensors").touch()
    assert find_weights("data/start_from", "key") == folder / "detector.safetensors"
    (tmp_path / "other").mkdir()
    (tmp_path / "other/x.pth.dvc").touch()
    with pytest.raises(PipelineError, match=r"^key: .*/other: holds no weights .*: dvc pull"):
        find_weights(str(tmp_path / "other"), "key")
    with pytest.raises(PipelineError, match=r"^key: .*/home/models: no such file or folder"):
        find_weights("models", "key")
    (home / "data/extend_from").rmdir()
    assert find_weights("data/extend_from", "key") is None


def test_a_temporary_workspace_needs_an_absolute_path_unless_it_has_the_file(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main = tmp_path / "main"
    (main / "data/start_from").mkdir(parents=True)
    monkeypatch.setenv("DVC_ROOT", str(main))
    assert find_weights("data/start_from", "key") is None
    (main / "data/start_from/x.pth").touch()
    with pytest.raises(
        PipelineError, match=rf"^key: with --queue and --temp it must be absolute; set it to {main}/data"
    ):
        find_weights("data/start_from", "key")
    assert find_weights(str(main / "data/start_from"), "key") == main / "data/start_from/x.pth"
    (home / "data/start_from/x.pth").touch()
    assert find_weights("data/start_from", "key") == home / "data/start_from/x.pth"


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("../x.pth", "model.start_from: '../x.pth' leaves the project, so it must be absolute, without .. and ~"),
        (None, "model.start_from must be a path, for DVC; the empty folder data/start_from stands for none"),
    ],
)
def test_paths_that_dvc_cannot_follow(home: Path, setting: Callable[..., None], path: str | None, problem: str) -> None:
    setting(**{"model.start_from": path})
    with pytest.raises(PipelineError) as caught:
        params.load(home / "params.yaml")
    assert str(caught.value) == f"{home}/params.yaml: {problem}"
