"""Records of TFRecord files as bytes."""

import struct
from collections.abc import Iterator
from pathlib import Path

import crc32c
from tfrecord import example_pb2


def framed(content: bytes) -> bytes:
    """A record with its length and both checksums."""
    length = struct.pack("<Q", len(content))
    return length + _masked(length) + content + _masked(content)


def _masked(content: bytes) -> bytes:
    crc = crc32c.crc32c(content)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def examples(path: Path) -> Iterator[example_pb2.Example]:
    """The records of a file."""
    content = path.read_bytes()
    while content:
        (length,) = struct.unpack_from("<Q", content)
        yield example_pb2.Example.FromString(content[12 : 12 + length])
        content = content[16 + length :]
