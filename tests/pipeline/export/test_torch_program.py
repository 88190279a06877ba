"""Programs of torch.export: which of torch's conditions they keep, and what they say if one excludes an image."""

import pytest
import torch

from fcos.config import PAPER
from pipeline.errors import PipelineError
from pipeline.export import torch_program
from pipeline.export.network import excludes_single_rows


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
