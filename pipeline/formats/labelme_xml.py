"""Reader of the XML of LabelMe's web tool and of CVAT's export `LabelMe 3.0`: one file per image, with polygons.

Format: https://github.com/CSAILVision/LabelMeAnnotationTool. Points are in pixels, 0-based, measured at pixel edges.
Objects that were drawn as a mask have the box that the file states for it. Deleted objects are left out.
"""

from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element

from pipeline.errors import count_noun
from pipeline.formats.dataset_files import read_head
from pipeline.formats.layouts import AnnotationFile, find_annotation_folders, read_image_files
from pipeline.formats.records import Box, Issue, RawDataset, RawImage, RawObject, image_record, object_record
from pipeline.formats.shapes import box_around_points
from pipeline.formats.voc import LABELME_ELEMENT, ROOT, parse_annotation

_HEAD = 1 << 14  # bytes that contain the first object
_LISTED = 10  # objects that a remark names


def is_annotation(path: Path) -> bool:
    """Whether a file has elements of LabelMe's, and no box as Pascal VOC has it."""
    head = read_head(path, _HEAD)
    return bool(ROOT.search(head) and LABELME_ELEMENT.search(head)) and b"<bndbox" not in head


def find_evidence(folder: Path, files: list[PurePosixPath]) -> PurePosixPath | None:
    return next((group[0] for group in _find_folders(folder, files).values()), None)


def read(folder: Path) -> RawDataset:
    """Reads all annotations below `folder`. Each folder of them is a split; a single one is called `all`.

    Raises:
        PipelineError: There is no annotation.
    """
    masks: list[str] = []
    deleted: list[str] = []
    dataset = read_image_files(
        folder,
        lambda folder, files: sorted(file for group in _find_folders(folder, files).values() for file in group),
        lambda annotation: _image(annotation, masks, deleted),
        "LabelMe annotation: .xml files with an <annotation> of polygons",
    )
    return RawDataset(dataset.categories, dataset.splits, dataset.num_image_files, tuple(_remarks(masks, deleted)))


def _find_folders(folder: Path, files: list[PurePosixPath]) -> dict[PurePosixPath, list[PurePosixPath]]:
    return find_annotation_folders(files, ".xml", lambda file: is_annotation(folder / file))


def _remarks(masks: list[str], deleted: list[str]) -> Iterable[str]:
    if masks:
        more = f" and {len(masks) - _LISTED:,} more" if len(masks) > _LISTED else ""
        yield f"{count_noun(len(masks), 'object')} drawn as masks alone, with the masks' boxes: " + (
            ", ".join(masks[:_LISTED]) + more
        )
    if deleted:
        yield f"{count_noun(len(deleted), 'deleted object')} left out"


def _image(annotation: AnnotationFile, masks: list[str], deleted: list[str]) -> RawImage:
    source = str(annotation.file)
    root = parse_annotation(annotation.folder / annotation.file)
    if isinstance(root, Issue):
        return image_record(source, root)
    name = "/".join(filter(None, (_text(root, "folder"), _text(root, "filename"))))
    path = annotation.images.find(name, annotation.file.parent, annotation.split)
    if isinstance(path, Issue):  # the image was renamed together with its annotation
        by_stem = annotation.images.find_stem(annotation.file.stem, annotation.file.parent, annotation.split)
        path = path if isinstance(by_stem, Issue) else by_stem
    objects = []
    for number, element in enumerate(root.findall("object"), 1):
        item = _object(f"{source}: object {number}", element)
        if _text(element, "deleted") == "1":
            deleted.append(item.source)
            continue
        if element.find("polygon") is None and element.find("segm") is not None:
            masks.append(item.source)
        objects.append(item)
    return image_record(source, path, None, _declared_size(root), tuple(objects))


def _text(element: Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


def _declared_size(root: Element) -> tuple[int, int] | None:
    width, height = _text(root, "imagesize/ncols"), _text(root, "imagesize/nrows")
    if not all(side.isascii() and side.isdigit() and int(side[:10]) > 0 for side in (width, height)):
        return None
    return int(width[:10]), int(height[:10])


def _object(source: str, element: Element) -> RawObject:
    name = " ".join(_text(element, "name").split())
    return object_record(source, name or Issue("invalid_record", "has no <name>"), _box(element))


def _box(element: Element) -> Box | Issue:
    try:
        if (polygon := element.find("polygon")) is not None:
            points = [(float(_text(point, "x")), float(_text(point, "y"))) for point in polygon.findall("pt")]
            few = Issue("invalid_record", f"has no area: a polygon of {count_noun(len(points), 'point')}")
            return box_around_points(points) if len(points) > 2 else few
        if (box := element.find("segm/box")) is not None:
            left, top, right, bottom = (float(_text(box, name)) for name in ("xmin", "ymin", "xmax", "ymax"))
            return (left, top, right - left, bottom - top)
    except ValueError:
        return Issue("invalid_record", "has a coordinate that is not a number")
    return Issue("invalid_record", "has neither a <polygon> nor a <segm> with a <box>")
