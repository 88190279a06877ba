"""The measurement of augmentation: what our side gives, and that it is left out without the other package."""

import sys
from dataclasses import replace

import pytest
import torch

from benchmarks import augmentation
from benchmarks.harness import Unavailable
from pipeline.loading.transforms.sample import FILL


def test_our_images_are_mosaics_that_are_warped() -> None:
    # An object of the size of the image, so that a part of it is seen wherever the image is cut.
    samples = [
        replace(sample, boxes=torch.tensor([[0.0, 0.0, *reversed(sample.size)]]), labels=sample.labels[:1])
        for sample in augmentation.read_samples(5)
    ]
    augment = augmentation.ours(samples)
    results = [augment(number) for number in range(6)]
    assert {result.size for result in results} == {(640, 640)}
    for result, sample in zip(results, samples, strict=False):
        assert result.name == sample.name
        colors = result.image.permute(1, 2, 0).reshape(-1, 3).unique(dim=0).tolist()
        assert list(FILL) in colors  # what the warp has moved in
    assert not results[5].image.equal(results[0].image)  # another epoch
    assert max(len(result.boxes) for result in results) > 1


def test_without_albumentations_there_is_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "albumentations", None)
    with pytest.raises(Unavailable, match="albumentations is not installed"):
        augmentation.mosaic_to_flip()
