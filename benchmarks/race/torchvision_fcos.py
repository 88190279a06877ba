"""The other side of a race: torchvision's FCOS, trained as a good engineer would write it in an afternoon."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, Dataset
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSHead

from benchmarks.race.scoring import TIMED_STEPS, Race, Result, Scores
from benchmarks.training import Pyramid
from fcos.detector import build
from fcos.postprocess import Detections
from fcos.training.ema import ModelEMA
from pipeline.data.annotations import Annotation
from pipeline.data.boxes import box_tensor
from pipeline.data.images import read_image
from pipeline.params import Params


class Pictures(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """Images [3, H, W] in 0 … 1 and torchvision's targets; with `flip`, half of them mirrored."""

    def __init__(self, race: Race, *, flip: bool) -> None:
        self.raw, self.flip = race.raw, flip
        self.labels = {category.id: label for label, category in enumerate(race.train.categories)}
        self.objects: dict[int, list[Annotation]] = {}
        for item in race.train.annotations:
            if not (item.iscrowd or item.difficult):
                self.objects.setdefault(item.image_id, []).append(item)
        self.images = [image for image in race.train.images if image.id in self.objects]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        image = self.images[index]
        items = self.objects[image.id]
        pixels = read_image(self.raw / image.file_name, (image.width, image.height)) / 255
        boxes = box_tensor(items)
        if self.flip and torch.rand(()) < 0.5:
            pixels = pixels.flip(-1)
            boxes = torch.stack([image.width - boxes[:, 2], boxes[:, 1], image.width - boxes[:, 0], boxes[:, 3]], 1)
        labels = torch.tensor([self.labels[item.category_id] for item in items])
        return pixels, {"boxes": boxes, "labels": labels}


def make_model(params: Params, classes: int) -> FCOS:
    """torchvision's FCOS with our backbone, channels and tower depth; P3 to P5 if we have no more, else P3 to P7."""
    config = params.model
    backbone = build(replace(config, batch_norm="frozen"), classes).backbone
    more = len(config.levels) > 3
    pyramid = Pyramid(backbone, config.channels, extra_levels=more)
    strides = [8, 16, 32, 64, 128] if more else [8, 16, 32]
    return FCOS(
        pyramid,
        classes,
        min_size=params.train.size[0],
        max_size=params.train.size[1],
        image_mean=list(backbone.mean),
        image_std=list(backbone.std),
        anchor_generator=AnchorGenerator(tuple((stride,) for stride in strides), ((1.0,),) * len(strides)),
        head=FCOSHead(config.channels, 1, classes, config.tower_depth),
        score_thresh=0.05,  # torchvision's 0.2 cuts recall
    )


@dataclass(frozen=True)
class Loop:
    """Its training loop, with the images' size, batch size, backbone and channels of our parameters."""

    race: Race
    params: Params
    lr: float

    def run(self) -> Result:
        times = {dtype: self._seconds_of_step(dtype) for dtype in (torch.float32, torch.bfloat16)}
        dtype = min(times, key=lambda dtype: times[dtype])
        epochs = self.race.epochs(times[dtype], len(self._loader()))
        scores = Scores(self.race)
        self._train(dtype, epochs, scores)
        name = "bf16" if dtype == torch.bfloat16 else "float32"
        return scores.result("torchvision", self.params.seed, f"lr {self.lr:g}, {name}", epochs)

    def _loader(self) -> "DataLoader[Any]":
        return DataLoader(
            Pictures(self.race, flip=self.params.train.augment.flip > 0),
            self.params.train.batch_size,
            shuffle=True,
            collate_fn=lambda samples: tuple(zip(*samples, strict=True)),
        )

    def _start(self, steps: int) -> tuple[FCOS, Any, Any]:
        torch.manual_seed(self.params.seed)
        model = make_model(self.params, len(self.race.classes)).train()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=self.lr, weight_decay=0.05, fused=True)
        return model, optimizer, OneCycleLR(optimizer, self.lr, total_steps=steps)

    def _seconds_of_step(self, dtype: torch.dtype) -> float:
        model, optimizer, schedule = self._start(2 * TIMED_STEPS + 2)
        times = []
        # The first step allocates memory and is not counted.
        for images, targets in islice(self._loader(), TIMED_STEPS + 1):
            _step(model, optimizer, schedule, images, targets, dtype)
            times.append(time.process_time())
        return (times[-1] - times[0]) / (len(times) - 1)

    def _train(self, dtype: torch.dtype, epochs: int, scores: Scores) -> None:
        loader = self._loader()
        model, optimizer, schedule = self._start(epochs * len(loader))
        average = ModelEMA(model, 0.99)
        for epoch in range(1, epochs + 1):
            for images, targets in loader:
                _step(model, optimizer, schedule, images, targets, dtype)
                average.update_parameters(model)
            if epoch % self.race.validate_every(epochs) == 0 or epoch == epochs:
                scores.validate(partial(detect_with_torchvision, average.module.eval()))


def _step(model: FCOS, optimizer: Any, schedule: Any, images: Any, targets: Any, dtype: torch.dtype) -> None:
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        losses = model(list(images), list(targets))
    torch.stack([loss.float() for loss in losses.values()]).sum().backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
    optimizer.step()
    schedule.step()


@torch.inference_mode()
def detect_with_torchvision(model: torch.nn.Module, pixels: Sequence[Tensor]) -> list[Detections]:
    return [
        Detections(found["boxes"], found["scores"], found["labels"])
        for found in model([image / 255 for image in pixels])
    ]
