"""Maps of embeddings, and the vote of nearest neighbors."""

import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import PipelineError
from pipeline.evaluation import embedding_maps
from pipeline.evaluation.embedding_files import EmbeddingMap, Embeddings
from pipeline.evaluation.embedding_maps import centered, make_map, pca, vote


def embeddings(objects: int, detections: int = 3, images: int = 4) -> Embeddings:
    generator = np.random.default_rng(0)
    return Embeddings(
        np.arange(images) + 10,
        generator.normal(size=(images, 6)).astype(np.float16),
        np.arange(objects) + 100,
        generator.normal(size=(objects, 8)).astype(np.float16),
        np.arange(detections) * 2,
        generator.normal(size=(detections, 8)).astype(np.float16),
    )


def test_a_vote_by_hand() -> None:
    """Directions of objects in degrees; the mean of all is about the origin."""
    degrees = np.radians([0, 4, 10, 180, 184, 190, 270, 90])
    vectors = np.stack([np.cos(degrees), np.sin(degrees)], axis=1)
    labels, images = [1, 1, 1, 2, 2, 2, 3, 1], [1, 2, 3, 1, 2, 3, 4, 5]
    found = vote(vectors, labels, images, seed=0)
    # Five neighbors: of 0°, those at 4°, 10°, 90°, 270° and 190°: three of class 1. Of 180°, those at 184°, 190°, 90°,
    # 270° and 10°: two of class 1 as well as of class 2, of which those of class 2 are nearer. Class 3 has one object.
    assert (found.objects, found.accuracy) == (8, 7 / 8)
    assert found.balanced_accuracy == pytest.approx(2 / 3)
    assert (found.chance, found.balanced_chance) == (1 / 2, 1 / 3)


def test_the_vote_equals_a_slow_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_maps, "_BLOCK", 7)
    generator = np.random.default_rng(1)
    labels, images = generator.integers(3, size=40), generator.integers(12, size=40)
    vectors = generator.normal(size=(40, 5)) + 2 * np.eye(5)[labels]
    unit = centered(vectors)
    correct = []
    for index in range(40):
        others = [other for other in range(40) if images[other] != images[index]]
        nearest = sorted(others, key=lambda other: -float(unit[index] @ unit[other]))[:5]
        votes = [(sum(labels[other] == label for other in nearest), label) for label in range(3)]
        most = max(votes)[0]
        tied = [label for count, label in votes if count == most]
        similarity = {
            label: sum(unit[index] @ unit[other] for other in nearest if labels[other] == label) for label in tied
        }
        correct.append(max(tied, key=similarity.__getitem__) == labels[index])
    found = vote(vectors, labels.tolist(), images.tolist(), seed=0)
    assert found.accuracy == np.mean(correct)
    assert found.balanced_accuracy == pytest.approx(
        np.mean([np.mean(np.array(correct)[labels == k]) for k in range(3)])
    )
    assert 0.5 < np.mean(correct) < 1


def test_neighbors_of_the_same_image_have_no_vote() -> None:
    vectors = np.repeat(np.eye(2), 4, axis=0) + np.random.default_rng(0).normal(scale=0.01, size=(8, 2))
    labels = [1, 1, 1, 1, 2, 2, 2, 2]
    assert vote(vectors, labels, labels, seed=0).accuracy == 0
    assert vote(vectors, labels, list(range(8)), seed=0).accuracy == 1


@pytest.mark.parametrize(("labels", "images"), [([], []), ([1, 1], [1, 2]), ([1, 2], [1, 1])])
def test_without_two_classes_in_two_images_the_vote_has_no_value(labels: list[int], images: list[int]) -> None:
    found = vote(np.ones((len(labels), 2)), labels, images, seed=0)
    assert (found.objects, found.accuracy, found.chance) == (len(labels), None, None)
    assert found.describe().endswith("needs objects of two classes, in two images")


def test_pca_has_the_singular_values_and_fixed_signs() -> None:
    vectors = np.random.default_rng(2).normal(size=(30, 6)).astype(np.float32) * [1, 5, 1, 3, 1, 1]
    points = pca(vectors.astype(np.float32))
    _, values, directions = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(np.linalg.norm(points, axis=0), values[:2], rtol=1e-4)
    expected = (vectors - vectors.mean(axis=0)) @ directions[:2].T
    signs = np.sign(directions[[0, 1], np.abs(directions[:2]).argmax(axis=1)])
    np.testing.assert_allclose(points, expected * signs, atol=1e-3)


def test_tsne_separates_groups_and_repeats() -> None:
    generator = np.random.default_rng(3)
    group = np.arange(120) % 2
    vectors = (generator.normal(size=(120, 20)) + 8 * np.eye(20)[group]).astype(np.float32)
    points = embedding_maps.tsne(vectors, seed=5)
    assert points.shape == (120, 2)
    middles = np.stack([points[group == number].mean(axis=0) for number in (0, 1)])
    distances = np.linalg.norm(points[:, None] - middles, axis=-1)
    assert (distances.argmin(axis=1) == group).all()
    np.testing.assert_array_equal(points, embedding_maps.tsne(vectors, seed=5))


def test_a_map_of_more_objects_than_the_limit_draws_them_with_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_maps, "MAX_OBJECTS", 20)
    source = embeddings(40, detections=20, images=20)
    first, again, other = (make_map(source, "pca", seed) for seed in (1, 1, 2))
    assert len(first.annotation_ids) + len(first.detection_rows) == 20
    assert len(first.image_ids) == 20
    assert first.annotation_ids.tolist() == sorted(
        set(first.annotation_ids.tolist()) & set(source.annotation_ids.tolist())
    )
    np.testing.assert_array_equal(first.annotation_points, again.annotation_points)
    assert first.annotation_ids.tolist() != other.annotation_ids.tolist()
    assert first.detection_points.shape == (len(first.detection_rows), 2)


def test_objects_and_detections_are_on_one_map() -> None:
    source = embeddings(30)
    found = make_map(source, "pca", 0)
    points = pca(centered(np.concatenate([source.annotations, source.detections])))
    np.testing.assert_allclose(found.annotation_points, points[:30])
    np.testing.assert_allclose(found.detection_points, points[30:])


def test_without_a_method_or_objects_the_map_is_empty(tmp_path: Path) -> None:
    assert make_map(embeddings(5), None, 0).annotation_points.shape == (0, 2)
    found = make_map(embeddings(0, 0, 0), "tsne", 0)
    found.write(tmp_path / "map.npz")
    read = EmbeddingMap.read(tmp_path / "map.npz")
    assert (read.method, read.image_points.shape, read.image_points.dtype) == ("tsne", (0, 2), np.float32)


def test_umap_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(
        PipelineError, match=r"^inspect.embeddings: umap needs another package: run `pip install umap-l"
    ):
        make_map(embeddings(5), "umap", 0)


def test_a_file_has_the_same_bytes_and_content_again(tmp_path: Path) -> None:
    source = embeddings(6)
    for name in ("a.npz", "b.npz"):
        source.write(tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    read = Embeddings.read(tmp_path / "a.npz")
    np.testing.assert_array_equal(read.detections, source.detections)
    chosen = read.of_annotations([103, 7, 101]).of_images([12]).of_detections([4, 1, 0])
    assert chosen.annotation_ids.tolist() == [103, 101]
    np.testing.assert_array_equal(chosen.annotations, source.annotations[[3, 1]])
    np.testing.assert_array_equal(chosen.images, source.images[[2]])
    np.testing.assert_array_equal(chosen.detections, source.detections[[2, 0]])


def test_a_missing_or_damaged_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "embeddings_val.npz"
    with pytest.raises(PipelineError, match=r"embeddings_val.npz: not there yet; run `dvc repro`$"):
        Embeddings.read(path)
    for content in (b"", b"damaged"):
        path.write_bytes(content)
        with pytest.raises(PipelineError, match=r"npz: not a file of embeddings \(.+\); run `dvc repro -f evaluate`$"):
            Embeddings.read(path)
    make_map(embeddings(3), "pca", 0).write(path)
    with pytest.raises(PipelineError, match="not a file of embeddings"):
        Embeddings.read(path)
