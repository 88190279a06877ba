"""Files whose header states a large image, as a decompression bomb's does."""

import struct
import zlib
from pathlib import Path


def enlarge_png(path: Path, width: int, height: int) -> None:
    """Changes the size in the header of a PNG file; its pixels stay those of a small image."""
    content = path.read_bytes()
    header = b"IHDR" + struct.pack(">II", width, height) + content[24:29]
    path.write_bytes(content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:])
