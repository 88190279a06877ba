"""What FiftyOne shows besides detections, if its files are there: maps of embeddings, similarity, label errors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from bson import ObjectId
from pymongo import UpdateOne

from pipeline.data.annotations import AnnotationSet
from pipeline.data.detections import Detection
from pipeline.evaluation.embedding_files import EmbeddingMap, Embeddings
from pipeline.files import digest, read_json
from pipeline.integrations import fiftyone_info
from pipeline.integrations.fiftyone_fields import GROUND_TRUTH, LABEL_ERRORS, ExperimentFields, content_hash
from pipeline.integrations.fiftyone_labels import Document, keep_tags_of_boxes, read_detections, relative_box

_SHOWN = ExperimentFields.of(None).predictions  # whose detections the files are about
_SIMILARITY_DIMENSIONS = 32  # principal components: FiftyOne stores vectors as text


def refresh(dataset: Any, files: Mapping[str, str], truth: AnnotationSet, detections: list[Detection]) -> None:
    """Shows what the files contain, if one of them has changed.

    Args:
        files: paths of `map`, `embeddings` and `label_errors`; those that don't exist are left out.
        detections: of the file whose positions the embeddings name.
    """
    found = {name: Path(path) for name, path in files.items() if Path(path).is_file()}
    stamp = content_hash(
        {name: digest(path) for name, path in found.items()},
        [
            record.get("stamp")
            for field, record in fiftyone_info.read(dataset)["experiments"].items()
            if field == _SHOWN
        ],
    )
    if fiftyone_info.read(dataset).get("extras") == stamp:
        return
    samples = {sample["image_id"]: sample for sample in fiftyone_info.collection(dataset).find()}
    _show_label_errors(dataset, read_json(found["label_errors"]) if "label_errors" in found else [], truth, samples)
    if "map" in found:
        embeddings = Embeddings.read(found["embeddings"]) if "embeddings" in found else None
        _show_maps(dataset, EmbeddingMap.read(found["map"]), embeddings, detections, samples, truth)
    fiftyone_info.save(dataset, extras=stamp)


def _show_maps(
    dataset: Any,
    points: EmbeddingMap,
    embeddings: Embeddings | None,
    detections: list[Detection],
    samples: Mapping[int, Document],
    truth: AnnotationSet,
) -> None:
    """Maps for the Embeddings panel (`images`, `objects`, `detections`), and similarity search of the first two."""
    import fiftyone.brain as fob

    truth_ids = {
        label["annotation_id"]: str(label["_id"])
        for sample in samples.values()
        for label in sample[GROUND_TRUTH]["detections"]
        if "annotation_id" in label
    }
    image_ids = {image: str(sample["_id"]) for image, sample in samples.items()}
    label_ids = _detection_ids(samples, truth)
    row_ids = {row: label_ids.get(_key(detections[row])) for row in points.detection_rows.tolist()}
    for key, field, ids, known, values in (
        ("images", None, points.image_ids, image_ids, points.image_points),
        ("objects", GROUND_TRUTH, points.annotation_ids, truth_ids, points.annotation_points),
        ("detections", _SHOWN, points.detection_rows, row_ids, points.detection_points),
    ):
        by_id = {known[id]: value for id, value in zip(ids.tolist(), values, strict=True) if known.get(id)}
        if dataset.has_brain_run(key):
            dataset.delete_brain_run(key)
        if by_id:
            fob.compute_visualization(
                dataset, patches_field=field, points=by_id, brain_key=key, create_index=False, progress=False
            )
    if embeddings:
        images = {image: (id, id) for image, id in image_ids.items()}
        _index(dataset, "similar_images", None, images, embeddings.of_images(points.image_ids.tolist()), "image")
        owners = {item.id: image_ids[item.image_id] for item in truth.annotations}
        objects = {number: (owners[number], id) for number, id in truth_ids.items() if number in owners}
        drawn = embeddings.of_annotations(points.annotation_ids.tolist())
        _index(dataset, "similar_objects", GROUND_TRUTH, objects, drawn, "annotation")


def _index(
    dataset: Any, key: str, field: str | None, known: Mapping[int, tuple[str, str]], embeddings: Embeddings, kind: str
) -> None:
    """Makes an index for similarity search; `known` has the ids of the sample and of the label."""
    import fiftyone.brain as fob
    from sklearn.decomposition import PCA

    ids, vectors = getattr(embeddings, f"{kind}_ids").tolist(), getattr(embeddings, f"{kind}s").astype(np.float32)
    if dataset.has_brain_run(key):
        dataset.delete_brain_run(key)
    if len(ids) < 2:
        return
    size = min(_SIMILARITY_DIMENSIONS, *vectors.shape)
    reduced = PCA(size, random_state=0).fit_transform(vectors) if size < vectors.shape[1] else vectors
    rows = [row for row, id in enumerate(ids) if id in known]
    index = fob.compute_similarity(dataset, patches_field=field, embeddings=False, brain_key=key, backend="sklearn")
    samples, labels = [known[ids[row]][0] for row in rows], [known[ids[row]][1] for row in rows]
    index.add_to_index(reduced[rows], np.array(samples), label_ids=np.array(labels) if field else None)
    index.save()


_Key = tuple[int, int, float, tuple[float, ...]]


def _key(detection: Detection) -> _Key:
    return (
        detection.image_id,
        detection.category_id,
        detection.score,
        tuple(round(value, 3) for value in detection.bbox),
    )


def _detection_ids(samples: Mapping[int, Document], truth: AnnotationSet) -> dict[_Key, str]:
    categories = {category.name: category.id for category in truth.categories}
    ids: dict[_Key, str] = {}
    for image in truth.images:
        labels = (samples[image.id].get(_SHOWN) or {}).get("detections", [])
        for label, detection in zip(labels, read_detections(labels, image, categories), strict=True):
            ids[_key(detection)] = str(label["_id"])
    return ids


def _show_label_errors(
    dataset: Any, records: list[dict[str, Any]], truth: AnnotationSet, samples: Mapping[int, Document]
) -> None:
    """Candidates of the inspected split in a field of their own.

    A label has the id of the annotation in question, so that a tag on it, such as `add` or `remove`, is a correction.
    """
    import fiftyone as fo

    if not records and not dataset.has_field(LABEL_ERRORS):
        return
    add = dataset.add_sample_field
    add(LABEL_ERRORS, fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
    add(f"{LABEL_ERRORS}.detections.kind", fo.StringField, description="missing | spurious | wrong_class | poor_box")
    add(f"{LABEL_ERRORS}.detections.rank_score", fo.FloatField, description="the higher, the more certain")
    add(f"{LABEL_ERRORS}.detections.annotation_id", fo.IntField, description="label in question, in data/unified")
    labels = _label_error_documents(records, truth, samples)
    for image, found in labels.items():
        keep_tags_of_boxes(found, (samples[image].get(LABEL_ERRORS) or {}).get("detections", []))
    fiftyone_info.collection(dataset).bulk_write(
        [
            UpdateOne(
                {"_id": samples[image]["_id"]},
                {"$set": {LABEL_ERRORS: {"_cls": "Detections", "detections": found}}},
            )
            for image, found in labels.items()
        ],
        ordered=False,
    )
    dataset.reload()


def _label_error_documents(
    records: list[dict[str, Any]], truth: AnnotationSet, samples: Mapping[int, Document]
) -> dict[int, list[Document]]:
    """The labels of the candidates in each image of the split, by image id."""
    images = {image.id: image for image in truth.images}
    names = {category.id: category.name for category in truth.categories}
    annotations = {item.id: item for item in truth.annotations}
    labels: dict[int, list[Document]] = {image: [] for image in images}
    for record in records:
        item = annotations.get(record["annotation_id"])
        box = record["bbox"] or (item.bbox if item else None)
        if box and samples.get(record["image_id"], {}).get("split") == record["split"]:
            name = record["category"] or (names[item.category_id] if item else None)
            labels[record["image_id"]].append(
                {
                    "_id": ObjectId(),
                    "_cls": "Detection",
                    "attributes": {},
                    "tags": [],
                    "label": name,
                    "bounding_box": relative_box(box, images[record["image_id"]]),
                    "kind": record["kind"],
                    "rank_score": record["rank_score"],
                    **({"annotation_id": item.id} if item else {}),
                }
            )
    return labels
