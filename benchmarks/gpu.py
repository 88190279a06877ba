"""On a GPU: the whole detector against torchvision's, and that a step never waits for the host."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torchvision.models.detection import fcos_resnet50_fpn

from benchmarks.harness import Limit, Measurement, Side, Unavailable
from fcos.config import PAPER
from fcos.criterion import Criterion
from fcos.detector import Detector, build
from fcos.postprocess import Postprocess
from fcos.targets import Targets, targets

_SIZE = (800, 1088)  # pixels; a multiple of 32, so that neither side pads
_CLASSES = 90  # torchvision counts the background as the ninety-first
_MODEL = replace(PAPER, pretrained=False, batch_norm="frozen")


def _images(count: int) -> list[Tensor]:
    """Noise, of which untrained detectors see as much as of photographs; uint8 on the GPU."""
    generator = torch.Generator(device="cuda").manual_seed(0)
    return [
        torch.randint(0, 256, (3, *_SIZE), generator=generator, device="cuda", dtype=torch.uint8) for _ in range(count)
    ]


def _need_gpu() -> None:
    if not torch.cuda.is_available():
        raise Unavailable("no GPU here")


def _inference(count: int) -> tuple[Side, Side]:
    """Images on the GPU in, boxes out, both under AMP."""
    _need_gpu()
    torch.manual_seed(0)
    images = _images(count)
    detector, postprocess = build(_MODEL, _CLASSES).cuda().eval(), Postprocess()
    theirs = fcos_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=_CLASSES + 1, min_size=_SIZE[0], max_size=_SIZE[1]
    )
    theirs = theirs.cuda().eval()

    @torch.inference_mode()
    def ours() -> object:
        with torch.autocast("cuda", torch.float16):
            return postprocess(detector(detector.prepare(images)), [_SIZE] * count)

    @torch.inference_mode()
    def torchvisions() -> object:
        with torch.autocast("cuda", torch.float16):
            return theirs([image.float() / 255 for image in images])

    return ours, torchvisions


def _waits() -> float:
    """1 where forward, assignment or losses make the GPU wait for the host, else 0."""
    _need_gpu()
    torch.manual_seed(0)
    detector, criterion = build(_MODEL, _CLASSES).cuda().train(), Criterion(_MODEL, box_loss="giou")
    batch = detector.prepare(_images(2))
    boxes = torch.tensor([[20.0, 30.0, 300.0, 400.0], [100.0, 100.0, 140.0, 150.0]])
    objects = targets([boxes, boxes[:1]], [torch.tensor([3, 7]), torch.tensor([5])]).to(batch.device)
    _step(detector, criterion, batch, objects)  # cuDNN's and the allocator's first time may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        _step(detector, criterion, batch, objects)
    except RuntimeError as error:
        if "synchronizing" not in str(error):
            raise
        return 1.0
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return 0.0


def _step(detector: Detector, criterion: Criterion, batch: Tensor, objects: Targets) -> None:
    with torch.autocast("cuda", torch.float16):
        outputs = detector(batch)
    criterion(outputs, objects)


def _with(count: int) -> Callable[[], tuple[Side, Side]]:
    return lambda: _inference(count)


MEASUREMENTS = [
    Measurement("GPU, AMP: 1 image in, boxes out", 3.0, _with(1)),
    Measurement("GPU, AMP: 16 images in, boxes out", 2.0, _with(16)),
]
LIMITS = [Limit("GPU: forward, assignment and losses wait for the host", 1.0, "times", _waits)]
