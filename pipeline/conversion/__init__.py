"""From a data set as published to the unified format: reads, checks, repairs where asked to, and reports.

Rules, for whatever format:
- An image's size is the decoded one, as stored: EXIF rotation is ignored, since annotations refer to stored pixels.
- A declared size that differs is a problem: the boxes may belong to another rendition. Repair: the decoded size counts.
- Boxes: see `boxes.checked`. An image of train that is also in val or test, byte for byte, is a problem. Repair: it
  stays where it is judged on.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline import formats
from pipeline.annotations import Annotation, AnnotationSet, Category, Image, write
from pipeline.conversion.boxes import checked
from pipeline.conversion.images import Look, looks
from pipeline.conversion.problems import Ledger, Problem
from pipeline.conversion.splits import Choice, choose
from pipeline.errors import PipelineError
from pipeline.files import replacing, write_json
from pipeline.formats.records import Fault, RawDataset, RawImage, RawObject
from pipeline.params import ConvertParams


@dataclass(frozen=True, slots=True)
class Seen:
    """A record with its image, decoded."""

    raw: RawImage
    look: Look


@dataclass(frozen=True)
class Survey:
    """A data set in the unified format, not yet written, and all that was found on the way."""

    format: str
    source: dict[str, str]  # by split: the data set's own name of what it was made from
    splits: dict[str, AnnotationSet]
    ledger: Ledger
    unused_image_files: int

    def report(self) -> dict[str, Any]:
        """As report.json has it."""
        return {
            "format": self.format,
            "splits": {split: _summary(self.source[split], found) for split, found in self.splits.items()},
            "unused_image_files": self.unused_image_files,
            **self.ledger.report(),
        }


def survey(raw: Path, options: ConvertParams, format: str = "auto") -> Survey:
    """Reads the data set in the folder `raw` and does with each problem what `options` say.

    Raises:
        PipelineError: the data set can't be read or has a problem that is an error.
    """
    name = formats.recognise(raw) if format == "auto" else format
    dataset = formats.read(raw, name)
    choice = choose(dataset.splits, options.train, options.val, options.test)
    ledger = Ledger(strict=options.problems == "error")
    seen = _without_leaks(_seen_splits(raw, dataset, choice, options.val_fraction, ledger), ledger)
    categories = _chosen(dataset.categories, options.classes)
    splits = {split: _annotations(split, found, categories, ledger) for split, found in seen.items()}
    used = {file for found in seen.values() for file in (item.raw.file for item in found)}
    source = {split: _source(choice, split) for split in splits}
    return Survey(name, source, splits, ledger, dataset.files - len(used))


def convert(raw: Path, unified: Path, options: ConvertParams, format: str = "auto") -> dict[str, Any]:
    """Converts the data set in the folder `raw` and writes the folder `unified`, whole or not at all.

    Returns:
        the report, as written to `report.json`.

    Raises:
        PipelineError: the data set can't be read, has a problem that is an error, or nothing to learn from.
    """
    found = survey(raw, options, format)
    for split, annotations in found.splits.items():
        _check_usable(split, annotations)
    report = {"problems": options.problems, **found.report()}
    with replacing(unified) as folder:
        for split, annotations in found.splits.items():
            write(annotations, folder / f"{split}.json")
        write_json(folder / "report.json", report)
    return report


def _source(choice: Choice, split: str) -> str:
    names = {"train": choice.train, "val": choice.val or f"a share of {choice.train}", "test": choice.test}
    return str(names[split])


def _chosen(own: Sequence[Category], wanted: Sequence[str] | None) -> tuple[Category, ...]:
    """The categories to keep: all, or those named in `convert.classes`, in that order, with the data set's ids."""
    if wanted is None:
        return tuple(own)
    by_name = {category.name: category for category in own}
    for name in wanted:
        if name not in by_name:
            known = ", ".join(by_name) or "none"
            raise PipelineError(f"convert.classes: {name!r} is no class of the data set; it has {known}")
    return tuple(by_name[name] for name in wanted)


def _seen_splits(
    folder: Path, dataset: RawDataset, choice: Choice, fraction: float, ledger: Ledger
) -> dict[str, list[Seen]]:
    wanted = {"train": choice.train, "val": choice.val, "test": choice.test}
    seen = {}
    for split, names in wanted.items():
        if names is not None:
            parts = [dataset.splits[name] for name in names.split("+")]
            for stray in (stray for part in parts for stray in part.orphans):
                _add(ledger, stray.fault, split, stray.where, "dropped")
            images = [image for part in parts for image in part.images]
            seen[split] = list(_seen(folder, split, images, ledger))
    if choice.val is None:
        seen["train"], seen["val"] = _held_out(seen["train"], fraction)
    return {split: seen[split] for split in wanted if split in seen}


def _seen(folder: Path, split: str, images: Sequence[RawImage], ledger: Ledger) -> Iterator[Seen]:
    """The images that can be used, by file name; each of the others is a problem."""
    usable: dict[str, RawImage] = {}
    for image in images:
        if image.fault is not None:
            _add(ledger, image.fault, split, image.where, "skipped")
        elif image.file in usable:
            fault = Fault("repeated_image", f"{image.file} is already in this split, by {usable[image.file].where}")
            _add(ledger, fault, split, image.where, "skipped")
        else:
            usable[image.file] = image
    records = [usable[file] for file in sorted(usable)]
    with closing(looks(folder, [image.file for image in records])) as looked:  # ends the bar before an error's line
        for image, seen in zip(records, looked, strict=True):
            if isinstance(seen, Fault):
                _add(ledger, seen, split, image.where, "skipped")
            else:
                _check_look(split, image, seen, ledger)
                yield Seen(image, seen)


def _check_look(split: str, image: RawImage, seen: Look, ledger: Ledger) -> None:
    if seen.rotated:
        ledger.note("images with an EXIF rotation, which is ignored")
    if image.declared and image.declared != (seen.width, seen.height):
        declared = f"{image.declared[0]}×{image.declared[1]}"
        fault = Fault("size", f"it says that its image is {declared}, which is {seen.width}×{seen.height}")
        _add(ledger, fault, split, image.where, "taken at the size that the image has")


def _held_out(seen: list[Seen], fraction: float) -> tuple[list[Seen], list[Seen]]:
    """A share of the images, chosen by their content alone: where images are added, the others stay where they are.

    Both parts have at least one image, where there are two different ones.
    """
    ranks = {item.look.digest: int(item.look.digest[:16], 16) / 2**64 for item in seen}
    held = {digest for digest, rank in ranks.items() if rank < fraction}
    if len(ranks) > 1:
        held = (held or {min(ranks)}) - ({max(ranks)} if len(held) == len(ranks) else set())
    return (
        [item for item in seen if item.look.digest not in held],
        [item for item in seen if item.look.digest in held],
    )


def _without_leaks(seen: dict[str, list[Seen]], ledger: Ledger) -> dict[str, list[Seen]]:
    """Without the images of train that val or test has too."""
    judged = {item.look.digest: (split, item) for split in ("test", "val") for item in seen.get(split, [])}
    kept = []
    for item in seen["train"]:
        if item.look.digest in judged:
            split, twin = judged[item.look.digest]
            fault = Fault("leak", f"its image {item.raw.file} is, byte for byte, {twin.raw.file} of {split}")
            _add(ledger, fault, "train", item.raw.where, f"kept in {split} alone")
        else:
            kept.append(item)
    for _ in range(len(kept) - len({item.look.digest for item in kept})):
        ledger.note("images that are in train more than once, under several names")
    return {**seen, "train": kept}


def _annotations(split: str, seen: Sequence[Seen], categories: tuple[Category, ...], ledger: Ledger) -> AnnotationSet:
    category_ids = {category.name: category.id for category in categories}
    image_ids = _ids([item.raw.id for item in seen], least=0)
    images, objects = [], []
    for image_id, item in zip(image_ids, seen, strict=True):
        images.append(Image(image_id, item.raw.file, item.look.width, item.look.height))
        for raw in item.raw.objects:
            annotation = _annotation(split, raw, images[-1], category_ids, ledger)
            if annotation is not None:
                objects.append((raw.id, annotation))
    numbered = zip(_ids([own for own, _ in objects], least=1), objects, strict=True)
    return AnnotationSet(categories, tuple(images), tuple(replace(item, id=new) for new, (_, item) in numbered))


def _annotation(
    split: str, raw: RawObject, image: Image, category_ids: dict[str, int], ledger: Ledger
) -> Annotation | None:
    fault = raw.fault
    if fault is None and raw.name not in category_ids:
        fault = Fault("unknown_class", f"its class {raw.name!r} is not in convert.classes: {', '.join(category_ids)}")
    if fault is not None:
        _add(ledger, fault, split, raw.where, "dropped")
        return None
    box, fault = checked(raw.box, image.width, image.height)
    if fault is not None:
        _add(ledger, fault, split, raw.where, "dropped" if box is None else "clipped")
    elif box != raw.box:
        ledger.note("boxes up to 1 px outside their image, clipped")
    if box is None:
        return None
    area = box[2] * box[3]
    if raw.area is not None:  # COCO's is the mask's
        area = raw.area if box == raw.box else min(raw.area, area)
    return Annotation(0, image.id, category_ids[raw.name], box, area, raw.iscrowd, raw.difficult)


def _ids(own: Sequence[int | None], *, least: int) -> list[int]:
    """The data set's own ids, where every record has one of its own, `least` or above; otherwise 1, 2, 3, …

    An annotation's must be 1 at least: pycocotools takes annotation 0 for "no match".
    """
    whole = [number for number in own if number is not None and number >= least]
    return whole if len(set(whole)) == len(own) else list(range(1, len(own) + 1))


def _add(ledger: Ledger, fault: Fault | None, split: str, where: str, action: str) -> None:
    if fault is not None:
        ledger.add(Problem(fault.code, split, where, fault.message, action))


def _check_usable(split: str, annotations: AnnotationSet) -> None:
    if not annotations.images:
        raise PipelineError(f"convert: {split} has no images; choose another split or convert.val_fraction")
    if split != "test" and not annotations.annotations:
        raise PipelineError(f"convert: {split} has {len(annotations.images)} images and not one object")


def _summary(source: str, annotations: AnnotationSet) -> dict[str, Any]:
    names = {category.id: category.name for category in annotations.categories}
    objects = Counter(names[item.category_id] for item in annotations.annotations)
    with_objects = {item.image_id for item in annotations.annotations}
    return {
        "source": source,
        "images": len(annotations.images),
        "images_without_objects": len(annotations.images) - len(with_objects),
        "objects": len(annotations.annotations),
        "difficult": sum(item.difficult for item in annotations.annotations),
        "crowds": sum(item.iscrowd for item in annotations.annotations),
        "classes": {name: objects[name] for name in names.values()},
    }
