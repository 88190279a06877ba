"""The embedded default: scenes of real handwritten digits over photographs, made on the spot.

Digits and photographs are scikit-learn's bundled ones: `load_digits` (1,797 digits of 8×8 pixels, from the UCI
optical recognition set) and `load_sample_image`. Train and val share neither a digit nor a piece of photograph.
Published as COCO data is: `annotations/train.json`, `images/train/000001.jpg`, and the same for val.
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
TRAIN_SHARE = 0.8  # of the digits
# Columns of the photographs, from and to. The gap keeps a leaf at the border out of one of them.
COLUMNS: dict[Split, tuple[int, int]] = {"train": (0, 424), "val": (440, 640)}
EMPTY_SHARE = 0.05  # of the scenes
MOST = 8  # digits in a scene
HEIGHTS = (22 / 256, 110 / 256)  # of a digit, as shares of the scene
MOST_IOU = 0.15  # of two boxes
MOST_COVERED = 0.3  # of the smaller of two boxes, so that every digit stays legible
TRIES = 24  # to find a place for a digit; after that the scene has one less
INK = 0.5  # of a pixel that a digit is seen in, from 0 to 1
CONTRAST = 85.0  # between a digit and its background, in gray levels of 255
COLORS_APART = 90.0  # of 255, in at least one of red, green, blue, where digits overlap
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class Material:
    """What one split's scenes are made from."""

    photographs: tuple[Image.Image, ...]
    digits: NDArray[np.intp]  # rows of `load_digits`
    images: Floats  # [digits, 8, 8], 0 to 1, of all digits
    labels: NDArray[np.intp]


def make(params: Params, into: Path) -> tuple[Path, ...]:
    """Makes the data set in the folder `into`: the same bytes for the same parameters. It leaves no downloads."""
    wanted = params.download.digits
    for split, count in zip(SPLITS, (wanted.train, wanted.val), strict=True):
        (into / "images" / split).mkdir(parents=True)
        source = material(split, params.download.digits.seed)
        compose = partial(scene, source, size=wanted.size)
        records = []
        for index in tqdm(range(count), f"making {split} scenes", unit="scene", mininterval=1.0, delay=1.0):
            pixels, objects = compose(rng=_rng(params.download.digits.seed, split, index))
            name = f"{index + 1:06d}.jpg"
            Image.fromarray(pixels).save(into / "images" / split / name, quality=92)
            records.append((name, objects))
        write_json(into / "annotations" / f"{split}.json", _coco(records, wanted.size))
    return ()


def material(split: Split, seed: int) -> Material:
    """The digits and the pieces of photographs that belong to one split."""
    from sklearn.datasets import load_digits, load_sample_image  # two seconds that no other data set should wait

    bundled = load_digits()
    order = np.random.default_rng(seed).permutation(len(bundled.target))
    border = round(TRAIN_SHARE * len(order))
    rows = order[:border] if split == "train" else order[border:]
    left, right = COLUMNS[split]
    photographs = tuple(Image.fromarray(load_sample_image(name)[:, left:right]) for name in ("china.jpg", "flower.jpg"))
    return Material(photographs, rows, (bundled.images / 16).astype(np.float32), bundled.target)


def scene(source: Material, rng: np.random.Generator, size: int) -> tuple[NDArray[np.uint8], list[tuple[int, Box]]]:
    """One scene: pixels [size, size, 3], and the label and box of each digit in it."""
    canvas = background(source.photographs, rng, size)
    owner = np.zeros((size, size), np.uint8)  # which digit is seen at a pixel; 0: none
    boxes: list[Box] = []
    labels: list[int] = []
    colors: list[Floats] = []
    count = 0 if rng.random() < EMPTY_SHARE else int(rng.integers(1, MOST + 1))
    for _ in range(count):
        row = int(rng.choice(source.digits))
        height = size * float(np.exp(rng.uniform(*np.log(HEIGHTS))))
        ink = glyph(source.images[row], rng, max(4, round(height)))
        corner = _place(ink.shape, boxes, rng, size)
        if corner is not None:
            boxes.append((*corner, ink.shape[1], ink.shape[0]))
            labels.append(int(source.labels[row]))
            colors.append(paint(canvas, owner, ink, corner, colors, rng))
    canvas += rng.standard_normal(canvas.shape, np.float32) * np.float32(rng.uniform(0, 5))
    # What was painted over is no longer seen: boxes fit what is.
    seen = [(label, _extent(owner == number)) for number, label in enumerate(labels, 1)]
    return np.clip(canvas, 0, 255).astype(np.uint8), seen


def background(photographs: tuple[Image.Image, ...], rng: np.random.Generator, size: int) -> Floats:
    """A piece of a photograph, [size, size, 3], 0 to 255: zoomed, mirrored, and calm enough to read digits on."""
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
    """A digit's ink, [height, width], 0 to 1: smooth, a little turned and slanted, cut to what is seen of it."""
    side = max(48, 2 * height)  # of the square it is smoothed, turned and slanted in, larger than it will be
    large = Image.fromarray(np.pad(digit, 2)).resize((side, side), Image.Resampling.BICUBIC)
    angle, slant = np.deg2rad(rng.uniform(-10, 10)), rng.uniform(-0.15, 0.15)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.array([[1.0, slant], [0.0, 1.0]])
    shift = side / 2 - matrix @ np.full(2, side / 2)
    affine = (*matrix[0], shift[0], *matrix[1], shift[1])
    turned = np.asarray(large.transform(large.size, Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR))
    ink = np.clip((turned - 0.36) / 0.28, 0, 1)
    ink = ink * ink * (3 - 2 * ink)  # a soft edge
    x, y, w, h = _extent(ink >= INK)
    shape = (max(2, round(height * w / h)), height)
    scaled = Image.fromarray(ink[y : y + h, x : x + w]).resize(shape, Image.Resampling.BOX)
    small = np.asarray(scaled, np.float32)
    x, y, w, h = _extent(small >= INK)
    return small[y : y + h, x : x + w]


def paint(
    canvas: Floats,
    owner: NDArray[np.uint8],
    ink: Floats,
    corner: tuple[int, int],
    colors: list[Floats],
    rng: np.random.Generator,
) -> Floats:
    """Draws the next digit with its upper left corner at `corner` (x, y), in a color that stands out there.

    `colors` are those of the digits before it, in order; the color chosen is returned.
    """
    rows, columns = slice(corner[1], corner[1] + ink.shape[0]), slice(corner[0], corner[0] + ink.shape[1])
    below = canvas[rows, columns]
    near = [colors[number - 1] for number in np.unique(owner[rows, columns]) if number]
    color = _color(float((below @ _LUMA).mean()), near, rng)
    below += (color - below) * ink[..., None]
    owner[rows, columns][ink >= INK] = len(colors) + 1
    return color


def _color(gray: float, near: list[Floats], rng: np.random.Generator) -> Floats:
    """White, black or a color: CONTRAST lighter or darker than the background's gray, and unlike those near it."""
    for _ in range(TRIES):
        vivid = rng.uniform(0, 1, 3) ** 0.6 if rng.random() < 0.65 else np.full(3, rng.random())
        color = (255 * vivid).astype(np.float32)
        stands_out = abs(float(color @ _LUMA) - gray) >= CONTRAST
        if stands_out and all(np.abs(color - other).max() >= COLORS_APART for other in near):
            return color
    return np.full(3, 0 if gray > 128 else 255, np.float32)


def _place(shape: tuple[int, ...], boxes: list[Box], rng: np.random.Generator, size: int) -> tuple[int, int] | None:
    """A free place for a digit of `shape` (height, width): its upper left corner (x, y), or None."""
    height, width = shape
    for _ in range(TRIES):
        x, y = int(rng.integers(0, size - width + 1)), int(rng.integers(0, size - height + 1))
        if _fits((x, y, width, height), boxes):
            return x, y
    return None


def _fits(new: Box, boxes: list[Box]) -> bool:
    """Whether a box keeps clear of the others, or overlaps one a little that overlaps no third."""
    touched = [box for box in boxes if _common(new, box)]
    if not touched:
        return True
    other, areas = touched[0], (new[2] * new[3], touched[0][2] * touched[0][3])
    alone = len(touched) == 1 and sum(_common(other, box) > 0 for box in boxes) == 1  # itself
    common = _common(new, other)
    return alone and common <= MOST_IOU * (sum(areas) - common) and common <= MOST_COVERED * min(areas)


def _common(one: Box, other: Box) -> int:
    """Pixels that two boxes share."""
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    return max(0, width) * max(0, height)


def _extent(mask: NDArray[np.bool_]) -> Box:
    """The tight box around a mask's true pixels."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    left, top = int(columns[0]), int(rows[0])
    return left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top


def _rng(seed: int, split: Split, index: int) -> np.random.Generator:
    """A scene's own randomness: more scenes, or other ones, change nothing about it."""
    return np.random.default_rng((seed, SPLITS.index(split), index))


def _coco(records: list[tuple[str, list[tuple[int, Box]]]], size: int) -> dict[str, Any]:
    images = [{"id": n, "file_name": name, "width": size, "height": size} for n, (name, _) in enumerate(records, 1)]
    found = [(n, label, box) for n, (_, objects) in enumerate(records, 1) for label, box in objects]
    annotations = [
        {"id": n, "image_id": image, "category_id": label + 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for n, (image, label, box) in enumerate(found, 1)
    ]
    categories = [{"id": n, "name": name} for n, name in enumerate(NAMES, 1)]
    return {"categories": categories, "images": images, "annotations": annotations}
