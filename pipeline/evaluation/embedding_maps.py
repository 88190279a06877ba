"""What embeddings tell: maps in two dimensions, and how well an object's nearest neighbors tell its class."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import PipelineError
from pipeline.evaluation.embedding_files import EmbeddingMap, Embeddings, Vectors

Method = Literal["tsne", "umap", "pca"]
Points = NDArray[np.float32]

MAX_OBJECTS = 5000  # objects and detections on a map, and images: t-SNE then takes some 15 s of CPU time
NEIGHBORS = 5  # that vote for the class of an object
_PERPLEXITY = 30.0  # scikit-learn's default
# The defaults, 1,000 steps and an angle of 0.5, take 2.6 times the time for 1 % more neighbors of the same class.
_TSNE_STEPS, _TSNE_ANGLE = 500, 0.8
_TSNE_DIMENSIONS = 50  # principal components that t-SNE gets
_BLOCK = 500  # objects compared with all others at a time, to bound memory


def make_map(embeddings: Embeddings, method: Method | None, seed: int) -> EmbeddingMap:
    """A map of the images, and one of objects and detections together.

    Args:
        embeddings: of what the maps should show. Of more than `MAX_OBJECTS`, as many are drawn with the seed.
        method: None for an empty map.

    Raises:
        PipelineError: the method needs a package that is not installed.
    """
    rng = np.random.default_rng(seed)
    size = len(embeddings.annotation_ids), len(embeddings.detection_rows)
    images = _draw(rng, len(embeddings.image_ids) if method else 0)
    chosen = _draw(rng, sum(size) if method else 0)
    objects, detections = chosen[chosen < size[0]], chosen[chosen >= size[0]] - size[0]
    vectors = np.concatenate([embeddings.annotations[objects], embeddings.detections[detections]])
    points = _project(vectors, method, seed)
    return EmbeddingMap(
        image_ids=embeddings.image_ids[images],
        image_points=_project(embeddings.images[images], method, seed),
        annotation_ids=embeddings.annotation_ids[objects],
        annotation_points=points[: len(objects)],
        detection_rows=embeddings.detection_rows[detections],
        detection_points=points[len(objects) :],
        method=method or "none",
    )


def _draw(rng: np.random.Generator, count: int) -> NDArray[np.int64]:
    """Ascending positions of at most `MAX_OBJECTS` of `count` things."""
    if count <= MAX_OBJECTS:
        return np.arange(count)
    return np.sort(rng.choice(count, MAX_OBJECTS, replace=False))


def _project(vectors: Vectors, method: Method | None, seed: int) -> Points:
    if method is None or not len(vectors):
        return np.empty((0, 2), np.float32)
    return METHODS[method](centered(vectors), seed).astype(np.float32)


def centered(vectors: Vectors) -> NDArray[np.float32]:
    """Unit vectors around the mean. What all of them have in common would hide how they differ."""
    shifted = vectors.astype(np.float32)
    shifted -= shifted.mean(axis=0)
    unit: NDArray[np.float32] = shifted / np.linalg.norm(shifted, axis=1, keepdims=True).clip(min=1e-12)
    return unit


def pca(vectors: NDArray[np.float32], _seed: int = 0, dimensions: int = 2) -> Points:
    """The principal components [N, dimensions] of vectors [N, C], the largest first."""
    shifted = vectors - vectors.mean(axis=0)
    _, directions = np.linalg.eigh(shifted.T.astype(np.float64) @ shifted)  # ascending
    directions = directions[:, ::-1][:, :dimensions]
    # A direction is known up to its sign: the largest component is positive.
    directions = directions * np.sign(np.take_along_axis(directions, abs(directions).argmax(axis=0)[None], axis=0))
    points: Points = (shifted @ directions).astype(np.float32)
    return points


def tsne(vectors: NDArray[np.float32], seed: int) -> Points:
    """t-SNE (van der Maaten and Hinton, 2008): neighbors stay neighbors; distances between groups mean little."""
    if len(vectors) < 3 * _PERPLEXITY:  # too few neighbors for it
        return pca(vectors)
    from sklearn.manifold import TSNE  # takes a second

    model = TSNE(perplexity=_PERPLEXITY, max_iter=_TSNE_STEPS, angle=_TSNE_ANGLE, random_state=seed)
    points: Points = model.fit_transform(pca(vectors, dimensions=_TSNE_DIMENSIONS))
    return points


def umap(vectors: NDArray[np.float32], seed: int) -> Points:
    """UMAP (McInnes et al., 1802.03426).

    Raises:
        PipelineError: umap-learn is not installed.
    """
    try:
        module = import_module("umap")  # optional
    except ImportError:
        raise PipelineError(
            "inspect.embeddings: umap needs another package: run `pip install umap-learn`, or set tsne or pca"
        ) from None
    if len(vectors) < 3 * NEIGHBORS:
        return pca(vectors)
    points: Points = module.UMAP(random_state=seed, n_jobs=1).fit_transform(vectors)
    return points


METHODS: Mapping[Method, Callable[[NDArray[np.float32], int], Points]] = {"tsne": tsne, "umap": umap, "pca": pca}


@dataclass(frozen=True)
class NeighborVote:
    """How often the nearest neighbors of an object have its class. Values are None if there is no other class."""

    objects: int  # in the vote
    accuracy: float | None  # share of the objects whose class the vote finds
    balanced_accuracy: float | None  # mean over the classes
    chance: float | None  # accuracy of the most common class as the answer for all objects
    balanced_chance: float | None  # its balanced accuracy

    def to_json(self) -> dict[str, Any]:
        rounded = {
            "nearest_neighbor_accuracy": self.accuracy,
            "nearest_neighbor_balanced_accuracy": self.balanced_accuracy,
            "chance_accuracy": self.chance,
            "chance_balanced_accuracy": self.balanced_chance,
        }
        return {"objects": self.objects} | {
            name: None if value is None else round(value, 4) for name, value in rounded.items()
        }

    def describe(self) -> str:
        """Two lines for people."""
        if self.accuracy is None or self.balanced_accuracy is None:
            return "nearest-neighbor vote of the embeddings: needs objects of two classes, in two images"
        return (
            f"nearest-neighbor vote of the embeddings: the class of {self.accuracy:.1%} of {self.objects} objects "
            f"(most common class: {self.chance:.1%}),\nmean over classes {self.balanced_accuracy:.1%} "
            f"(chance: {self.balanced_chance:.1%}); {NEIGHBORS} neighbors, from other images"
        )


def vote(vectors: Vectors, labels: Sequence[int], images: Sequence[int], seed: int) -> NeighborVote:
    """Names each object's class by a vote of its nearest neighbors in other images, leaving the object out.

    Objects of the same image are left out, since they resemble each other for other reasons than their class. Ties go
    to the class of the more similar neighbors.

    Args:
        vectors: [N, C]. Of more than `MAX_OBJECTS`, as many are drawn with the seed.
        labels: [N] class of each object.
        images: [N] image of each object.
    """
    chosen = _draw(np.random.default_rng(seed), len(vectors))
    classes, label = np.unique(np.asarray(labels, dtype=np.int64)[chosen], return_inverse=True)
    image = np.asarray(images, dtype=np.int64)[chosen]
    if len(classes) < 2 or len(np.unique(image)) < 2:
        return NeighborVote(len(chosen), None, None, None, None)
    unit = centered(vectors[chosen])
    correct = np.concatenate(
        [
            _correct(unit, label, image, slice(start, start + _BLOCK), len(classes))
            for start in range(0, len(unit), _BLOCK)
        ]
    )
    counts = np.bincount(label)
    of_class = np.bincount(label, weights=correct) / counts
    return NeighborVote(
        objects=len(chosen),
        accuracy=float(correct.mean()),
        balanced_accuracy=float(of_class.mean()),
        chance=float(counts.max() / len(chosen)),
        balanced_chance=1 / len(classes),
    )


def _correct(
    unit: NDArray[np.float32], label: NDArray[np.int64], image: NDArray[np.int64], block: slice, num_classes: int
) -> NDArray[np.bool_]:
    """Whether the vote finds the class of each object of a block."""
    similarity = unit[block] @ unit.T
    similarity[image[block, None] == image] = -np.inf
    count = min(NEIGHBORS, len(unit))
    nearest = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
    values = np.take_along_axis(similarity, nearest, axis=1)
    # A neighbor counts 1, and a little more if it is similar: less than 1 in all, so that this decides ties only.
    weights = np.where(np.isfinite(values), 1 + values / (2 * NEIGHBORS), 0)
    votes = np.zeros((len(nearest), num_classes))
    np.add.at(votes, (np.arange(len(nearest))[:, None], label[nearest]), weights)
    found: NDArray[np.bool_] = votes.argmax(axis=1) == label[block]
    return found
