"""On a GPU: inference and training against torchvision's, how much of it training uses, and that nothing waits."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import training
from benchmarks.harness import Limit, Measurement, Side, Unavailable, compare
from benchmarks.inference import lively
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
# Dense products in 16 bits a second, by what the GPU's name holds: its makers' data sheets.
_PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "T4": 65e12}


def _need_gpu() -> None:
    if not torch.cuda.is_available():
        raise Unavailable("no GPU here")


def _sixteen_bits() -> str:
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def _inference(count: int) -> tuple[Side, Side]:
    """Images on the GPU in, boxes out, both under AMP, with the same weights."""
    _need_gpu()
    theirs = lively(_CLASSES)
    theirs.transform.min_size, theirs.transform.max_size = _SIZE[:1], _SIZE[1]
    detector, theirs = fuse(from_torchvision(theirs.state_dict(), range(_CLASSES))).cuda(), theirs.cuda()
    generator = torch.Generator().manual_seed(0)
    images = list(torch.randint(0, 256, (count, 3, *_SIZE), generator=generator, dtype=torch.uint8).cuda())

    @torch.inference_mode()
    def ours() -> object:
        with torch.autocast("cuda", torch.float16):
            outputs = detector(detector.prepare(images))
        return TORCHVISION_POSTPROCESS(outputs.float(), [_SIZE] * count)

    @torch.inference_mode()
    def torchvisions() -> object:
        with torch.autocast("cuda", torch.float16):
            return theirs([image / 255 for image in images])

    return ours, torchvisions


def _training(images: int, pixels: int) -> tuple[Side, Side]:
    _need_gpu()
    return training.sides(
        images=images, height=pixels, width=pixels, device=torch.device("cuda"), precision=_sixteen_bits()
    )


def _unused(images: int, pixels: int) -> float:
    """Per cent of the GPU's peak that a step's model FLOPs, those of its products, leave unused."""
    step, _ = _training(images, pixels)
    name = torch.cuda.get_device_name()
    peak = next((value for part, value in _PEAKS.items() if part in name), None)
    if peak is None:
        raise Unavailable(f"the peak of a {name} isn't known here")
    with FlopCounterMode(display=False) as counted:
        step()
    seconds = compare(step, step, repeats=5, warmup=2).ours.median
    return 100 * (1 - float(counted.get_total_flops()) / seconds / peak)


def _memory(images: int, pixels: int) -> float:
    """The peak of our step's memory by torchvision's."""
    _need_gpu()
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


def trainer(batches: Callable[[int, int], Iterator[Sequence[Batch]]], *, device: torch.device, amp: str) -> Trainer:
    """A training of one epoch with everything on: AMP, clipping, the moving average, a schedule."""
    torch.manual_seed(0)
    model = training.torchvisions_model(*_SIZE)
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


def batch(images: int, height: int, width: int) -> Batch:
    """Noise with two objects in each image, on the host."""
    boxes = torch.tensor([[0.1, 0.1, 0.6, 0.7], [0.3, 0.2, 0.4, 0.4]]) * torch.tensor([width, height] * 2)
    return Batch(
        pixels=torch.randint(0, 256, (images, 3, height, width), dtype=torch.uint8),
        sizes=torch.tensor([[height, width]] * images),
        targets=make_targets([boxes] * images, [torch.tensor([3, 7])] * images),
        names=["noise"] * images,
        objects=2 * images,
        annotated=2 * images,
    )


def _waits() -> float:
    """1 where a step of the Trainer, of which nothing is logged, makes the GPU or the host wait, else 0."""
    _need_gpu()
    part = batch(2, *_SIZE).pin_memory()

    def batches(_epoch: int, _first: int) -> Iterator[Sequence[Batch]]:
        yield from [[part]] * 3  # cuDNN's and the allocator's first time may wait
        torch.cuda.set_sync_debug_mode("error")
        yield [part]
        torch.cuda.set_sync_debug_mode("default")

    try:
        trainer(batches, device=torch.device("cuda"), amp=_sixteen_bits()).fit()
    except RuntimeError as error:
        if "synchronizing" not in str(error):
            raise
        return 1.0
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return 0.0


MEASUREMENTS = [
    Measurement("GPU, AMP: 1 image in, boxes out", 3.0, partial(_inference, 1)),
    Measurement("GPU, AMP: 16 images in, boxes out", 2.0, partial(_inference, 16)),
    Measurement("GPU, AMP: training step, 16 images of 640 px", 1.8, partial(_training, 16, 640)),
]
LIMITS = [
    Limit("GPU: a whole training step waits", 1.0, "times", _waits),
    Limit("GPU, AMP: peak left unused by a training step, 64 images of 640 px", 60.0, "%", partial(_unused, 64, 640)),
    Limit("GPU, AMP: memory of a training step by torchvision's", 1.0, "times", partial(_memory, 16, 640)),
]
