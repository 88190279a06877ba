"""Detection in all images of a split, in one process and in several."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

import torch

from fcos.config import PAPER, InputSize
from fcos.detector import build
from fcos.inference import detect
from fcos.postprocess import Postprocess
from pipeline.data.annotations import AnnotationSet, Category, Image
from pipeline.data.detections import Detection
from pipeline.inference.detect import detect_split

SIZES = [(40, 30), (60, 30), (32, 64), (40, 30), (50, 50), (30, 40), (64, 64)]


def in_order(detections: Iterable[Detection]) -> list[Detection]:
    return sorted(detections, key=lambda detection: (detection.image_id, -detection.score))


def test_each_image_is_processed_by_exactly_one_process(picture: Callable[..., Path], tmp_path: Path) -> None:
    images = [Image(10 + index, f"{index}.png", *size) for index, size in enumerate(SIZES)]
    for index, image in enumerate(images):
        picture(tmp_path / image.file_name, (image.width, image.height), index)
    split = AnnotationSet((Category(1, "cat"),), tuple(images), ())
    torch.manual_seed(0)
    config = replace(PAPER, backbone="tiny", pretrained=False, channels=16, levels=(3, 4, 5), tower_depth=1)
    detector = build(replace(config, frozen_stages=0), 1).eval()
    detect_batch = partial(
        detect,
        detector,
        input_size=InputSize((64, 64), letterbox=True),
        postprocess=Postprocess(score_threshold=0.0, max_detections=3),
    )
    calls: list[list[int]] = []  # of `progress`, for each process

    def run(rank: int, world_size: int) -> list[Detection]:
        calls.append([])
        return list(
            detect_split(
                detect_batch,
                split,
                tmp_path,
                batch_size=2,
                progress=calls[-1].append,
                rank=rank,
                world_size=world_size,
            )
        )

    everything = run(0, 1)
    assert {detection.image_id for detection in everything} == {image.id for image in images}
    shares = [run(rank, 3) for rank in range(3)]
    image_ids = [{detection.image_id for detection in share} for share in shares]
    assert [len(ids) for ids in image_ids] == [3, 2, 2]
    assert set.union(*image_ids) == {image.id for image in images}
    assert in_order(chain(*shares)) == in_order(everything)
    # Equally often in every process: each call may exchange values between them.
    assert calls == [[2, 2, 2, 1], [2, 1], [2, 0], [2, 0]]
