"""Suppression by the compiled operator, and where the operator comes from."""

import importlib
import subprocess
import sys

import pytest
import torch
from torchvision import ops

from fcos.ops import torchvision_library
from fcos.ops.nms import nms
from fcos.ops.torchvision_library import load_operators


def test_it_equals_torchvisions() -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(200, 2, 2, generator=generator).sort(dim=1).values * 50
    boxes, scores = corners.flatten(1), torch.rand(200, generator=generator)
    kept = nms(boxes, scores, 0.3)
    assert 10 < len(kept) < 150
    assert torch.equal(kept, ops.nms(boxes, scores, 0.3))


def test_without_a_known_file_the_python_package_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = list[str]()
    monkeypatch.setattr(torchvision_library, "EXTENSION_SUFFIXES", [".other"])
    monkeypatch.setattr(importlib, "import_module", imported.append)
    load_operators("_C")
    load_operators("image")
    assert imported == ["torchvision.ops", "torchvision.io"]


def test_the_python_package_can_be_imported_later_and_is_not_needed_for_detection() -> None:
    script = (
        "import sys, torch, fcos.postprocess, pipeline.inference.detect, pipeline.prediction.images\n"
        "assert not {'torchvision', 'torch._dynamo'} & set(sys.modules)\n"
        "import torchvision\n"
        "torchvision.ops.nms(torch.ones(1, 4), torch.ones(1), 0.5)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
