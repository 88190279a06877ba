"""Boxes that were annotated on an image after its EXIF rotation, converted to stored pixels."""

import msgspec

from pipeline.conversion.image_info import ImageInfo
from pipeline.formats.records import Box, RawImage

# The orientations (EXIF 2.32, tag 274) that swap width and height, named after the transformation for display.
_TRANSPOSED, _CLOCKWISE, _TRANSVERSED, _COUNTERCLOCKWISE = 5, 6, 7, 8


def is_annotated_rotated(record: RawImage, info: ImageInfo) -> bool:
    """Whether the annotated size is that of the rotated image and can't be that of the stored image."""
    swaps_sides = info.orientation in (_TRANSPOSED, _CLOCKWISE, _TRANSVERSED, _COUNTERCLOCKWISE)
    return swaps_sides and info.width != info.height and record.declared_size == (info.height, info.width)


def to_stored_pixels(record: RawImage, info: ImageInfo) -> RawImage:
    """The record with its size and boxes converted from the rotated image to stored pixels."""
    objects = tuple(msgspec.structs.replace(item, box=_rotate_back(item.box, info)) for item in record.objects)
    return msgspec.structs.replace(record, declared_size=(info.width, info.height), objects=objects)


def _rotate_back(box: Box, info: ImageInfo) -> Box:
    """Converts an xywh box of the rotated image to one of the stored image of info.width × info.height pixels."""
    x, y, width, height = box
    from_right = info.orientation in (_TRANSVERSED, _COUNTERCLOCKWISE)  # the top shown is the right side as stored
    from_bottom = info.orientation in (_CLOCKWISE, _TRANSVERSED)  # the left side shown is the bottom as stored
    return (info.width - y - height if from_right else y, info.height - x - width if from_bottom else x, height, width)
