"""Random numbers that depend only on a key, so that they are the same in every process and on every machine."""

import hashlib
from dataclasses import dataclass
from random import Random

import torch


def torch_generator(*key: object) -> torch.Generator:
    """A torch generator seeded by the key."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


@dataclass(frozen=True)
class SampleRng:
    """The random numbers of one draw of an image in an epoch.

    Every transform draws from a stream of its own, so switching a transform on does not change the draws of the others.
    """

    key: tuple[object, ...]  # seed, epoch, file name of the image, the repeat from the second draw on; then the use

    def stream(self, transform: str) -> Random:
        """The transform's random numbers, from the first one on."""
        return Random(repr((*self.key, transform)))

    def maybe(self, transform: str, probability: float) -> Random | None:
        """The transform's random numbers with this probability, otherwise None: the transform is skipped."""
        if not probability:
            return None
        rng = self.stream(transform)
        return rng if rng.random() < probability else None

    def child(self, *key: object) -> "SampleRng":
        """Independent random numbers for another image that is combined with this one."""
        return SampleRng((*self.key, *key))
