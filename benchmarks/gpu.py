"""GPU: inference and training compared with torchvision's, utilization, memory, and host synchronization."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import training
from benchmarks.harness import Limit, Measurement, Side, Unavailable, compare
from benchmarks.inference import random_model
from fcos.criterion import Criterion
from fcos.detector import Detector
from fcos.fast.fused import fuse
from fcos.structures import make_targets
from fcos.torchvision_weights import TORCHVISION, TORCHVISION_POSTPROCESS, from_torchvision
from fcos.training.amp import Precision
from fcos.training.batch import Batch
from fcos.training.ema import ModelEMA
from fcos.training.history import NullCallback, Row
from fcos.training.optimization import make_optimizer, make_schedule
from fcos.training.trainer import Trainer

_SIZE = (800, 1088)  # pixels; a multiple of 32, so that neither side pads
_CLASSES = 91  # torchvision's, with the background
# Peak FLOPS of dense 16-bit matrix products, by a part of the GPU's name; from the vendor's data sheets.
_PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "T4": 65e12}


def _require_gpu() -> None:
    if not torch.cuda.is_available():
        raise Unavailable("no GPU")


def _sixteen_bits() -> str:
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def _inference(count: int) -> tuple[Side, Side]:
    """From images on the GPU to boxes, both under AMP, with the same weights."""
    _require_gpu()
    model = random_model(_CLASSES)
    model.transform.min_size, model.transform.max_size = _SIZE[:1], _SIZE[1]
    detector, model = fuse(from_torchvision(model.state_dict(), range(_CLASSES))).cuda(), model.cuda()
    generator = torch.Generator().manual_seed(0)
    images = list(torch.randint(0, 256, (count, 3, *_SIZE), generator=generator, dtype=torch.uint8).cuda())

    @torch.inference_mode()
    def ours() -> object:
        with torch.autocast("cuda", torch.float16):
            outputs = detector(detector.prepare(images))
        return TORCHVISION_POSTPROCESS(outputs.float(), [_SIZE] * count)

    @torch.inference_mode()
    def theirs() -> object:
        with torch.autocast("cuda", torch.float16):
            return model([image / 255 for image in images])

    return ours, theirs


def _training(images: int, pixels: int) -> tuple[Side, Side]:
    _require_gpu()
    return training.sides(
        images=images, height=pixels, width=pixels, device=torch.device("cuda"), precision=_sixteen_bits()
    )


def _unused_percentage(images: int, pixels: int) -> float:
    """Percent of the GPU's peak FLOPS that a training step does not use; counts the FLOPs of matrix products only."""
    step, _ = _training(images, pixels)
    name = torch.cuda.get_device_name()
    peak = next((value for part, value in _PEAKS.items() if part in name), None)
    if peak is None:
        raise Unavailable(f"unknown peak FLOPS of a {name}")
    with FlopCounterMode(display=False) as counter:
        step()
    seconds = compare(step, step, repeats=5, warmup=2).ours.median
    return 100 * (1 - float(counter.get_total_flops()) / seconds / peak)


def _memory_ratio(images: int, pixels: int) -> float:
    """Peak memory of our training step divided by torchvision's."""
    _require_gpu()
    peaks = []
    for side in (0, 1):
        step = _training(images, pixels)[side]
        step()
        torch.cuda.reset_peak_memory_stats()
        step()
        peaks.append(torch.cuda.max_memory_allocated())
        del step
        torch.cuda.empty_cache()
    return peaks[0] / peaks[1]


def make_trainer(
    batches: Callable[[int, int], Iterator[Sequence[Batch]]], *, device: torch.device, amp: str
) -> Trainer:
    """A trainer for one epoch with AMP, gradient clipping, EMA and a schedule."""
    torch.manual_seed(0)
    model = training.torchvision_model(*_SIZE)
    detector = from_torchvision(model.state_dict(), range(_CLASSES)).to(device)
    optimizer = make_optimizer(detector, name="sgd", lr=1e-4, weight_decay=1e-4, momentum=0.9)

    def validate(_: Detector) -> Row:
        return {}

    return Trainer(
        detector=detector,
        criterion=Criterion(TORCHVISION, box_loss="giou"),
        optimizer=optimizer,
        schedule=make_schedule(optimizer, name="cosine", steps=100, warmup=10, drops=[], gamma=0.1),
        precision=Precision(amp, device),  # type: ignore[arg-type]
        ema=ModelEMA(detector, 0.999),
        batches=batches,
        validate=validate,
        epochs=1,
        validate_every=1,
        clip_grad_norm=10.0,
        callback=NullCallback(),
        log_every=100,
    )


def make_batch(images: int, height: int, width: int) -> Batch:
    """Images of noise with two objects each, in host memory."""
    boxes = torch.tensor([[0.1, 0.1, 0.6, 0.7], [0.3, 0.2, 0.4, 0.4]]) * torch.tensor([width, height] * 2)
    return Batch(
        pixels=torch.randint(0, 256, (images, 3, height, width), dtype=torch.uint8),
        sizes=torch.tensor([[height, width]] * images),
        targets=make_targets([boxes] * images, [torch.tensor([3, 7])] * images),
        names=["noise"] * images,
        objects=2 * images,
        annotated=2 * images,
    )


def _synchronizations() -> float:
    """1 if a training step without logging synchronizes the host with the GPU, else 0."""
    _require_gpu()
    batch = make_batch(2, *_SIZE).pin_memory()

    def batches(_epoch: int, _first: int) -> Iterator[Sequence[Batch]]:
        yield from [[batch]] * 3  # the first calls of cuDNN and of the allocator may synchronize
        torch.cuda.set_sync_debug_mode("error")
        yield [batch]
        torch.cuda.set_sync_debug_mode("default")

    try:
        make_trainer(batches, device=torch.device("cuda"), amp=_sixteen_bits()).fit()
    except RuntimeError as error:
        if "synchronizing" not in str(error):
            raise
        return 1.0
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return 0.0


MEASUREMENTS = [
    Measurement("GPU, AMP: 1 image to boxes", 3.0, partial(_inference, 1)),
    Measurement("GPU, AMP: 16 images to boxes", 2.0, partial(_inference, 16)),
    Measurement("GPU, AMP: training step, 16 images of 640 px", 1.8, partial(_training, 16, 640)),
]
LIMITS = [
    Limit("GPU: a training step synchronizes host and GPU", 1.0, "times", _synchronizations),
    Limit(
        "GPU, AMP: peak FLOPS not used by a training step, 64 images of 640 px",
        60.0,
        "%",
        partial(_unused_percentage, 64, 640),
    ),
    Limit(
        "GPU, AMP: memory of a training step, relative to torchvision's", 1.0, "times", partial(_memory_ratio, 16, 640)
    ),
]
