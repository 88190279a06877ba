"""What `benchmarks.scale` measures: calls on synthetic data of any size, each in a process of its own."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, chdir, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import datasets, evaluation, fiftyone_fill
from benchmarks.criterion import peak_memory
from benchmarks.training import our_step
from fcos.assigners import ASSIGNERS
from fcos.config import PAPER
from fcos.detector import build
from fcos.locations import make_locations
from fcos.postprocess import Postprocess
from fcos.structures import Outputs, Targets, make_targets
from pipeline import params, recipes
from pipeline.conversion import convert
from pipeline.evaluation import report
from pipeline.integrations import fiftyone as datasets_of_fiftyone
from pipeline.integrations import mongo

_ENOUGH = 0.5  # CPU seconds after which a call is not repeated

Call = Callable[[], object]


@dataclass(frozen=True)
class Load:
    """A size of the data."""

    images: int
    objects: int  # in each image
    classes: int
    pixels: int = 640  # width and height of the input


@dataclass(frozen=True)
class Cost:
    """The cost of a call: CPU seconds of one thread, and the increase of the process's peak memory in MiB."""

    seconds: float
    memory: float


@dataclass(frozen=True)
class Measured:
    """What is measured, and at which sizes: one field of `base` at a time is replaced."""

    prepare: Callable[[Load], AbstractContextManager[Call]]
    base: Load
    sizes: Mapping[str, Sequence[int]]
    repeatable: bool = True  # whether the call does the same again


@contextmanager
def training_step(load: Load) -> Iterator[Call]:
    """A step of the default detector in float32, from pixels to updated weights."""
    torch.manual_seed(0)
    detector = build(recipes.defaults().model, load.classes).train()
    pixels = torch.randint(0, 256, (load.images, 3, load.pixels, load.pixels), dtype=torch.uint8)
    targets = _targets(load)
    yield our_step(detector, pixels, list(targets.boxes), list(targets.labels), "float32", lambda network: network)


@contextmanager
def assignment(load: Load, assigner: str) -> Iterator[Call]:
    """An assigner on the paper's pyramid."""
    torch.manual_seed(0)
    yield partial(ASSIGNERS[assigner], _outputs(load), _targets(load), PAPER)


@contextmanager
def postprocessing(load: Load) -> Iterator[Call]:
    """From outputs to detections; twenty predictions of each object exceed the threshold."""
    torch.manual_seed(0)
    outputs = _outputs(load)
    found = (load.images, 20 * load.objects)
    image = torch.arange(load.images)[:, None].expand(found)
    location, label = torch.randint(outputs.ltrb.shape[1], found), torch.randint(load.classes, found)
    outputs.logits[image, location, label] = torch.randn(found)
    yield partial(Postprocess(), outputs, [(load.pixels, load.pixels)] * load.images)


def _outputs(load: Load) -> Outputs:
    shapes = [(-(-load.pixels // stride), -(-load.pixels // stride)) for stride in PAPER.strides]
    locations = make_locations(shapes, PAPER.strides)
    count = len(locations.xy)
    ltrb = torch.rand(load.images, count, 4) * 64
    return Outputs(torch.full((load.images, count, load.classes), -8.0), ltrb, torch.zeros(ltrb.shape[:2]), locations)


def _targets(load: Load) -> Targets:
    """Boxes with sides of 8 to 160 pixels."""
    shape = (load.images, load.objects)
    low = torch.rand(*shape, 2) * load.pixels * 0.8
    high = torch.minimum(low + 8 * (torch.rand(*shape, 2) * 3).exp(), torch.tensor(float(load.pixels)))
    labels: list[Tensor] = list(torch.randint(load.classes, shape))
    return make_targets(list(torch.cat([low, high], dim=-1)), labels)


@contextmanager
def evaluating(load: Load) -> Iterator[Call]:
    """All metrics of a report; as many detections as objects."""
    yield partial(
        report.evaluate,
        *evaluation.scenes(load.images, load.images * load.objects, load.objects, load.classes),
    )


@contextmanager
def converting(load: Load) -> Iterator[Call]:
    """COCO's files to unified files, with image sizes taken from the annotations."""
    _in_child(datasets.write_coco, Path("raw"), load.images, load.objects, load.classes)
    options = replace(recipes.defaults().convert, image_check="trust")
    yield partial(convert, Path("raw"), Path("unified"), options)


@contextmanager
def filling_fiftyone(load: Load) -> Iterator[Call]:
    """An empty FiftyOne dataset, half of the boxes ground truth; without FiftyOne's import and without mongod."""
    _in_child(fiftyone_fill.make_project, load.images, 2 * load.images * load.objects, load.classes)
    with mongo.server() as uri:
        os.environ.update(mongo.fiftyone_environment(uri))
        mongo.shorten_fiftyone_import()
        import fiftyone  # noqa: F401 - seconds, which are not measured

        from pipeline.integrations import fiftyone_dataset

        yield partial(fiftyone_dataset.refresh, [datasets_of_fiftyone.dataset_spec(params.load())])


def _in_child(function: Callable[..., object], *arguments: Any) -> None:
    """Calls a function in a process of its own, whose memory doesn't count."""
    child = get_context("fork").Process(target=function, args=arguments)
    child.start()
    child.join()
    assert child.exitcode == 0


_TENSORS = Load(images=4, objects=10, classes=80)
_TENSOR_SIZES = {
    "images": (1, 2, 4, 8, 16),
    "objects": (1, 10, 100, 1000),
    "classes": (1, 12, 120, 1200),
    "pixels": (320, 640, 960, 1280),
}
_IMAGES = (1000, 3000, 10_000, 30_000, 100_000)
MEASURED = {
    "training step": Measured(training_step, Load(images=2, objects=10, classes=80, pixels=320), _TENSOR_SIZES),
    **{
        f"assignment, {name}": Measured(
            partial(assignment, assigner=name),
            _TENSORS,
            {variable: sizes for variable, sizes in _TENSOR_SIZES.items() if variable != "classes"},
        )
        for name in ASSIGNERS
    },
    "post-processing": Measured(postprocessing, _TENSORS, _TENSOR_SIZES),
    "evaluation": Measured(
        evaluating,
        Load(images=50, objects=10, classes=4),
        {"images": _IMAGES, "objects": (1, 10, 100, 1000), "classes": (1, 12, 120, 1200)},
    ),
    "conversion": Measured(
        converting,
        Load(images=1000, objects=2, classes=80),
        {"images": _IMAGES, "objects": (1, 10, 100, 1000), "classes": (1, 12, 120, 1200)},
    ),
    "FiftyOne": Measured(
        filling_fiftyone,
        Load(images=100, objects=2, classes=80),
        {"images": _IMAGES, "objects": (1, 10, 100, 1000), "classes": (1, 12, 120, 1200)},
        repeatable=False,
    ),
}


def measure(thing: Measured, load: Load) -> Cost:
    """The cost of a call in a new process."""
    processes = get_context("forkserver")
    processes.set_forkserver_preload(
        [__name__, "pipeline.visualization.figures"]
    )  # or each process would import torch again
    with ProcessPoolExecutor(1, processes, max_tasks_per_child=1) as pool:
        return pool.submit(_cost, thing, load).result()


def _cost(thing: Measured, load: Load) -> Cost:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="scale-") as folder, chdir(folder), thing.prepare(load) as call:
        Path("/proc/self/clear_refs").write_text("5")  # the peak is now what the process occupies
        before = peak_memory()
        seconds = [_cpu_seconds(call)]
        while thing.repeatable and sum(seconds) < _ENOUGH:
            seconds.append(_cpu_seconds(call))
        return Cost(min(seconds), (peak_memory() - before) / 2**10)


def _cpu_seconds(call: Call) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start
