"""`fcos suggest`: which pictures without labels to label next, with the detector's boxes as a start.

Two questions decide. Is the detector unsure about the picture? And does it differ from what is labeled? Of the most
uncertain pictures, those are chosen that lie farthest from the labeled and the chosen ones in the embedding space
(k-center, Sener and Savarese, 1708.00489).
"""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fcos.inference import above_thresholds, detect
from fcos.postprocess import Detections, Postprocess
from pipeline.analysis import suggestion_files
from pipeline.analysis.suggestion_files import SuggestedBox, SuggestedImage
from pipeline.conversion.export import WRITERS
from pipeline.data import annotations
from pipeline.data.images import read_image
from pipeline.errors import PipelineError
from pipeline.evaluation.embedding_maps import centered
from pipeline.files import atomic_replace, digest, require_new_folder, write_errors
from pipeline.formats.writers.image_files import IMAGE_MODES, SourceImages
from pipeline.inference.annotations import to_annotations
from pipeline.inference.embeddings import embed_images, record_pyramid
from pipeline.inference.saved_detector import SavedDetector

MAX_LABELED = 5000  # labeled pictures to compare with; of more, as many are drawn with the seed
_MOST_UNCERTAIN = 5  # detections that decide how uncertain a picture is
_CANDIDATES = 3  # times the pictures asked for: the most uncertain ones, from which the distance chooses
SPLIT = "train"  # of the data set that is written

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Picture:
    """A picture as the detector sees it."""

    path: Path
    width: int  # pixels
    height: int
    vector: Vectors  # [C] embedding
    detections: Detections  # all of them, in pixels of the stored image


@dataclass(frozen=True)
class Suggestion:
    """A picture to label."""

    picture: Picture
    uncertainty: float  # 0…1
    distance: float  # 0…2, to the most similar labeled or already suggested picture, when it was chosen
    detections: Detections  # that are likely to be correct

    @property
    def width(self) -> int:
        """Of the picture, in pixels."""
        return self.picture.width

    @property
    def height(self) -> int:
        """Of the picture, in pixels."""
        return self.picture.height


def look_at(model: SavedDetector, path: Path, postprocess: Postprocess, size: tuple[int, int] | None = None) -> Picture:
    """Detects objects in a picture, once, and computes its embedding in the same pass.

    Args:
        size: as for `read_image`.

    Raises:
        PipelineError: the picture can't be read.
    """
    pixels = read_image(path, size)
    height, width = pixels.shape[1:]
    input_size, detector = model.description.input_size, model.network
    with record_pyramid(detector) as levels, torch.inference_mode():
        (found,) = detect(detector, [pixels], input_size, postprocess)
        vector = embed_images(levels, [input_size.resized(height, width)], detector.config.strides)
    return Picture(path, width, height, vector[0].cpu().numpy(), found)


def uncertainty(detections: Detections, thresholds: Sequence[float]) -> float:
    """How unsure the detector is about a picture: the mean over its five most uncertain detections.

    A detection's uncertainty is 1 at the score threshold of its class, where it is as likely to be kept as not, and
    falls to 0 at scores of 0 and 1. Missing detections count 0.
    """
    scores = detections.scores.double()
    threshold = torch.tensor(thresholds, dtype=torch.float64)[detections.labels].clamp(1e-6, 1 - 1e-6)
    values = torch.where(scores < threshold, scores / threshold, (1 - scores) / (1 - threshold))
    return float(values.sort(descending=True).values[:_MOST_UNCERTAIN].sum() / _MOST_UNCERTAIN)


def k_center(vectors: Vectors, labeled: Vectors, count: int) -> tuple[list[int], list[float]]:
    """Greedy k-center: repeatedly the vector that is farthest from its nearest labeled or chosen one.

    Args:
        vectors: [N, C] unit vectors to choose from.
        labeled: [L, C] unit vectors. Without any, the first choice is the one farthest from the mean.

    Returns:
        Indices of at most `count` vectors in the order of the choice, and their cosine distances at that moment.
    """
    nearest = np.full(len(vectors), np.inf)
    for vector in labeled if len(labeled) else vectors.mean(axis=0, keepdims=True):
        np.minimum(nearest, 1 - vectors @ vector, out=nearest)
    chosen: list[int] = []
    distances: list[float] = []
    for _ in range(min(count, len(vectors))):
        best = int(nearest.argmax())
        chosen.append(best)
        distances.append(max(0.0, float(nearest[best])))
        np.minimum(nearest, 1 - vectors @ vectors[best], out=nearest)
        nearest[chosen] = -np.inf
    return chosen, distances


def choose(
    pictures: Sequence[Picture], labeled: Sequence[Vectors], thresholds: Sequence[float], count: int
) -> list[Suggestion]:
    """The pictures to label, in the order in which to label them.

    Args:
        labeled: embeddings of the pictures that have labels.
        thresholds: [K] score from which a detection of each class counts.
    """
    values = [uncertainty(picture.detections, thresholds) for picture in pictures]
    ranked = sorted(range(len(pictures)), key=lambda index: -values[index])
    # Where the folder has few more pictures than needed, uncertainty still leaves out half of them.
    candidates = ranked[: max(count, min(_CANDIDATES * count, len(pictures) // 2))]
    if not candidates:
        return []
    vectors = centered(np.stack([*labeled, *(pictures[index].vector for index in candidates)]))
    order, distances = k_center(vectors[len(labeled) :], vectors[: len(labeled)], count)
    return [
        Suggestion(
            pictures[candidates[index]],
            values[candidates[index]],
            distance,
            above_thresholds(pictures[candidates[index]].detections, thresholds),
        )
        for index, distance in zip(order, distances, strict=True)
    ]


def labeled_images(project: Path, dataset: str, seed: int) -> tuple[list[tuple[Path, tuple[int, int]]], int]:
    """Files and sizes of the images of all splits of data/unified, and how many there are.

    Raises:
        PipelineError: the project has no unified data.
    """
    splits = [project / f"data/unified/{name}.json" for name in ("train", "val", "test")]
    if not splits[0].is_file():
        raise PipelineError(f"{splits[0]}: not there yet; run `dvc repro convert`")
    folder = project / "data/raw" / dataset
    images = [image for path in splits if path.is_file() for image in annotations.read(path).images]
    drawn = np.random.default_rng(seed).permutation(len(images))[:MAX_LABELED]
    chosen = [images[index] for index in sorted(drawn.tolist())]
    return [(folder / image.file_name, (image.width, image.height)) for image in chosen], len(images)


def without_copies(paths: Sequence[Path], labeled: Iterable[Path]) -> list[Path]:
    """The files whose content is not that of a labeled file."""
    sizes = {path.stat().st_size for path in paths if path.is_file()}
    known = {digest(path) for path in labeled if path.is_file() and path.stat().st_size in sizes}
    return [path for path in paths if not path.is_file() or digest(path) not in known]


def write(
    suggestions: Sequence[Suggestion],
    model: SavedDetector,
    folder: Path,
    out: Path,
    *,
    to: str,
    images: str,
) -> None:
    """Writes a list of the pictures and a data set with the detector's boxes to the new folder `out`, atomically.

    Args:
        folder: that the pictures are in.
        to: a key of `WRITERS`, the format of the data set in `out/dataset`.
        images: a key of `IMAGE_MODES`.

    Raises:
        PipelineError: `out` has content or can't be written, or a file name is not allowed in a data set.
    """
    require_new_folder(out)
    files = [item.picture.path.relative_to(folder).as_posix() for item in suggestions]
    dataset = to_annotations(suggestions, files, model.description.categories)
    for problem in annotations.problems(dataset):
        raise PipelineError(f"{folder}: {problem}")
    with write_errors(out), atomic_replace(out.absolute()) as target:
        target.mkdir()
        (target / "suggested.txt").write_text("".join(f"{item.picture.path}\n" for item in suggestions))
        (target / "suggested.csv").write_text(_table(suggestions))
        images_with_boxes = [
            _with_boxes(item, file, model.class_names) for item, file in zip(suggestions, files, strict=True)
        ]
        suggestion_files.write(folder, images_with_boxes, target / suggestion_files.NAME)
        WRITERS[to]({SPLIT: dataset}, target / "dataset", SourceImages(folder, IMAGE_MODES[images]))


def _with_boxes(item: Suggestion, file: str, class_names: Sequence[str]) -> SuggestedImage:
    found = item.detections
    rows = zip(found.boxes.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True)
    boxes = tuple(
        SuggestedBox(class_names[label], score, (x1, y1, x2 - x1, y2 - y1)) for (x1, y1, x2, y2), label, score in rows
    )
    return SuggestedImage(file, item.width, item.height, item.uncertainty, item.distance, boxes)


def _table(suggestions: Sequence[Suggestion]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["rank", "file", "uncertainty", "distance", "detections"])
    for rank, item in enumerate(suggestions, 1):
        values = f"{item.uncertainty:.4f}", f"{item.distance:.4f}", len(item.detections)
        writer.writerow([rank, item.picture.path, *values])
    return text.getvalue()


def look_at_all(
    model: SavedDetector,
    files: Iterable[tuple[Path, tuple[int, int] | None]],
    postprocess: Postprocess,
    on_error: Callable[[PipelineError], object],
) -> Iterator[Picture]:
    """Yields the pictures that can be read; `on_error` gets the errors of the others."""
    for path, size in files:
        try:
            yield look_at(model, path, postprocess, size)
        except PipelineError as error:
            on_error(error)
