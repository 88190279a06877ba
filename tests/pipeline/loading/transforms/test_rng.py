"""Random numbers by key."""

import torch

from pipeline.loading.transforms import generator
from pipeline.loading.transforms.rng import SampleRng


def test_the_same_key_gives_the_same_numbers_and_another_key_others() -> None:
    assert torch.equal(torch.rand(4, generator=generator(0, 1, "a")), torch.rand(4, generator=generator(0, 1, "a")))
    assert not torch.equal(torch.rand(4, generator=generator(0, 1, "a")), torch.rand(4, generator=generator(0, 2, "a")))
    rng = SampleRng((0, 1, "a"))
    assert rng.stream("flip").random() == rng.stream("flip").random()
    different = {
        rng.stream("flip").random(),
        rng.stream("crop").random(),
        rng.child("mosaic", 1).stream("flip").random(),
    }
    assert len(different) == 3
    assert rng.maybe("flip", 0.0) is None
    assert rng.maybe("flip", 1.0) is not None
