"""A trained detector for use in programs: images in, boxes out. The only module of `fcos` that reads image files."""

import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias, overload
from warnings import warn

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from PIL import ImageDraw, ImageFont
from torch import Tensor

from fcos import operating_point
from fcos.description import Description, parse
from fcos.detector import Detector
from fcos.drawing import Box, Color, class_color, contrasting_color, label_position
from fcos.inference import above_thresholds, default_batch_size, detect, load_fused, network_size
from fcos.onnx_detector import OnnxDetector
from fcos.operating_point import DEFAULT_SCORE, OperatingPoint
from fcos.postprocess import Postprocess, detect_in_groups

# A path, a Pillow image, a uint8 array [H, W, 3] (RGB) or [H, W] (gray), or a uint8 tensor [3, H, W] (RGB).
Image: TypeAlias = str | Path | PIL.Image.Image | NDArray[np.uint8] | Tensor

# What Pillow raises for invalid or truncated files; it depends on their format.
_DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    TypeError,
    LookupError,
    ArithmeticError,
    struct.error,
    zlib.error,
    PIL.Image.DecompressionBombError,
)


@dataclass(frozen=True, eq=False)
class Result:
    """The detections in an image, in descending order of score. `result[index]` selects some of them."""

    boxes: Tensor  # float32 [N, 4]: x1, y1, x2, y2 in pixels of the image as stored
    scores: Tensor  # float32 [N], 0…1
    labels: Tensor  # int64 [N], 0…K−1
    categories: tuple[tuple[int, str], ...]  # ids and names of the K classes in the data set, indexed by label
    width: int  # of the image, in pixels
    height: int
    image: Image = field(repr=False)  # as given to `predict`

    @property
    def names(self) -> list[str]:
        """The name of each detection's class."""
        return [self.categories[label][1] for label in self.labels.tolist()]

    @property
    def path(self) -> Path | None:
        """The image's file; None if the image was not given as a path."""
        return Path(self.image) if isinstance(self.image, str | Path) else None

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor | NDArray[Any]) -> "Result":
        """Some of the detections: by position, or by a mask such as `result.scores > 0.5`.

        Raises:
            IndexError: there is no such detection.
        """
        chosen = torch.arange(len(self))[index].reshape(-1)
        return replace(self, boxes=self.boxes[chosen], scores=self.scores[chosen], labels=self.labels[chosen])

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} × {name}" for name, count in Counter(self.names).most_common())
        source = f"{str(self.path)!r}, " if self.path else ""
        return f"Result({source}{self.width}×{self.height} pixels: {counts or 'nothing'})"

    def to_coco(self, image_id: int | str = 0) -> list[dict[str, Any]]:
        """The detections as in a file of COCO results: {image_id, category_id, bbox, score} each.

        Category ids are those of the data set that the detector was trained on. `bbox` is [x, y, width, height].
        """
        x1, y1, x2, y2 = self.boxes.double().unbind(dim=1)
        boxes = torch.stack([x1, y1, x2 - x1, y2 - y1], dim=1).tolist()
        return [
            {"image_id": image_id, "category_id": self.categories[label][0], "bbox": box, "score": score}
            for box, label, score in zip(boxes, self.labels.tolist(), self.scores.tolist(), strict=True)
        ]

    def to_supervision(self) -> Any:
        """The detections as `supervision.Detections`, with the names of their classes in `data["class_name"]`.

        Raises:
            ImportError: the package supervision is not installed.
        """
        try:
            supervision = import_module("supervision")
        except ImportError:
            raise ImportError("to_supervision needs the package supervision: pip install supervision") from None
        return supervision.Detections(
            xyxy=self.boxes.numpy(),
            confidence=self.scores.numpy(),
            class_id=self.labels.numpy(),
            data={"class_name": np.array(self.names, dtype=str)},
        )

    def plot(self) -> PIL.Image.Image:
        """A copy of the image with the box, class and score of each detection. An image given as a path is read again.

        Raises:
            ValueError: the file can't be read any more.
        """
        picture = PIL.Image.fromarray(_to_tensor(self.image).permute(1, 2, 0).cpu().numpy())
        pen, size = ImageDraw.Draw(picture), max(picture.size)
        font, width = ImageFont.load_default(max(12, size / 36)), max(2, round(size / 300))
        taken: list[Box] = []
        tags: list[tuple[Box, str, Color]] = []
        items = list(zip(self.boxes.tolist(), self.labels.tolist(), self.names, self.scores.tolist(), strict=True))
        for box, label, _, _ in reversed(items):  # the best one last
            pen.rectangle(box, outline=class_color(label), width=width)
        for box, label, name, score in items:  # the best one chooses its place first
            text, color = f"{name} {score:.2f}", class_color(label)
            _, _, text_width, text_height = pen.textbbox((0, 0), text, font)
            x, y = label_position(box, (text_width, text_height), picture.size, taken)
            taken.append((x, y, x + text_width, y + text_height))
            tags.append((taken[-1], text, color))
        for tag, text, color in reversed(tags):
            pen.rectangle(tag, fill=color)
            pen.text(tag[:2], text, contrasting_color(color), font)
        return picture


class Predictor:
    """A trained detector, which takes images of any size. `fcos.load` loads one.

    Args:
        detector: in evaluation mode.
        description: its classes, and the size that images are resized to.
        thresholds: lowest score of a detection of each class, indexed by label; None: 0.4.
        postprocess: None: the defaults.

    Attributes:
        names: the names of the classes, indexed by label.
    """

    def __init__(
        self,
        detector: Detector | OnnxDetector,
        description: Description,
        *,
        thresholds: Sequence[float] | None = None,
        postprocess: Postprocess | None = None,
    ) -> None:
        self.detector, self.description = detector, description
        self.names = tuple(name for _, name in description.categories)
        self.thresholds = tuple(thresholds or [DEFAULT_SCORE] * len(self.names))
        self.postprocess = postprocess or Postprocess()

    def __repr__(self) -> str:
        names = ", ".join(self.names[:5]) + ", …" * (len(self.names) > 5)
        return f"Predictor({len(self.names)} classes: {names})"

    @overload
    def predict(  # type: ignore[overload-overlap] # a path is a sequence of texts, too
        self, images: Image, *, score: float | None = None, batch_size: int | None = None
    ) -> Result: ...

    @overload
    def predict(  # type: ignore[overload-overlap]
        self, images: Sequence[Image], *, score: float | None = None, batch_size: int | None = None
    ) -> list[Result]: ...

    @overload
    def predict(
        self, images: Iterable[Image], *, score: float | None = None, batch_size: int | None = None
    ) -> Iterator[Result]: ...

    def predict(
        self, images: Image | Iterable[Image], *, score: float | None = None, batch_size: int | None = None
    ) -> Result | list[Result] | Iterator[Result]:
        """Detects objects in an image, or in several.

        Images are read as stored: an EXIF orientation is ignored, transparency too, and gray becomes RGB.

        Args:
            images: an image, a sequence of images, or any other iterable of them. An image is a path, a Pillow image,
                a uint8 array [H, W, 3] in RGB or [H, W] in gray, or a uint8 tensor [3, H, W] in RGB. OpenCV's images
                are BGR: give `image[..., ::-1]`.
            score: lowest score of a detection. Default: the threshold of each class that evaluation chose, as
                operating_point.json has it, or 0.4 without that file.
            batch_size: largest number of images in a batch. Images of the same size at the network's input share a
                batch. Default: 8, and fewer on a CPU for large inputs of the network.

        Returns:
            A Result for an image, a list for a sequence, and an iterator for any other iterable. The iterator reads
            images when it needs them, one batch at a time.

        Raises:
            ValueError: a file can't be read, an array or tensor has another type or shape, or an argument is invalid.

        Examples:
            >>> import fcos
            >>> detector = fcos.load("models/detector.safetensors")
            >>> result = detector.predict("photo.jpg")
            >>> result
            Result('photo.jpg', 64×48 pixels: ...)
            >>> [(name, box.tolist()) for name, box in zip(result.names, result.boxes)]
            [('cat', [...]), ...]
            >>> from pathlib import Path
            >>> for result in detector.predict(Path("folder").glob("*.jpg"), score=0.9):
            ...     print(result)
            Result('folder/photo.jpg', 64×48 pixels: nothing)
        """
        if score is not None and not (isinstance(score, int | float) and 0 <= score <= 1):
            raise ValueError(f"score is {score!r}, but should be a number from 0 to 1")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, but should be at least 1")
        if isinstance(images, str | Path | PIL.Image.Image | np.ndarray | Tensor):
            return next(self._predict_lazily([images], score, 1))
        _check_iterable(images)
        device = torch.device("cpu") if isinstance(self.detector, OnnxDetector) else self.detector.mean.device
        size = batch_size or default_batch_size(self.description.input_size, device)
        results = self._predict_lazily(images, score, size)
        return list(results) if isinstance(images, Sequence) else results

    def _predict_lazily(self, images: Iterable[Image], score: float | None, batch_size: int) -> Iterator[Result]:
        thresholds = self.thresholds if score is None else [score] * len(self.names)
        input_size, remaining = self.description.input_size, iter(images)
        detect_batch = partial(detect, self.detector, input_size=input_size, postprocess=self.postprocess)
        while batch := list(islice(remaining, batch_size)):
            pixels = [_to_tensor(image) for image in batch]
            found = detect_in_groups(detect_batch, pixels, [network_size(image, input_size) for image in pixels])
            for image, tensor, detections in zip(batch, pixels, found, strict=True):
                kept = above_thresholds(detections, thresholds)
                height, width = tensor.shape[1:]
                yield Result(kept.boxes, kept.scores, kept.labels, self.description.categories, width, height, image)


def load(path: str | Path, device: str | torch.device = "auto") -> Predictor:
    """Loads a trained detector, such as models/detector.safetensors with the .json file beside it, or an ONNX file.

    Its score thresholds and post-processing are those of its evaluation if operating_point.json, in the same folder or
    in the folder predictions beside it, was written for these weights.

    Args:
        device: `cpu`, `cuda`, or `auto` for a GPU if there is one.

    Raises:
        ValueError: a file is missing or invalid, or there is no such device; one line that says so.
    """
    detector, description = load_fused(path, _choose_device(device))
    found = operating_point.find(path)
    exported = detector.metadata.postprocess if isinstance(detector, OnnxDetector) else None
    if found is None:
        return Predictor(detector, description, postprocess=exported)
    file, point = found
    _warn_of_views(file, point)
    try:
        postprocess = None if point.postprocess is None else parse(point.postprocess, Postprocess, "postprocess")
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    names = [name for _, name in description.categories]
    return Predictor(detector, description, thresholds=point.thresholds(names), postprocess=exported or postprocess)


def _choose_device(device: str | torch.device) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device {device}: unknown; choose cpu, cuda or auto") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device}: torch finds no GPU; choose cpu or auto")
    return chosen


def _warn_of_views(file: Path, point: OperatingPoint) -> None:
    views = point.views if isinstance(point.views, dict) else {}
    if chosen := [name for name in ("sizes", "flip", "tiles") if views.get(name)]:
        warn(
            f"{file}: the score thresholds were chosen with other views of each image ({', '.join(chosen)}) than the "
            "single one that predict takes; give predict a score",
            stacklevel=3,
        )


def _to_tensor(image: Image) -> Tensor:
    """An image as uint8 [3, H, W] RGB; decoded images have channels-last memory layout.

    Raises:
        ValueError: the file can't be read, or the array or tensor is no such image.
    """
    if isinstance(image, Tensor):
        if image.dtype != torch.uint8 or image.ndim != 3 or len(image) != 3 or not image.numel():
            raise ValueError(f"a tensor must be uint8 [3, H, W], not {image.dtype} {list(image.shape)}")
        return image
    if isinstance(image, str) and "://" in image:
        raise ValueError(f"{image}: addresses are not opened; download the image, and give its path")
    if isinstance(image, str | Path):
        return _read(Path(image))
    if isinstance(image, PIL.Image.Image):
        return _from_pillow(image)
    if not isinstance(image, np.ndarray):
        raise ValueError(_describe_type(image))
    array = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise ValueError(f"an array must be uint8 [H, W, 3] or [H, W], not {image.dtype} {list(image.shape)}")
    return torch.from_numpy(np.require(array, requirements=("C", "W"))).permute(
        2, 0, 1
    )  # torch warns of read-only arrays


def _check_iterable(images: object) -> None:
    if isinstance(images, bytes) or not isinstance(images, Iterable):
        raise ValueError(_describe_type(images))


def _describe_type(image: object) -> str:
    return (
        f"{type(image).__name__} is no image: give a path, a Pillow image, a uint8 array or tensor, or several of them"
    )


def _read(path: Path) -> Tensor:
    try:
        with PIL.Image.open(path) as image:
            if image.format == "EPS":  # Pillow would run Ghostscript on it
                raise ValueError("EPS files are not read")
            return _from_pillow(image)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ValueError(f"{path}: a folder; give its files, as in Path({str(path)!r}).glob('*.jpg')") from None
    except _DECODING_ERRORS as error:
        unknown = isinstance(error, PIL.UnidentifiedImageError)
        reason = (
            "unknown image format" if unknown else str(error).splitlines()[0] if str(error) else type(error).__name__
        )
        raise ValueError(f"{path}: can't be decoded as an image: {reason}") from None


def _from_pillow(image: PIL.Image.Image) -> Tensor:
    if _is_deep(image):
        raise ValueError("more than 8 bits per channel: give it as uint8, scaled to 0…255 as in training")
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def _is_deep(image: PIL.Image.Image) -> bool:
    """Whether an image has more than eight bits per channel. Pillow would clip them, or keep the upper eight."""
    tiles = getattr(image, "tile", None) or []
    arguments = [value for tile in tiles for value in (tile.args if isinstance(tile.args, tuple) else (tile.args,))]
    is_wide_ppm = image.format == "PPM" and any(isinstance(value, int) and value > 255 for value in arguments)
    return image.mode[0] in "IF" or is_wide_ppm or any(isinstance(value, str) and ";16" in value for value in arguments)
