"""What the project records in a FiftyOne dataset: the stamps of its contents, and its experiments by their field."""

from typing import Any


def read(dataset: Any) -> dict[str, Any]:
    """The records:

    data: hash of the ground truth and the images' folder; None while the samples are being replaced
    annotations_digest: of the file in data/unified, for `fcos collect`
    code: hash of the code that built the samples
    images: folder with the images, which the App's server serves
    experiments: by the field `predictions…`: name, thresholds, iou, metrics, stamp (None while it is being filled)
    shown: the field of the experiment that the saved views are about
    extras: hash of the files of embeddings and label errors, and of the detections they are about
    views: pairs of a saved view's name and the hash of its content
    """
    return {"experiments": {}, "views": [], **dataset.info}


def save(dataset: Any, **values: Any) -> None:
    """Replaces some of the records."""
    dataset.info = {**read(dataset), **values}
    dataset.save()


def save_experiment(dataset: Any, field: str, values: dict[str, Any] | None) -> None:
    """Replaces the record of an experiment; None removes it."""
    experiments = {name: record for name, record in read(dataset)["experiments"].items() if name != field}
    save(dataset, experiments=experiments | ({field: values} if values else {}))


def collection(dataset: Any) -> Any:
    """The database's collection of the dataset's samples."""
    from fiftyone.core.odm import get_db_conn

    return get_db_conn()[dataset._doc.sample_collection_name]  # FiftyOne has no public name for it
