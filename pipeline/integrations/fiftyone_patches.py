"""Tags of patches. FiftyOne copies the boxes of a view of patches into another dataset, and keeps their tags there.

In the App, a tag that is given under *Patches* therefore isn't a tag of the box, as one given under *Labels* is.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from pipeline.integrations import fiftyone_info

_PREFIX = "patches."  # of the names of FiftyOne's collections of patches


def read_tags(dataset: Any) -> dict[Any, list[str]]:
    """The tags of the dataset's patches, by the id of the box that a patch shows."""
    tags: dict[Any, list[str]] = {}
    for _, patch in _tagged(dataset):
        tags.setdefault(patch["_id"], []).extend(patch["tags"])
    return tags


def move_tags(dataset: Any) -> None:
    """Makes the tags of patches those of their boxes, which stay when a view of patches is made anew."""
    samples = fiftyone_info.collection(dataset)
    for patches, patch in list(_tagged(dataset)):
        field = next((name for name, value in patch.items() if _is_box(value, patch["_id"])), None)
        if field is None:  # a patch of several boxes, as FiftyOne makes them of an evaluation
            continue
        samples.update_one(
            {"_id": patch["_sample_id"], f"{field}.detections._id": patch["_id"]},
            {
                "$addToSet": {f"{field}.detections.$.tags": {"$each": patch["tags"]}},
                "$set": {"last_modified_at": datetime.now(UTC)},
            },
        )
        patches.update_one({"_id": patch["_id"]}, {"$set": {"tags": []}})


def _tagged(dataset: Any) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    """The tagged patches of the dataset's boxes, each with the database's collection that it is in."""
    samples = fiftyone_info.collection(dataset)
    for name in samples.database.list_collection_names(filter={"name": {"$regex": f"^{_PREFIX}"}}):
        patches = samples.database[name]
        for patch in patches.find({"tags.0": {"$exists": True}}):
            # Patches of other datasets lie in the same database.
            if samples.find_one({"_id": patch.get("_sample_id")}, ["_id"]):
                yield patches, patch


def _is_box(value: Any, id: Any) -> bool:
    """Whether a field of a patch is the box that it shows, not one of the boxes around it."""
    return isinstance(value, Mapping) and value.get("_id") == id
