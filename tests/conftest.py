import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import settings

from tests.support import projects, warm_python

pytest_plugins = (
    "tests.support.empty_store",
    "tests.support.inspected_project",
    "tests.support.mlflow_servers",
    "tests.support.scored_scenes",
    "tests.support.voc_folder",
)

# As under `make test`: processes started by tests take their bytecode from files, and use one thread.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Nothing is sent to the MLflow server of the person who runs the tests.
for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
    os.environ.pop(name, None)

# The longest files first. The second and the third need no reproduced project, which the first makes.
LONGEST = (
    "test_pipeline.py",
    "test_fiftyone.py",
    "test_launch.py",
    "test_queue.py",
    "test_interruptions.py",
    "test_docs.py",
    "test_overfits_photographs.py",
    "test_amp.py",
    "test_resume.py",
    "test_compiled.py",
    "test_download_convert.py",
    "test_mlflow.py",
    "test_backbones.py",
    "test_own_data.py",
    "test_environment.py",
    "test_check.py",
    "test_recipes.py",
    "test_guards.py",
    "test_first_look.py",
    "test_packaging.py",
    "test_inspect.py",
    "test_export.py",
    "test_serving.py",
)
# Files and folders whose tests take seconds each: `pytest -m "not slow"` leaves them out.
SLOW = (
    "tests/benchmarks",
    "tests/end_to_end",
    "tests/fcos/assigners/test_fcos.py::test_memory_is_bounded",
    "tests/fcos/backbones/test_backbones.py",
    "tests/fcos/fast/test_compiled.py",
    "tests/fcos/training/test_amp.py",
    "tests/fcos/training/test_distributed.py",
    "tests/fcos/training/test_guards.py",
    "tests/fcos/training/test_resume.py",
    "tests/fcos/training/test_trainer.py",
    "tests/pipeline/analysis/test_check.py",
    "tests/pipeline/datasets/test_download.py",
    "tests/pipeline/datasets/test_published.py",
    "tests/pipeline/inference/test_import_weights.py",
    "tests/pipeline/integrations",
    "tests/pipeline/recipes/test_recipes.py::test_recipe_trains",
    "tests/pipeline/stages",
    "tests/pipeline/training/test_launch.py",
    "tests/pipeline/training/test_overfits_photographs.py",
    "tests/test_packaging.py",
)


def pytest_cmdline_main(config: pytest.Config) -> None:
    """Forks the workers of `-n` from a process that has imported torch, MLflow and DVC: ten seconds of each worker."""
    if getattr(config.option, "tx", None) and sys.platform == "linux":
        python = warm_python.folder() / "python"
        config.option.tx = [f"{spec}//python={python}" if spec == "popen" else spec for spec in config.option.tx]


def pytest_configure() -> None:
    """Uses the same examples in every run; `HYPOTHESIS_PROFILE=campaign pytest --timeout 0 FILE` searches for new ones.

    A background job of a script ignores Ctrl-C, and a job of nohup ignores SIGHUP, and so would every process that the
    tests start.
    """
    settings.register_profile("suite", derandomize=True, deadline=None)  # other work makes an example slow
    settings.register_profile("campaign", max_examples=10_000, deadline=None)
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks slow tests, and sorts the longest files first, so that no worker starts one when others have finished."""
    for item in items:
        if item.nodeid.startswith(SLOW):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: LONGEST.index(name) if (name := item.path.name) in LONGEST else len(LONGEST))


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


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Seeds what a test or its fixtures may draw from, so that it draws the same after whatever tests ran before it."""
    random.seed(0)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(0)  # the generator that libraries may use
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(scope="module")
def project(reproduced: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which every stage has run, shared by the tests of a module."""
    return projects.copy(reproduced, tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="session")
def random_fcos() -> Callable[[int], Any]:
    """Returns a function that builds torchvision's FCOS with random weights and varied outputs."""

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
        with torch.no_grad():  # makes all classes about equally likely
            logits = model.eval().head(list(model.backbone(torch.randn(1, 3, 96, 128)).values()))["cls_logits"]
            head.classification_head.cls_logits.bias -= logits.mean(dim=(0, 1)) + 2
        return model

    return make
