"""From files to batches, compared with torchvision's reference training script; memory of the annotations.

Their side has the defaults of references/detection (preset `hflip`, images read by Pillow), followed by the resizing,
normalization and padding that torchvision's models contain.
"""

import io
import os
import random
import tarfile
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import islice
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms import v2

from benchmarks.harness import Limit, Measurement, Side
from fcos.config import PAPER, InputSize
from fcos.detector import build
from pipeline import params
from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image
from pipeline.data.images import read_image
from pipeline.loading.batches import Batches, collate
from pipeline.loading.dataset import TrainingData
from pipeline.loading.transforms import Augmentation, Sample

_REPOSITORY = Path(__file__).resolve().parents[1]
_VOC = _REPOSITORY.parent / "shared/data/voc2007-trainval-400.tar"
_BATCH, _SIZE = 8, (800, 1333)

Epoch = Callable[[], Iterator[Tensor]]  # normalized batches of an epoch [B, 3, H, W]
Folder = tempfile.TemporaryDirectory[str]


def files_to_batches(workers: int) -> tuple[Side, Side]:
    """An epoch of photographs as normalized batches at 800 px with random flips; one thread in each process.

    Raises:
        AssertionError: the batches differ.
    """
    folder = tempfile.TemporaryDirectory(prefix="loader-")
    split = photographs(Path(folder.name))
    _check_same(_our_epoch(split, folder, 0, flip=1.0), _their_epoch(split, folder, 0, flip=1.0))
    ours, theirs = (make_epoch(split, folder, workers, flip=0.5) for make_epoch in (_our_epoch, _their_epoch))
    return partial(_count_images, ours, folder), partial(_count_images, theirs, folder)


def _count_images(epoch: Epoch, _folder: Folder) -> int:
    """Runs an epoch; the folder of its images is deleted with the last function that has it."""
    with single_thread():
        return sum(len(batch) for batch in epoch())


def our_batches(
    split: AnnotationSet, folder: Path, workers: int, flip: float, size: tuple[int, int] = _SIZE
) -> Batches:
    """Our batches of eight images, with random flips as the only augmentation."""
    augment = replace(params.load(_REPOSITORY / "params.yaml").train.augment, flip=flip, scale=(1.0, 1.0))
    augmentation = Augmentation(params=augment, input_size=InputSize(size), multi_scale=None, epochs=1, seed=0)
    data = TrainingData(split, folder, augmentation=augmentation, include_difficult=True, include_empty=True)
    return Batches(data=data, batch_size=_BATCH, workers=workers, seed=0, group_by_aspect_ratio=True)


def _our_epoch(split: AnnotationSet, folder: Folder, workers: int, *, flip: float) -> Epoch:
    detector = build(replace(PAPER, backbone="tiny", pretrained=False), 1)
    batches = our_batches(split, Path(folder.name), workers, flip)

    def epoch() -> Iterator[Tensor]:
        for (batch,) in batches(0):
            yield detector.normalize_batch(batch.pixels, batch.sizes)

    return epoch


class ReferenceDataset(Dataset[Any]):
    """Pillow images and boxes, transformed by the preset of the reference script."""

    def __init__(self, split: AnnotationSet, folder: Path, flip: float) -> None:
        self.folder, self.split, self.annotations = folder, split, split.by_image()
        self.transforms = v2.Compose(
            [
                v2.RandomHorizontalFlip(p=flip),
                v2.PILToTensor(),
                v2.ToDtype(torch.float, scale=True),
                v2.ConvertBoundingBoxFormat(tv_tensors.BoundingBoxFormat.XYXY),
                v2.SanitizeBoundingBoxes(),
                v2.ToPureTensor(),
            ]
        )

    def __len__(self) -> int:
        return len(self.split.images)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        record = self.split.images[index]
        annotations = self.annotations[record.id]
        with PIL.Image.open(self.folder / record.file_name) as file:
            image = file.convert("RGB")
        boxes = tv_tensors.BoundingBoxes(
            [annotation.bbox for annotation in annotations],
            format=tv_tensors.BoundingBoxFormat.XYWH,
            canvas_size=(record.height, record.width),
        )
        labels = torch.tensor([annotation.category_id for annotation in annotations])
        sample: tuple[Tensor, dict[str, Tensor]] = self.transforms(image, {"boxes": boxes, "labels": labels})
        return sample


def _their_epoch(split: AnnotationSet, folder: Folder, workers: int, *, flip: float) -> Epoch:
    transform = GeneralizedRCNNTransform(_SIZE[0], _SIZE[1], [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    loader: DataLoader[Any] = DataLoader(
        ReferenceDataset(split, Path(folder.name), flip),
        batch_sampler=our_batches(split, Path(folder.name), 0, flip).steps(0),  # the same batches as ours
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=collate_lists,
    )

    def epoch() -> Iterator[Tensor]:
        for images, targets in loader:
            yield transform(images, targets)[0].tensors

    return epoch


def collate_lists(samples: Sequence[tuple[Tensor, dict[str, Tensor]]]) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """The images and the targets of a batch."""
    return [image for image, _ in samples], [target for _, target in samples]


def _check_same(ours: Epoch, theirs: Epoch) -> None:
    """Small differences come from rounding to 8 bits, and from image sizes, which theirs truncates and ours rounds."""
    for batch, expected in zip(islice(ours(), 3), islice(theirs(), 3), strict=True):
        assert batch.shape == expected.shape
        assert float((batch - expected).abs().mean()) < 0.05  # about 1 between different images


def photographs(folder: Path, count: int = 200) -> AnnotationSet:
    """Images of VOC2007 if present, otherwise crops of the two photographs in scikit-learn."""
    images = []
    for index, content in enumerate(islice(_voc_images() if _VOC.is_file() else _photograph_crops(count), count)):
        path = folder / f"{index}.jpg"
        path.write_bytes(content)
        _, height, width = read_image(path).shape
        images.append(Image(index, path.name, width, height))
    boxes = [(10.0 * k, 5.0 * k, 30.0 + k, 40.0) for k in range(3)]
    annotations = [
        Annotation(3 * image.id + k, image.id, 1, box, 1200.0) for image in images for k, box in enumerate(boxes)
    ]
    return AnnotationSet((Category(1, "thing"),), tuple(images), tuple(annotations))


def _voc_images() -> Iterator[bytes]:
    with tarfile.open(_VOC) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.name.endswith(".jpg") else None
            if file:
                yield file.read()


def _photograph_crops(count: int) -> Iterator[bytes]:
    from sklearn.datasets import load_sample_images

    rng = random.Random(0)
    photographs = [PIL.Image.fromarray(pixels) for pixels in load_sample_images().images]
    for index in range(count):
        width, height = rng.choice([(400, 300), (400, 266), (300, 400)])
        left, top = rng.randrange(640 - width + 1), rng.randrange(427 - height + 1)
        buffer = io.BytesIO()
        photographs[index % 2].crop((left, top, left + width, top + height)).save(buffer, "JPEG", quality=80)
        yield buffer.getvalue()


@contextmanager
def single_thread() -> Iterator[None]:
    """Limits torch to one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class _PlainDataset(Dataset[Any]):
    """The same samples, kept in lists of Python objects, for comparison."""

    def __init__(self, data: TrainingData) -> None:
        self.augmentation, self.folder = data.augmentation, data.folder
        self.names = [data.name(index) for index in range(len(data))]
        self.objects = [[tensor.clone() for tensor in data.objects(index)] for index in range(len(data))]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, item: tuple[int, int]) -> Sample:
        return self.augmentation(self.read, len(self), *item)

    def read(self, index: int) -> Sample:
        boxes, labels = self.objects[index]
        return Sample(read_image(self.folder / self.names[index]), boxes, labels, self.names[index])


def annotations_memory(workers: int, *, plain: bool = False, images: int = 20_000, objects_per_image: int = 5) -> float:
    """Memory of a data set's annotations after an epoch, in the training process and its workers together, in MiB.

    A page shared by several of these processes counts once (PSS). Pages of files such as libraries don't count, since
    their share depends on other processes. The memory after an epoch of a hundred images is subtracted.
    """
    # New processes, so that the memory of earlier measurements doesn't count.
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        memory, baseline = (
            pool.submit(_memory_after_epoch, workers, plain, count, objects_per_image).result()
            for count in (images, 100)
        )
    return (memory - baseline) / 2**10


def _memory_after_epoch(workers: int, plain: bool, images: int, objects_per_image: int) -> int:
    """Memory of this process and its workers after all but the last batch of an epoch, in KiB."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="loader-") as folder:
        split = _one_pixel_images(Path(folder), images, objects_per_image)
        batches = our_batches(split, Path(folder), workers, 0.5, (1, 1))
        steps: Iterator[Any]
        if plain:
            keys = [[(0, index) for index in step] for step in batches.steps(0)]
            warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than cores
            assert isinstance(batches.data, TrainingData)
            data = _PlainDataset(batches.data)
            steps = iter(DataLoader(data, batch_sampler=keys, num_workers=workers, collate_fn=collate))
        else:
            steps = batches(0)
        for _ in islice(steps, len(batches) - 1):  # workers may exit after the last batch
            pass
        return sum(pss(pid) for pid in ["self", *(str(child.pid) for child in active_children())])


def _one_pixel_images(folder: Path, images: int, objects_per_image: int) -> AnnotationSet:
    """Images of one pixel, with file names as long as VOC's."""
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (1, 1)).save(buffer, "JPEG")
    records = [Image(index, f"JPEGImages/2007_{index:012d}.jpg", 1, 1) for index in range(images)]
    (folder / "JPEGImages").mkdir()
    for record in records:
        (folder / record.file_name).write_bytes(buffer.getvalue())
    annotations = [
        Annotation(index, index // objects_per_image, 1, (0.0, 0.0, 1.0, 1.0), 1.0)
        for index in range(images * objects_per_image)
    ]
    return AnnotationSet((Category(1, "thing"),), tuple(records), tuple(annotations))


def pss(pid: str) -> int:
    """Memory of a process without pages of files, in KiB; a page shared by several processes counts in part."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))


_CORES = max(1, len(os.sched_getaffinity(0)))
MEASUREMENTS = [
    Measurement("files to normalized batches at 800 px: one process, one thread", 1.5, partial(files_to_batches, 0)),
    Measurement("files to normalized batches at 800 px: a worker per core", 1.5, partial(files_to_batches, _CORES)),
]
LIMITS = [
    Limit(f"memory of 100,000 annotations, {workers} workers", 100, "MiB", partial(annotations_memory, workers))
    for workers in (0, 2, 4)
]
