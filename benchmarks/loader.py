"""From files to batches: ours against torchvision's reference detection training; and what annotations cost in memory.

Their side is what references/detection does unless told otherwise (preset `hflip`, images by Pillow), and then the
resizing, normalizing and padding that their models do inside.
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
_IMAGES, _BATCH, _SIZE = 200, 8, (800, 1333)

Epoch = Callable[[], Iterator[Tensor]]  # an epoch's batches, as a network takes them


def files_to_batches(workers: int) -> tuple[Side, Side]:
    """An epoch of photographs in batches, mirrored at random, at 800 px, normalized; one thread in each process.

    Raises:
        AssertionError: the batches differ.
    """
    folder = tempfile.TemporaryDirectory(prefix="loader-")
    split = _photographs(Path(folder.name))
    _check_same(_ours(split, folder, 0, flip=1.0), _theirs(split, folder, 0, flip=1.0))
    return tuple(partial(_run, one(split, folder, workers, flip=0.5)) for one in (_ours, _theirs))  # type: ignore[return-value]


def _run(epoch: Epoch) -> int:
    with _one_thread():
        return sum(len(batch) for batch in epoch())


Folder = tempfile.TemporaryDirectory[str]


def _batches(split: AnnotationSet, folder: Path, workers: int, flip: float, size: tuple[int, int] = _SIZE) -> Batches:
    plain = replace(params.load(_REPOSITORY / "params.yaml").train.augment, flip=flip, scale=(1.0, 1.0))
    how = Augmentation(params=plain, input_size=InputSize(size), multi_scale=None, epochs=1, seed=0)
    data = TrainingData(split, folder, augmentation=how, include_difficult=True, include_empty=True)
    return Batches(data=data, batch_size=_BATCH, workers=workers, seed=0, group_by_aspect_ratio=True)


def _ours(split: AnnotationSet, folder: Folder, workers: int, *, flip: float) -> Epoch:
    detector, batches = (
        build(replace(PAPER, backbone="tiny", pretrained=False), 1),
        _batches(split, Path(folder.name), workers, flip),
    )

    def epoch() -> Iterator[Tensor]:
        for (part,) in batches(0):
            yield detector.normalize_batch(part.pixels, part.sizes)

    return epoch


class _Reference(Dataset[Any]):
    """Pillow images and boxes through the reference's preset."""

    def __init__(self, split: AnnotationSet, folder: Folder, flip: float) -> None:
        self.folder, self.split, self.groups = folder, split, split.by_image()
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
        with PIL.Image.open(Path(self.folder.name) / record.file_name) as file:
            image = file.convert("RGB")
        boxes = tv_tensors.BoundingBoxes(
            [one.bbox for one in self.groups[record.id]],
            format=tv_tensors.BoundingBoxFormat.XYWH,
            canvas_size=(record.height, record.width),
        )
        labels = torch.tensor([one.category_id for one in self.groups[record.id]])
        answer: tuple[Tensor, dict[str, Tensor]] = self.transforms(image, {"boxes": boxes, "labels": labels})
        return answer


def _theirs(split: AnnotationSet, folder: Folder, workers: int, *, flip: float) -> Epoch:
    inside = GeneralizedRCNNTransform(_SIZE[0], _SIZE[1], [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    loader: DataLoader[Any] = DataLoader(
        _Reference(split, folder, flip),
        batch_sampler=_batches(split, Path(folder.name), 0, flip).steps(0),  # the same images together
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=_tuples,
    )

    def epoch() -> Iterator[Tensor]:
        for images, targets in loader:
            yield inside(images, targets)[0].tensors

    return epoch


def _tuples(samples: Sequence[tuple[Tensor, dict[str, Tensor]]]) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    return [image for image, _ in samples], [target for _, target in samples]


def _check_same(ours: Epoch, theirs: Epoch) -> None:
    """Up to eight bits' rounding, and to sides that theirs cuts off to whole pixels and ours rounds."""
    for one, other in zip(islice(ours(), 3), islice(theirs(), 3), strict=True):
        assert one.shape == other.shape
        assert float((one - other).abs().mean()) < 0.05  # of other images it would be about 1


def _photographs(folder: Path) -> AnnotationSet:
    """Two hundred of VOC2007 where they are at hand; else parts of the two that scikit-learn has."""
    images = []
    for index, content in enumerate(islice(_of_voc() if _VOC.is_file() else _parts(), _IMAGES)):
        path = folder / f"{index}.jpg"
        path.write_bytes(content)
        _, height, width = read_image(path).shape
        images.append(Image(index, path.name, width, height))
    boxes = [(10.0 * k, 5.0 * k, 30.0 + k, 40.0) for k in range(3)]
    objects = [Annotation(3 * one.id + k, one.id, 1, box, 1200.0) for one in images for k, box in enumerate(boxes)]
    return AnnotationSet((Category(1, "thing"),), tuple(images), tuple(objects))


def _of_voc() -> Iterator[bytes]:
    with tarfile.open(_VOC) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.name.endswith(".jpg") else None
            if file:
                yield file.read()


def _parts() -> Iterator[bytes]:
    from sklearn.datasets import load_sample_images

    drawn = random.Random(0)
    whole = [PIL.Image.fromarray(pixels) for pixels in load_sample_images().images]
    for index in range(_IMAGES):
        width, height = drawn.choice([(400, 300), (400, 266), (300, 400)])
        left, top = drawn.randrange(640 - width + 1), drawn.randrange(427 - height + 1)
        buffer = io.BytesIO()
        whole[index % 2].crop((left, top, left + width, top + height)).save(buffer, "JPEG", quality=80)
        yield buffer.getvalue()


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class _Plain(Dataset[Any]):
    """The same samples from Python objects: what one would write first."""

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


def annotations_memory(workers: int, *, plain: bool = False, images: int = 20_000, each: int = 5) -> float:
    """MiB that a data set's annotations take after an epoch, in the training process and its workers together.

    Each page counts once, however many of these processes share it (PSS), and pages of files (libraries) don't: their
    share depends on what else runs. What an epoch of a hundred images takes, in as many processes, is subtracted.
    """
    # In new processes: what this one did before would count.
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        much, little = (pool.submit(_after_an_epoch, workers, plain, count, each).result() for count in (images, 100))
    return (much - little) / 2**10


def _after_an_epoch(workers: int, plain: bool, images: int, each: int) -> int:
    """KiB of this process and its children, which have just made every batch."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="loader-") as folder:
        batches = _batches(_small(Path(folder), images, each), Path(folder), workers, 0.5, (1, 1))
        steps: Iterator[Any]
        if plain:
            keys = [[(0, index) for index in step] for step in batches.steps(0)]
            warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than cores
            steps = iter(DataLoader(_Plain(batches.data), batch_sampler=keys, num_workers=workers, collate_fn=collate))
        else:
            steps = batches(0)
        for _ in islice(steps, len(batches) - 1):  # after the last, workers may go
            pass
        return sum(_pss(pid) for pid in ["self", *(str(child.pid) for child in active_children())])


def _small(folder: Path, images: int, each: int) -> AnnotationSet:
    """Images of one pixel, with names as long as real ones."""
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (1, 1)).save(buffer, "JPEG")
    records = [Image(index, f"JPEGImages/2007_{index:012d}.jpg", 1, 1) for index in range(images)]
    (folder / "JPEGImages").mkdir()
    for record in records:
        (folder / record.file_name).write_bytes(buffer.getvalue())
    boxes = [Annotation(index, index // each, 1, (0.0, 0.0, 1.0, 1.0), 1.0) for index in range(images * each)]
    return AnnotationSet((Category(1, "thing"),), tuple(records), tuple(boxes))


def _pss(pid: str) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))


_CORES = max(1, len(os.sched_getaffinity(0)))
MEASUREMENTS = [
    Measurement("files to normalized batches at 800 px: one process, one thread", 1.5, partial(files_to_batches, 0)),
    Measurement(
        "files to normalized batches at 800 px: a worker on every core", 1.5, partial(files_to_batches, _CORES)
    ),
]
LIMITS = [
    Limit(f"memory of 100,000 annotations, {workers} workers", 100, "MiB", partial(annotations_memory, workers))
    for workers in (0, 2, 4)
]
