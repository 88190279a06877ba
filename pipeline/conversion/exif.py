"""Boxes that were drawn on a picture as EXIF turns it, brought back to the pixels as they are stored."""

import msgspec

from pipeline.conversion.images import Look
from pipeline.formats.records import Box, RawImage

# Orientations (EXIF 2.32, tag 274) that swap width and height, by what they make of the stored picture.
_TRANSPOSED, _CLOCKWISE, _TRANSVERSED, _ANTICLOCKWISE = 5, 6, 7, 8


def drawn_on_turned(record: RawImage, look: Look) -> bool:
    """Whether the size that the record gives is the turned picture's, and can't be the stored one's."""
    turned = look.orientation in (_TRANSPOSED, _CLOCKWISE, _TRANSVERSED, _ANTICLOCKWISE)
    return turned and look.width != look.height and record.declared == (look.height, look.width)


def turned_back(record: RawImage, look: Look) -> RawImage:
    """The record with its size and boxes in the stored picture's pixels."""
    objects = tuple(msgspec.structs.replace(one, box=_stored(one.box, look)) for one in record.objects)
    return msgspec.structs.replace(record, declared=(look.width, look.height), objects=objects)


def _stored(box: Box, look: Look) -> Box:
    """A box x, y, width, height of the turned picture in the stored one, which is look.width by look.height pixels."""
    x, y, width, height = box
    right = look.orientation in (_TRANSVERSED, _ANTICLOCKWISE)  # the turned picture's top is the stored one's right
    bottom = look.orientation in (_CLOCKWISE, _TRANSVERSED)  # its left is the stored one's bottom
    return (look.width - y - height if right else y, look.height - x - width if bottom else x, height, width)
