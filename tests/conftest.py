import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import settings

from tests.support import projects

pytest_plugins = (
    "tests.support.inspected_project",
    "tests.support.scored_scenes",
    "tests.support.voc_folder",
)

_LONGEST = (
    "test_pipeline.py",
    "test_interruptions.py",
    "test_queue.py",
    "test_docs.py",
    "test_own_data.py",
    "test_launching.py",
    "test_viewer.py",
    "test_compiling.py",
)


def pytest_configure() -> None:
    """The same examples in every run; `HYPOTHESIS_PROFILE=campaign pytest --timeout 0 FILE` looks for new ones.

    Where tests are begun in the background of a script, Ctrl-C is ignored, and would be by all that they start.
    """
    settings.register_profile("suite", derandomize=True)
    settings.register_profile("campaign", max_examples=10_000)
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: begun last, one would leave one of two workers idle for minutes."""
    items.sort(key=lambda item: _LONGEST.index(name) if (name := item.path.name) in _LONGEST else len(_LONGEST))


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with very small parameters in which `dvc repro` has run, once for all workers. Tests work on copies."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder, complete = shared / "reproduced", shared / "reproduced.complete"
    with FileLock(shared / "reproduced.lock"):
        if not complete.exists():
            shutil.rmtree(folder, ignore_errors=True)
            projects.clone(folder)
            projects.run(folder, "dvc", "repro")
            complete.touch()
    return folder


@pytest.fixture(scope="module")
def project(reproduced: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which every stage has run, shared by the tests of a module."""
    return projects.copy(reproduced, tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="session")
def lively_fcos() -> Callable[[int], Any]:
    """torchvision's FCOS with random weights, its outputs far from those of a beginning."""

    def make(classes: int) -> Any:
        import torch
        from torch import nn
        from torchvision.models.detection import fcos_resnet50_fpn

        torch.manual_seed(0)
        model = fcos_resnet50_fpn(weights=None, weights_backbone=None, num_classes=classes)
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.uniform_(layer.running_mean, -0.2, 0.2)
                nn.init.uniform_(layer.running_var, 0.7, 1.5)
                nn.init.uniform_(layer.weight, 0.5, 1.0)
            elif isinstance(layer, nn.GroupNorm):
                nn.init.uniform_(layer.weight, 0.5, 1.5)
            if getattr(layer, "bias", None) is not None:
                nn.init.uniform_(layer.bias, -0.3, 0.3)
        head = model.head
        for last in (head.classification_head.cls_logits, head.regression_head.bbox_reg):
            nn.init.normal_(last.weight, std=0.06)
        nn.init.uniform_(head.regression_head.bbox_reg.bias, 1, 3)
        with torch.no_grad():  # every class as likely as the others
            logits = model.eval().head(list(model.backbone(torch.randn(1, 3, 96, 128)).values()))["cls_logits"]
            head.classification_head.cls_logits.bias -= logits.mean(dim=(0, 1)) + 2
        return model

    return make
