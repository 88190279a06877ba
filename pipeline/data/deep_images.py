"""Images with more than eight bits per channel, converted to eight.

Such files rarely use the whole range of their type: 12-bit cameras write values up to 4,095 into 16-bit files, and
scientific tools write floats from 0 to 1. The range is chosen for each file by itself, so that an image has the same
pixels in conversion, training and prediction:

1. the range that the file states, if all values are inside (TIFF: BitsPerSample, MinSampleValue and MaxSampleValue;
   PNG: sBIT; PPM: its maximum);
2. otherwise the first of 0…255, 0…1023, 0…4095, 0…16383, 0…65535 (for floats also 0…1) with all values inside;
3. but the file's smallest to its largest value, if some values are negative or above 65535, or if all of them lie in a
   sixteenth of the range, as in thermal images. A flat image keeps the range, so that noise is not amplified.
"""

import struct
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL import ExifTags
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import ImageFileDirectory_v2

_FULL_SCALES = (255, 1023, 4095, 16383, 65535)  # of 8, 10, 12, 14 and 16 bits
_SHIFTS = {2**bits - 1: bits - 8 for bits in range(8, 17)}  # that leave the upper eight bits, by full scale
_MIN_SPAN = 1 / 16  # of the range: less is stretched
_FLAT = 1 / 256  # of the largest value: less is no picture
_BLOCK = 2**20  # values converted at a time, to bound the memory for intermediate results

_TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_UNSIGNED, _SIGNED = 1, 2  # SampleFormat
_CONTIGUOUS = 1  # PlanarConfiguration
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2  # PhotometricInterpretation
_MIN_SAMPLE_VALUES = (280, 340)  # MinSampleValue, SMinSampleValue
_MAX_SAMPLE_VALUES = (281, 341)  # MaxSampleValue, SMaxSampleValue
_GDAL_NODATA = 42113  # the value of pixels without data, as text
Values = NDArray[Any]
Tags = dict[int, Any]


class Range(NamedTuple):
    """The values that become black and white."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class EightBits:
    """An image converted to eight bits per channel."""

    pixels: NDArray[np.uint8]  # [H, W] or [H, W, 3]
    description: str  # of the values that became black and white, such as `0…4095`

    def rgb(self) -> NDArray[np.uint8]:
        """[H, W, 3]."""
        return self.pixels if self.pixels.ndim == 3 else np.repeat(self.pixels[..., None], 3, axis=2)


def read_deep_image(picture: ImageFile | None, file: BinaryIO) -> EightBits | None:
    """Decodes an image with more than eight bits per channel; None for any other, whose pixels are not decoded.

    Args:
        picture: opened by Pillow; None for a TIFF that Pillow can't decode.

    Raises:
        OSError, ValueError, KeyError, …: the file is invalid or truncated, or of a kind that can't be read.
    """
    if picture is None or picture.format == "TIFF":
        return _read_tiff(picture, file)
    if picture.format == "PNG":
        return _read_png(picture, file)
    if picture.format == "PPM" and picture.tile[0].codec_name == "ppm":
        return _read_ppm(picture, file)
    return to_eight_bits(np.asarray(picture)) if picture.mode[0] in "IF" else None


def _decode_by_opencv(file: BinaryIO, size: tuple[int, int]) -> Values:
    """[H, W] or [H, W, 3] in the file's own type, for images of which Pillow keeps eight bits at most."""
    import cv2  # few images need it

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # it warns on stderr about unknown tags
    file.seek(0)
    values: Values | None = cv2.imdecode(np.fromfile(file, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype == np.uint8 or values.shape[1::-1] != size:
        raise OSError("damaged, or of a kind that can't be read: save it as gray or RGB of 8 or 16 bits per channel")
    return values if values.ndim == 2 else values[..., 2::-1]  # from BGR or BGRA


def to_eight_bits(values: Values, stated: Range | None = None, nodata: float | None = None) -> EightBits:
    """Converts integers or floats, [H, W] or [H, W, 3]. NaN and `nodata` become black.

    Of a range from 0 to 2**b − 1, integers keep their upper eight bits. Other ranges are mapped linearly and rounded.

    Args:
        stated: the range that the file states.
        nodata: the value of pixels without data.
    """
    rows = max(1, _BLOCK * len(values) // max(1, values.size))
    blocks = [values[start : start + rows] for start in range(0, len(values), rows)]
    measured = _measure(blocks, nodata)
    if stated is None or measured.low < stated.low or measured.high > stated.high:
        stated = _full_scale(measured, is_float=values.dtype.kind == "f")
    used = stated or measured
    description = f"{stated.low:g}…{stated.high:g}" if stated else "the smallest to the largest in the file"
    return EightBits(np.concatenate([_scale(block, used, nodata) for block in blocks]), description)


def _measure(blocks: list[Values], nodata: float | None) -> Range:
    """The smallest and the largest finite value; 0 and 0 if there is none."""
    valid = [block[np.isfinite(block) & (block != nodata)] for block in blocks]
    low = min((float(block.min()) for block in valid if block.size), default=0.0)
    high = max((float(block.max()) for block in valid if block.size), default=0.0)
    return Range(low, high)


def _full_scale(measured: Range, *, is_float: bool) -> Range | None:
    """The range of the smallest full scale that suits the values; None if none does."""
    low, high = measured
    scale = next((scale for scale in ((1, *_FULL_SCALES) if is_float else _FULL_SCALES) if high <= scale), None)
    is_flat = high - low <= max(abs(low), abs(high)) * _FLAT
    if low < 0 or scale is None or (high - low < scale * _MIN_SPAN and not is_flat):
        return None
    return Range(0, scale)


def _scale(values: Values, used: Range, nodata: float | None) -> NDArray[np.uint8]:
    low, high = used
    if values.dtype.kind in "ui" and low == 0 and high in _SHIFTS:
        result: Values = values >> _SHIFTS[int(high)]
    else:
        scaled = (values.astype(np.float64) - low) * (255 / (high - low) if high > low else 0)
        result = np.nan_to_num(scaled, nan=0, posinf=255, neginf=0).clip(0, 255) + 0.5
    if nodata is not None:
        result[values == nodata] = 0
    return result.astype(np.uint8)


def _read_png(picture: ImageFile, file: BinaryIO) -> EightBits | None:
    file.seek(0)
    header = file.read(2**16)
    if header[24] != 16:  # bits per channel
        return None
    picture.load()  # raises the error of a truncated file
    values = np.asarray(picture) if picture.mode.startswith("I") else _decode_by_opencv(file, picture.size)
    return to_eight_bits(values, _png_range(header, values))


def _png_range(header: bytes, values: Values) -> Range | None:
    """The range by sBIT, the number of significant bits; None without sBIT.

    By the standard, samples are scaled up to 16 bits, and the lower bits are not significant. Some tools write them
    right-aligned instead: all values fit into the significant bits, and the lower bits are in use.
    """
    bits = _significant_bits(header)
    if not 8 <= bits < 16:
        return None
    is_right_aligned = int(values.max()) < 2**bits and bool((values & (2 ** (16 - bits) - 1)).any())
    return Range(0, 2**bits - 1 if is_right_aligned else 65535)


def _significant_bits(header: bytes) -> int:
    """The content of the chunk sBIT, 16 without it."""
    position = 8  # after the signature; a chunk is length, type, data, checksum
    while position + 8 < len(header):
        length, kind = struct.unpack_from(">I4s", header, position)
        if kind == b"sBIT":
            return max(header[position + 8 : position + 8 + min(length, 3)], default=16)
        position += 12 + length
    return 16


def _read_ppm(picture: ImageFile, file: BinaryIO) -> EightBits | None:
    """Binary PGM or PPM; Pillow would scale the values by the maximum that the file states."""
    maximum = int(picture.tile[0].args[-1])  # type: ignore[index] # of the codec `ppm`: always a tuple
    if maximum <= 255:
        return None
    file.seek(picture.tile[0].offset)
    shape = (picture.height, picture.width, 3)[: 3 if picture.mode == "RGB" else 2]
    values = np.fromfile(file, dtype=">u2", count=int(np.prod(shape))).reshape(shape)
    return to_eight_bits(values, Range(0, maximum) if maximum < 65535 else None)


def read_tiff_size(file: BinaryIO) -> tuple[int, int]:
    """Width and height of a TIFF that Pillow can't open, because it can't decode the pixels.

    Raises:
        PIL.UnidentifiedImageError: the file is no TIFF.
    """
    tags = _read_tags(file)
    return int(tags[ExifTags.Base.ImageWidth]), int(tags[ExifTags.Base.ImageLength])


def _read_tags(file: BinaryIO) -> Tags:
    file.seek(0)
    header = file.read(16)
    if header[:4] not in _TIFF_SIGNATURES:
        raise PIL.UnidentifiedImageError("unknown image format")
    directory = ImageFileDirectory_v2(header if 43 in header[2:4] else header[:8])  # 43: BigTIFF
    file.seek(directory.next)
    directory.load(file)
    return dict(directory)


def _read_tiff(picture: ImageFile | None, file: BinaryIO) -> EightBits | None:
    tags: Tags = dict(picture.tag_v2) if picture else _read_tags(file)  # type: ignore[attr-defined]
    bits = int(max(_numbers(tags, ExifTags.Base.BitsPerSample), default=1))
    photometric = tags.get(ExifTags.Base.PhotometricInterpretation)
    is_deep = bits > 8 or _SIGNED in _numbers(tags, ExifTags.Base.SampleFormat)
    if picture is not None and not (is_deep and photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB)):
        return None
    values = _decode_tiff(picture, file, tags)
    image = to_eight_bits(values, _tiff_range(tags, values, bits), _nodata(tags))
    return EightBits(~image.pixels, image.description) if photometric == _WHITE_IS_ZERO else image


def _decode_tiff(picture: ImageFile | None, file: BinaryIO, tags: Tags) -> Values:
    if picture is not None:
        picture.load()  # raises the error of a truncated file
    if picture is not None and picture.mode in ("I", "F", "L", "I;16", "I;16B"):
        values = np.asarray(picture)
        # Pillow returns unsigned 32 bits as signed ones, and signed 8 bits as unsigned ones.
        sample_format = max(_numbers(tags, ExifTags.Base.SampleFormat), default=_UNSIGNED)
        types = {("I", _UNSIGNED): np.uint32, ("L", _SIGNED): np.int8}
        return values.view(types.get((picture.mode, int(sample_format)), values.dtype))
    if tags.get(ExifTags.Base.PlanarConfiguration, _CONTIGUOUS) != _CONTIGUOUS:
        raise OSError("its channels are stored one after the other: save it as RGB with contiguous channels")
    size = picture.size if picture else (tags[ExifTags.Base.ImageWidth], tags[ExifTags.Base.ImageLength])
    return _decode_by_opencv(file, size)


def _tiff_range(tags: Tags, values: Values, bits: int) -> Range | None:
    """The range that the tags state, if it is narrower than that of the type."""
    low = min((number for tag in _MIN_SAMPLE_VALUES for number in _numbers(tags, tag)), default=0.0)
    high = max((number for tag in _MAX_SAMPLE_VALUES for number in _numbers(tags, tag)), default=None)
    if high is None:
        high = 2.0**bits - 1 if 8 < bits < 16 else None
    is_narrower = high is not None and (values.dtype.kind == "f" or high < np.iinfo(values.dtype).max)
    return Range(low, high) if high is not None and is_narrower and low < high else None


def _nodata(tags: Tags) -> float | None:
    try:
        return float(str(tags[_GDAL_NODATA]).strip("\0 "))
    except (KeyError, ValueError):
        return None


def _numbers(tags: Tags, tag: int) -> list[float]:
    """The finite numbers in a tag; none if it is missing."""
    value = tags.get(tag, ())
    values = value if isinstance(value, tuple) else (value,)
    return [float(number) for number in values if isinstance(number, int | float) and np.isfinite(number)]
