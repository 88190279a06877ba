"""Random numbers that depend on a key."""

import torch

from pipeline.loading.transforms import torch_generator
from pipeline.loading.transforms.rng import SampleRng


def test_equal_keys_give_equal_numbers_and_other_keys_give_others() -> None:
    first, again, other = (
        torch.rand(4, generator=torch_generator(*key)) for key in ((0, 1, "a"), (0, 1, "a"), (0, 2, "a"))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    rng = SampleRng((0, 1, "a"))
    assert rng.stream("flip").random() == rng.stream("flip").random()
    streams = (rng.stream("flip"), rng.stream("crop"), rng.child("mosaic", 1).stream("flip"))
    assert len({stream.random() for stream in streams}) == 3


def test_maybe_follows_the_probability() -> None:
    rng = SampleRng((0, 1, "a"))
    assert rng.maybe("flip", 0.0) is None
    assert rng.maybe("flip", 1.0) is not None
