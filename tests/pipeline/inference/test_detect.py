"""Detection in a split, by one process and by several."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from fcos.config import PAPER, InputSize
from fcos.detector import build
from fcos.postprocess import Postprocess
from pipeline.data.annotations import AnnotationSet, Category, Image
from pipeline.data.detections import Detection
from pipeline.inference.detect import detect_split

SIZES = [(40, 30), (60, 30), (32, 64), (40, 30), (50, 50), (30, 40), (64, 64)]


def test_every_image_is_looked_at_by_exactly_one_process(picture: Callable[..., Path], tmp_path: Path) -> None:
    images = [Image(10 + index, f"{index}.png", *size) for index, size in enumerate(SIZES)]
    for index, image in enumerate(images):
        picture(tmp_path / image.file_name, (image.width, image.height), index)
    split = AnnotationSet((Category(1, "cat"),), tuple(images), ())
    torch.manual_seed(0)
    config = replace(PAPER, backbone="tiny", pretrained=False, channels=16, levels=(3, 4, 5), tower_depth=1)
    detector = build(replace(config, frozen_stages=0), 1).eval()
    told: list[list[int]] = []

    def found(rank: int, count: int) -> list[Detection]:
        told.append([])
        return list(
            detect_split(
                detector,
                split,
                tmp_path,
                input_size=InputSize((64, 64), letterbox=True),
                postprocess=Postprocess(score_threshold=0.0, max_detections=3),
                batch_size=2,
                progress=told[-1].append,
                rank=rank,
                world_size=count,
            )
        )

    whole = found(0, 1)
    assert {one.image_id for one in whole} == {image.id for image in images}
    shares = [found(rank, 3) for rank in range(3)]
    ours = [{one.image_id for one in share} for share in shares]
    assert [len(each) for each in ours] == [3, 2, 2]
    assert set.union(*ours) == {image.id for image in images}
    assert sorted((one for share in shares for one in share), key=lambda one: (one.image_id, -one.score)) == sorted(
        whole, key=lambda one: (one.image_id, -one.score)
    )
    # As often in each, so that they can agree on something.
    assert told == [[2, 2, 2, 1], [2, 1], [2, 0], [2, 0]]
