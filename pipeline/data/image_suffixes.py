"""The endings of image files' names: one list for data sets and for `fcos predict`.

Whether a file can be decoded is a question of its content, not of its name: see `pipeline.data.images`. A file that an
annotation names with its ending needs none of these.
"""

# fmt: off
IMAGE_SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo", ".jp2", ".j2k", ".jpf", ".jpx", ".png", ".apng", ".bmp", ".dib",
    ".tif", ".tiff", ".webp", ".gif", ".avif", ".tga", ".pbm", ".pgm", ".pnm", ".ppm", ".heic", ".heif",
})
