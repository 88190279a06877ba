"""Programs of torch.export: their outputs, torch's conditions that they keep, and images that one excludes."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import fcos
from fcos.config import PAPER, InputSize
from fcos.weights import Description, save_detector
from pipeline.errors import PipelineError
from pipeline.export import torch_program
from pipeline.export.network import excludes_single_rows
from tests.support.projects import run


def test_torch_program(tmp_path: Path) -> None:
    """Outside a project, and of a small detector, which torch traces faster."""
    config = replace(PAPER, backbone="tiny", pretrained=False, batch_norm="auto", frozen_stages=0)
    config = replace(config, channels=16, levels=(4, 5), tower_depth=1, tower_convolution="depthwise", quality="none")
    config = replace(config, box_output="distribution")
    detector = fcos.build(config, 2).eval()
    description = Description(model=config, categories=((3, "a"), (5, "b")), input_size=InputSize((64, 96)))
    save_detector(detector, description, tmp_path / "detector.safetensors")
    torch.nn.init.normal_(detector.head.class_logits.weight, std=0.1)
    save_detector(detector, description, tmp_path / "detector.safetensors")
    command = "fcos", "export", "--weights", "detector.safetensors", "--format", "torch"
    first, last = run(tmp_path, *command).splitlines()
    assert last == "exported/detector.pt2: the network of a detector of 2 classes"
    assert re.fullmatch(
        r"compared with detector\.safetensors: 16 images, \d+ detections: 0 without counterpart, scores differ by at "
        r"most \S+, IoU at least (0\.999\d\d|1\.00000)",
        first,
    )
    (tmp_path / "a.png").touch()
    message = run(tmp_path, "fcos", "predict", "a.png", "--weights", "exported/detector.pt2", check=False)
    assert message == (
        "fcos: exported/detector.pt2: programs of torch.export are for other programs; give the .safetensors file that "
        "it was exported from, or an ONNX file\n"
    )
    extra = {"metadata.json": ""}
    program = torch.export.load(tmp_path / "exported/detector.pt2", extra_files=extra)
    assert json.loads(json.loads(extra["metadata.json"])["category_ids"]) == [3, 5]
    pixels = torch.randint(0, 256, (3, 3, 64, 160), dtype=torch.uint8)
    sizes = torch.tensor([[64, 160], [50, 70], [64, 1]])
    for image, (height, width) in zip(pixels, sizes.tolist(), strict=True):
        image[:, height:], image[:, :, width:] = 0, 0
    with torch.no_grad():
        found, expected = program.module()(pixels, sizes), detector(detector.normalize_batch(pixels, sizes))
    assert [*found] == ["logits", "ltrb", "locations"]
    torch.testing.assert_close(found["logits"], expected.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found["ltrb"], expected.ltrb, atol=1e-3, rtol=1e-4)
    assert found["locations"].equal(expected.locations.xy)
    with torch.no_grad():  # levels of a single location
        assert program.module()(pixels[:1, :, :32, :32], torch.tensor([[32, 32]]))["logits"].shape == (1, 4 + 1, 2)


def test_conditions_of_a_program_that_exclude_single_rows() -> None:
    for side in (
        "1 + (((-1) + L['pixels'].size()[{}]) // 128)",  # of most backbones
        "1 + (((-1) + (L['pixels'].size()[{}] // 32)) // 4)",  # of EfficientNet
        "L['pixels'].size()[{}] // 32",
    ):
        height, width = (side.format(axis) for axis in (2, 3))
        largest = f"torch.sym_max(1, {width})"
        for guard in (
            f"{width} > 1", f"({height}) != 1", f"{height} >= 2", f"{width} < ({width})*({height})",
            f"(({height}) % (({width})*({height}))) != 0", f"(({width})*({height})) != ({height})",
            f"{largest} > 1", f"{largest} < {largest}*torch.sym_max(1, {height})",
        ):  # fmt: skip
            assert excludes_single_rows(guard)
        for guard in (f"{height} > 2", f"(({height}) % 2) == 0", f"{width} == {height}", f"{width} < {height}"):
            assert not excludes_single_rows(guard)
    for guard in ("L['sizes'].size()[0] == L['pixels'].size()[0]", "L['pixels'].size()[2] > 1"):
        assert not excludes_single_rows(guard)


def test_a_condition_that_excludes_an_image_is_one_line() -> None:
    def program(*_: torch.Tensor) -> dict[str, torch.Tensor]:
        raise AssertionError("Guard failed: L['pixels'].size()[2] > 64\n(more)")

    with pytest.raises(PipelineError) as error:
        torch_program.outputs(program, [torch.zeros(3, 60, 70, dtype=torch.uint8)], PAPER)
    assert str(error.value) == (
        "the program of torch.export takes no batch of 64×96 pixels (Guard failed: L['pixels'].size()[2] > 64); "
        "--format onnx has no such conditions"
    )
