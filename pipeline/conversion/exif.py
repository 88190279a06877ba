"""Boxes that were drawn on a picture as EXIF turns it, brought back to the pixels as they are stored."""

import msgspec

from pipeline.conversion.image_info import ImageInfo
from pipeline.formats.records import Box, RawImage

# Orientations (EXIF 2.32, tag 274) that swap width and height, by what they make of the stored picture.
_TRANSPOSED, _CLOCKWISE, _TRANSVERSED, _ANTICLOCKWISE = 5, 6, 7, 8


def is_annotated_rotated(record: RawImage, image_info: ImageInfo) -> bool:
    """Whether the size that the record gives is the turned picture's, and can't be the stored one's."""
    turned = image_info.orientation in (_TRANSPOSED, _CLOCKWISE, _TRANSVERSED, _ANTICLOCKWISE)
    return (
        turned
        and image_info.width != image_info.height
        and record.declared_size == (image_info.height, image_info.width)
    )


def to_stored_pixels(record: RawImage, image_info: ImageInfo) -> RawImage:
    """The record with its size and boxes in the stored picture's pixels."""
    objects = tuple(msgspec.structs.replace(one, box=_stored(one.box, image_info)) for one in record.objects)
    return msgspec.structs.replace(record, declared_size=(image_info.width, image_info.height), objects=objects)


def _stored(box: Box, image_info: ImageInfo) -> Box:
    """A box x, y, width, height of the turned picture in the stored one, which is look.width by look.height pixels."""
    x, y, width, height = box
    right = image_info.orientation in (
        _TRANSVERSED,
        _ANTICLOCKWISE,
    )  # the turned picture's top is the stored one's right
    bottom = image_info.orientation in (_CLOCKWISE, _TRANSVERSED)  # its left is the stored one's bottom
    return (
        image_info.width - y - height if right else y,
        image_info.height - x - width if bottom else x,
        height,
        width,
    )
