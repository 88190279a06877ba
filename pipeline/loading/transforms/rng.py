"""Random numbers that depend on a key alone, the same in every process and on every machine."""

import hashlib
from dataclasses import dataclass
from random import Random

import torch


def generator(*key: object) -> torch.Generator:
    """torch's random numbers of a key."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


@dataclass(frozen=True)
class SampleRng:
    """The randomness of one image in one epoch.

    Every transformation has random numbers of its own, so that switching one on doesn't change another's.
    """

    key: tuple[object, ...]  # seed, epoch, the image's name, and what it is for

    def stream(self, transformation: str) -> Random:
        """The transformation's random numbers, from the first on."""
        return Random(repr((*self.key, transformation)))

    def maybe(self, transformation: str, probability: float) -> Random | None:
        """The transformation's random numbers where it is to happen, which has this probability; else None."""
        if not probability:
            return None
        random = self.stream(transformation)
        return random if random.random() < probability else None

    def child(self, *what: object) -> "SampleRng":
        """Another's, as far from this one as another image's: of an image that is put together with this one."""
        return SampleRng((*self.key, *what))
