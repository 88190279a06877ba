"""The default data set `digits`: scenes of real handwritten digits over photographs, generated locally.

Digits and photographs come with scikit-learn: `load_digits` (1,797 digits of 8×8 pixels, from the UCI optical
recognition data set) and `load_sample_image`. Train and val share neither a digit nor a part of a photograph. The
files are laid out as COCO's: `annotations/train.json`, `images/train/000001.jpg`, and the same for val.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from pipeline.files import write_json
from pipeline.params import Params

Split = Literal["train", "val"]
Floats = NDArray[np.float32]
Box = tuple[int, int, int, int]  # x, y, width, height in whole pixels

NAMES = tuple("0123456789")
SPLITS: tuple[Split, Split] = ("train", "val")
TRAIN_FRACTION = 0.8  # of the digits
# First and last column of the photographs. The gap keeps a leaf at the border out of one of the two parts.
COLUMNS: dict[Split, tuple[int, int]] = {"train": (0, 424), "val": (440, 640)}
EMPTY_FRACTION = 0.05  # of the scenes
MAX_DIGITS = 8  # in a scene
HEIGHTS = (22 / 256, 110 / 256)  # smallest and largest height of a digit, as fractions of the scene's
MAX_IOU = 0.15  # of two boxes
MAX_COVERED = 0.3  # fraction of the smaller of two boxes, so that every digit stays legible
TRIES = 24  # to place a digit; if they fail, the scene has one digit less
MIN_INK = 0.5  # of a pixel that belongs to a digit, from 0 to 1
MIN_CONTRAST = 85.0  # between a digit and its background, in gray levels from 0 to 255
MIN_COLOR_DISTANCE = 90.0  # of overlapping digits in red, green or blue, from 0 to 255
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class Material:
    """The digits and photographs of a split."""

    photographs: tuple[Image.Image, ...]
    digits: NDArray[np.intp]  # rows of `images` and `labels` that belong to the split
    images: Floats  # [1797, 8, 8], 0 to 1
    labels: NDArray[np.intp]  # [1797]


def make(params: Params, into: Path) -> tuple[Path, ...]:
    """Generates the data set in the folder `into`; equal parameters give equal bytes.

    Returns:
        No downloads that could be removed.
    """
    options = params.download.digits
    for split, count in zip(SPLITS, (options.train, options.val), strict=True):
        (into / "images" / split).mkdir(parents=True)
        material = load_material(split, options.seed)
        make_scene = partial(scene, material, size=options.size)
        records = []
        for index in tqdm(range(count), f"generating {split} scenes", unit="scene", mininterval=1.0, delay=1.0):
            pixels, objects = make_scene(rng=_rng(options.seed, split, index))
            name = f"{index + 1:06d}.jpg"
            Image.fromarray(pixels).save(into / "images" / split / name, quality=92)
            records.append((name, objects))
        write_json(into / "annotations" / f"{split}.json", _coco(records, options.size))
    return ()


def load_material(split: Split, seed: int) -> Material:
    """The digits and the parts of photographs that belong to a split."""
    from sklearn.datasets import load_digits, load_sample_image  # here, since it takes two seconds

    bundled = load_digits()
    order = np.random.default_rng(seed).permutation(len(bundled.target))
    num_train = round(TRAIN_FRACTION * len(order))
    rows = order[:num_train] if split == "train" else order[num_train:]
    left, right = COLUMNS[split]
    photographs = tuple(Image.fromarray(load_sample_image(name)[:, left:right]) for name in ("china.jpg", "flower.jpg"))
    return Material(photographs, rows, (bundled.images / 16).astype(np.float32), bundled.target)


def scene(material: Material, rng: np.random.Generator, size: int) -> tuple[NDArray[np.uint8], list[tuple[int, Box]]]:
    """A scene: pixels [size, size, 3], and the label and box of each digit."""
    canvas = background(material.photographs, rng, size)
    owner = np.zeros((size, size), np.uint8)  # number of the digit that a pixel shows, from 1; 0: none
    boxes: list[Box] = []
    labels: list[int] = []
    colors: list[Floats] = []
    count = 0 if rng.random() < EMPTY_FRACTION else int(rng.integers(1, MAX_DIGITS + 1))
    for _ in range(count):
        row = int(rng.choice(material.digits))
        height = size * float(np.exp(rng.uniform(*np.log(HEIGHTS))))
        ink = glyph(material.images[row], rng, max(4, round(height)))
        corner = _place(ink.shape, boxes, rng, size)
        if corner is not None:
            boxes.append((*corner, ink.shape[1], ink.shape[0]))
            labels.append(int(material.labels[row]))
            colors.append(paint(canvas, owner, ink, corner, colors, rng))
    canvas += rng.standard_normal(canvas.shape, np.float32) * np.float32(rng.uniform(0, 5))
    # Boxes fit the visible part of each digit.
    objects = [(label, _extent(owner == number)) for number, label in enumerate(labels, 1)]
    return np.clip(canvas, 0, 255).astype(np.uint8), objects


def background(photographs: tuple[Image.Image, ...], rng: np.random.Generator, size: int) -> Floats:
    """A random crop of a photograph, [size, size, 3], 0 to 255: mirrored at random, with little contrast."""
    photograph = photographs[rng.integers(len(photographs))]
    side = int(rng.integers(100, min(photograph.size)))
    left, top = (int(rng.integers(0, length - side + 1)) for length in photograph.size)
    piece = photograph.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BILINEAR)
    if rng.random() < 0.5:
        piece = piece.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = np.asarray(piece, np.float32)
    mean = pixels.mean((0, 1))
    spread = float((pixels @ _LUMA).std())
    contrast = min(rng.uniform(0.5, 0.9), 34 / max(spread, 1.0))
    return np.asarray((mean + (pixels - mean) * contrast) * rng.uniform(0.75, 1.05), np.float32)


def glyph(digit: Floats, rng: np.random.Generator, height: int) -> Floats:
    """A digit's ink, [height, width], 0 to 1: smoothed, slightly rotated and slanted, cropped to the digit."""
    side = max(48, 2 * height)  # pixels of the square in which the digit is smoothed, rotated and slanted
    large = Image.fromarray(np.pad(digit, 2)).resize((side, side), Image.Resampling.BICUBIC)
    angle, slant = np.deg2rad(rng.uniform(-10, 10)), rng.uniform(-0.15, 0.15)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = rotation @ np.array([[1.0, slant], [0.0, 1.0]])
    shift = side / 2 - matrix @ np.full(2, side / 2)
    affine = (*matrix[0], shift[0], *matrix[1], shift[1])
    rotated = np.asarray(large.transform(large.size, Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR))
    ink = np.clip((rotated - 0.36) / 0.28, 0, 1)
    ink = ink * ink * (3 - 2 * ink)  # a soft edge
    x, y, w, h = _extent(ink >= MIN_INK)
    shape = (max(2, round(height * w / h)), height)
    scaled = Image.fromarray(ink[y : y + h, x : x + w]).resize(shape, Image.Resampling.BOX)
    small = np.asarray(scaled, np.float32)
    x, y, w, h = _extent(small >= MIN_INK)
    return small[y : y + h, x : x + w]


def paint(
    canvas: Floats,
    owner: NDArray[np.uint8],
    ink: Floats,
    corner: tuple[int, int],
    colors: list[Floats],
    rng: np.random.Generator,
) -> Floats:
    """Draws a digit into `canvas` and `owner`, in a color that contrasts with what is below it.

    Args:
        corner: x and y of the digit's upper left corner.
        colors: of the digits drawn before, in order.

    Returns:
        The color of the digit.
    """
    rows, columns = slice(corner[1], corner[1] + ink.shape[0]), slice(corner[0], corner[0] + ink.shape[1])
    below = canvas[rows, columns]
    neighbors = [colors[number - 1] for number in np.unique(owner[rows, columns]) if number]
    color = _color(float((below @ _LUMA).mean()), neighbors, rng)
    below += (color - below) * ink[..., None]
    owner[rows, columns][ink >= MIN_INK] = len(colors) + 1
    return color


def _color(gray: float, neighbors: list[Floats], rng: np.random.Generator) -> Floats:
    """A gray or a color that contrasts with the background's gray level and differs from its neighbors."""
    for _ in range(TRIES):
        channels = rng.uniform(0, 1, 3) ** 0.6 if rng.random() < 0.65 else np.full(3, rng.random())
        color = (255 * channels).astype(np.float32)
        has_contrast = abs(float(color @ _LUMA) - gray) >= MIN_CONTRAST
        if has_contrast and all(np.abs(color - other).max() >= MIN_COLOR_DISTANCE for other in neighbors):
            return color
    return np.full(3, 0 if gray > 128 else 255, np.float32)


def _place(shape: tuple[int, ...], boxes: list[Box], rng: np.random.Generator, size: int) -> tuple[int, int] | None:
    """The upper left corner (x, y) of a free position for a digit of `shape` (height, width); None if none is found."""
    height, width = shape
    for _ in range(TRIES):
        x, y = int(rng.integers(0, size - width + 1)), int(rng.integers(0, size - height + 1))
        if _fits((x, y, width, height), boxes):
            return x, y
    return None


def _fits(new: Box, boxes: list[Box]) -> bool:
    """Whether a box overlaps no other, or slightly overlaps one that overlaps no third."""
    overlapped = [box for box in boxes if _intersection(new, box)]
    if not overlapped:
        return True
    other, areas = overlapped[0], (new[2] * new[3], overlapped[0][2] * overlapped[0][3])
    isolated = len(overlapped) == 1 and sum(_intersection(other, box) > 0 for box in boxes) == 1  # the new box
    shared = _intersection(new, other)
    return isolated and shared <= MAX_IOU * (sum(areas) - shared) and shared <= MAX_COVERED * min(areas)


def _intersection(a: Box, b: Box) -> int:
    """Number of pixels in both boxes."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(0, width) * max(0, height)


def _extent(mask: NDArray[np.bool_]) -> Box:
    """The tight box around a mask's true pixels."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    left, top = int(columns[0]), int(rows[0])
    return left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top


def _rng(seed: int, split: Split, index: int) -> np.random.Generator:
    """The random generator of a scene, which doesn't depend on the number of scenes."""
    return np.random.default_rng((seed, SPLITS.index(split), index))


def _coco(records: list[tuple[str, list[tuple[int, Box]]]], size: int) -> dict[str, Any]:
    images = [{"id": n, "file_name": name, "width": size, "height": size} for n, (name, _) in enumerate(records, 1)]
    boxes = [(n, label, box) for n, (_, objects) in enumerate(records, 1) for label, box in objects]
    annotations = [
        {"id": n, "image_id": image, "category_id": label + 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for n, (image, label, box) in enumerate(boxes, 1)
    ]
    categories = [{"id": n, "name": name} for n, name in enumerate(NAMES, 1)]
    return {"categories": categories, "images": images, "annotations": annotations}
