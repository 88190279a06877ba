"""Saved detectors: same outputs and bytes, descriptions of version 3, and damaged files."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fcos.backbones.state_dicts import first_sentence
from fcos.config import PAPER, InputSize
from fcos.detector import build
from fcos.weights import Description, load_detector, save_detector

MODEL = replace(
    PAPER,
    backbone="efficientnet_lite0",
    channels=16,
    levels=(3, 4, 5),
    tower_depth=1,
    frozen_stages=0,
    batch_norm="auto",
)
ABOUT = Description(model=MODEL, categories=((7, "cat"), (3, "dög")), input_size=InputSize((320, 416)))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "detector.safetensors"
    save_detector(build(MODEL, 2), ABOUT, path)
    return path


def test_a_loaded_detector_has_the_same_outputs(saved: Path) -> None:
    torch.manual_seed(0)
    original = build(MODEL, 2).eval()
    loaded, about = load_detector(saved)
    assert about == ABOUT
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    with torch.no_grad():
        a, b = (detector(detector.prepare([image])) for detector in (original, loaded))
    assert torch.equal(a.logits, b.logits)
    assert torch.equal(a.ltrb, b.ltrb)
    assert torch.equal(a.quality, b.quality)


def test_same_detector_same_bytes(saved: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    again = tmp_path / "again.safetensors"
    save_detector(build(MODEL, 2), ABOUT, again)
    assert again.read_bytes() == saved.read_bytes()
    assert again.with_suffix(".json").read_bytes() == saved.with_suffix(".json").read_bytes()


def unchecked(path: Path) -> dict[str, Any]:
    """The content of the description without its checksum: such a file may be changed."""
    content = json.loads(path.with_suffix(".json").read_text())
    return {key: value for key, value in content.items() if key != "sha256"}


def test_the_saved_normalization_is_used(saved: Path) -> None:
    text = unchecked(saved)
    text["normalization"]["mean"] = [0.0, 0.0, 0.0]
    saved.with_suffix(".json").write_text(json.dumps(text))
    detector, _ = load_detector(saved)
    assert detector.prepare([torch.zeros(3, 32, 32, dtype=torch.uint8)]).abs().max() == 0


def test_a_loaded_detector_is_saved_with_its_normalization(saved: Path, tmp_path: Path) -> None:
    text = unchecked(saved)
    text["normalization"]["std"] = [0.1, 0.2, 0.3]
    saved.with_suffix(".json").write_text(json.dumps(text))
    again = tmp_path / "again.safetensors"
    save_detector(*load_detector(saved), again)
    assert unchecked(again) == text


# The description of MODEL in version 3, which had other names for many keys.
VERSION_3 = """{
  "version": 3,
  "model": {
    "backbone": "efficientnet_lite0", "pretrained": true, "batch_norm": "auto", "frozen_stages": 0, "neck": "fpn",
    "channels": 16, "levels": [3, 4, 5], "extra_levels_from": "p5", "top_down": "nearest", "neck_norm": "none",
    "neck_activation": "none", "tower_depth": 1, "tower_channels": null, "head_norm": "group",
    "quality": "centerness", "quality_tower": "box", "box_output": "relu", "locations": "centre", "assigner": "fcos",
    "centre_radius": 1.5, "ranges": null, "atss_candidates": 9, "aligned_candidates": 13, "aligned_alpha": 1.0,
    "aligned_beta": 6.0, "classification_loss": "focal", "focal_alpha": 0.25, "focal_gamma": 2.0,
    "box_weight": "centerness", "quality_loss": "bce",
    "loss_weights": {"classification": 1.0, "box": 1.0, "quality": 1.0}
  },
  "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "d\u00f6g"}],
  "size": [320, 416],
  "letterbox": false,
  "normalisation": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
}
"""


def test_a_description_of_version_3_is_read(saved: Path) -> None:
    saved.with_suffix(".json").write_text(VERSION_3)
    detector, about = load_detector(saved)
    assert about == ABOUT
    assert detector.backbone.mean == (0.5, 0.5, 0.5)
    other = json.loads(VERSION_3)
    other["model"] |= {"batch_norm": "synchronised", "locations": "corner"}
    saved.with_suffix(".json").write_text(json.dumps(other))
    _, about = load_detector(saved)
    assert (about.model.batch_norm, about.model.locations) == ("synchronized", "corner")


@pytest.mark.parametrize(
    "change",
    [
        {"backbone": "tiny", "pretrained": False},
        {"backbone": "efficientnet_lite2", "pretrained": True, "frozen_stages": 2},
        {"backbone": "efficientnet_lite1", "pretrained": True, "batch_norm": "trained"},
        {"backbone": "resnet18", "pretrained": False, "batch_norm": "synchronized"},
        {
            "backbone": "mobilenet_v2",
            "pretrained": False,
            "batch_norm": "frozen",
            "neck": "bifpn",
            "neck_norm": "batch",
        },
        {"backbone": "mobilenet_v3_large", "pretrained": False, "neck": "pan", "quality": "none"},
        {"backbone": "timm:mobilenetv4_conv_small", "pretrained": False, "frozen_stages": 1},
        {"backbone": "timm:convnext_atto", "pretrained": False},
    ],
    ids=lambda change: "-".join(map(str, change.values())),
)
def test_detectors_of_every_kind_can_be_loaded(change: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = replace(MODEL, **change)
    original = build(model, 1)
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    original.train()(original.prepare([image, image.flip(-1)]))  # updates the statistics of batch norm
    path = tmp_path / "detector.safetensors"
    save_detector(original, Description(model=model, categories=((1, "a"),), input_size=InputSize((64, 64))), path)
    loaded, about = load_detector(path)
    assert about.model == model
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in original.state_dict().items())
    with torch.no_grad():
        a, b = (detector.eval()(detector.prepare([image])) for detector in (original, loaded))
    assert torch.equal(a.logits, b.logits)
    assert torch.equal(a.ltrb, b.ltrb)


def test_the_file_of_pretrained_weights_is_not_read_again(tmp_path: Path) -> None:
    """The file no longer exists; batch norm stays frozen."""
    published = tmp_path / "published.pth"
    torch.save(build(replace(MODEL, backbone="tiny", pretrained=False), 1).backbone.parts.state_dict(), published)
    model = replace(MODEL, backbone="tiny", pretrained=str(published))
    original = build(model, 1).eval()
    path = tmp_path / "detector.safetensors"
    save_detector(original, Description(model=model, categories=((1, "a"),), input_size=InputSize((64, 64))), path)
    published.unlink()
    loaded, about = load_detector(path)
    assert about.model.pretrained == str(published)
    assert loaded.state_dict().keys() == original.state_dict().keys()


def damage(path: Path, kind: str) -> None:
    about = path.with_suffix(".json")
    text = unchecked(path)
    match kind:
        case "no weights":
            path.unlink()
        case "no description":
            about.unlink()
        case "not JSON":
            about.write_text("{")
        case "another version":
            about.write_text(json.dumps(text | {"version": 99}))
        case "another architecture":
            about.write_text(json.dumps(text | {"model": text["model"] | {"channels": 32}}))
        case "another number of classes":
            about.write_text(json.dumps(text | {"categories": [*text["categories"], {"id": 9, "name": "third"}]}))
        case "no normalization":
            about.write_text(json.dumps(text | {"normalization": None}))
        case "an unknown backbone":
            about.write_text(json.dumps(text | {"model": text["model"] | {"backbone": "foo"}}))
        case "a huge network":
            about.write_text(json.dumps(text | {"model": text["model"] | {"channels": 8 * 10**9}}))
        case "four bytes":
            path.write_bytes(bytes(4))
        case "NaN":
            tensors = load_file(path)
            tensors["head.class_logits.bias"][1] = torch.nan
            save_file(tensors, path)
        case "whole numbers":
            tensors = load_file(path)
            save_file({**tensors, "head.class_logits.bias": tensors["head.class_logits.bias"].long()}, path)
        case "truncated weights":
            path.write_bytes(path.read_bytes()[:-1000])


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ("no weights", r"detector.safetensors: no such file"),
        ("no description", r"detector.json: no such file"),
        ("not JSON", "detector.json: not a description of a detector"),
        ("another version", "version 99, but versions 3 and 4 can be read"),
        ("another architecture", "does not hold the weights"),
        (
            "another number of classes",
            r"head.class_logits.weight has the shape \[2, 16, 3, 3\] instead of \[3, 16, 3, 3\]",
        ),
        ("no normalization", "not a description of a detector"),
        ("an unknown backbone", "not a description of a detector"),
        ("a huge network", r"detector.safetensors: .* too few numbers for 2 classes and 8000000000 channels"),
        (
            "truncated weights",
            "detector.safetensors: damaged, or not a safetensors file: Error while deserializing header: ",
        ),
        ("four bytes", "detector.safetensors: damaged, or not a safetensors file: Error while deserializing header: "),
        (
            "NaN",
            r"detector.safetensors: head.class_logits.bias holds NaN or infinite numbers$",
        ),
        ("whole numbers", "head.class_logits.bias holds torch.int64 numbers instead of torch.float32$"),
    ],
)
def test_damaged_files_are_errors_of_one_line(saved: Path, kind: str, problem: str) -> None:
    damage(saved, kind)
    with pytest.raises(ValueError, match=problem) as error:
        load_detector(saved)
    assert "\n" not in str(error.value)


def test_a_flipped_bit_of_a_number_is_an_error(saved: Path) -> None:
    """The last bit of a float changes it by a ten millionth: no check of the number's value can find that."""
    content = bytearray(saved.read_bytes())
    header = int.from_bytes(content[:8], "little")
    with safe_open(saved, "pt") as file:
        assert file.metadata() == {"sha256": hashlib.sha256(content[8 + header :]).hexdigest()}
    for position in (8 + header, len(content) - 4):  # of the lowest byte of the first and of the last number
        content[position] ^= 1
        saved.write_bytes(content)
        with pytest.raises(ValueError, match=r"detector.safetensors: damaged: its numbers are not those that were"):
            load_detector(saved)
        content[position] ^= 1
    saved.write_bytes(content)
    load_detector(saved)


def test_weights_of_another_program_need_no_checksum(saved: Path) -> None:
    half = {name: tensor.half() for name, tensor in load_file(saved).items() if tensor.is_floating_point()}
    save_file(half, saved)
    loaded = load_detector(saved)[0].state_dict()
    assert all(torch.equal(loaded[name], tensor.float()) for name, tensor in half.items())


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        ("", "RuntimeError"),
        ("it failed", "it failed"),
        ("It failed.\n\nTry this. Or that.", "It failed"),
        ("Version 2.1 of e.g. torch failed! Do so", "Version 2.1 of e.g. torch failed!"),
        ("no module\n  in the\npath", "no module in the path"),
    ],
)
def test_the_first_sentence_of_a_message_is_whole(message: str, sentence: str) -> None:
    assert first_sentence(RuntimeError(message)) == sentence
