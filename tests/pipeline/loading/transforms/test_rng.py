"""Random numbers by key."""

import torch

from pipeline.loading.transforms import generator
from pipeline.loading.transforms.rng import Luck


def test_the_same_key_gives_the_same_numbers_and_another_key_others() -> None:
    assert torch.equal(torch.rand(4, generator=generator(0, 1, "a")), torch.rand(4, generator=generator(0, 1, "a")))
    assert not torch.equal(torch.rand(4, generator=generator(0, 1, "a")), torch.rand(4, generator=generator(0, 2, "a")))
    luck = Luck((0, 1, "a"))
    assert luck.of("flip").random() == luck.of("flip").random()
    different = {luck.of("flip").random(), luck.of("crop").random(), luck.within("mosaic", 1).of("flip").random()}
    assert len(different) == 3
    assert luck.drawn("flip", 0.0) is None
    assert luck.drawn("flip", 1.0) is not None
