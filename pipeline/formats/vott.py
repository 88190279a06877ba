"""Reader of VoTT's JSON: an export of a whole project, or the files of its assets, one for each image.

Format: https://github.com/microsoft/VoTT (src/models/applicationState.ts). A `boundingBox` has left, top, width and
height in pixels, as edges, 0-based. A region with several tags is an object of each. VoTT's CSV is read by `csv_table`.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.errors import PipelineError
from pipeline.formats.dataset_files import list_files
from pipeline.formats.layouts import AnnotationFile, find_json_files, json_image, read_image_files, read_split_files
from pipeline.formats.records import Issue, RawDataset, RawImage, RawObject, RawSplit, object_record
from pipeline.formats.text import show_value
from pipeline.formats.values import box_from_size, lookup, to_label, to_size

_EXPECTED = "VoTT project: a .json with assets and regions, or one for each image"
_BOX = ("left", "top", "width", "height")


def find_annotations(folder: Path, files: list[PurePosixPath]) -> list[PurePosixPath]:
    return _find_exports(folder, files) or _find_assets(folder, files)


def read(folder: Path) -> RawDataset:
    """Reads all exports below `folder`, each as a split; if there is none, the files of assets, each folder as a split.

    Raises:
        PipelineError: There is no such file, or an export isn't JSON.
    """
    if _find_exports(folder, list_files(folder)):
        return read_split_files(folder, _find_exports, _read_export, _EXPECTED, stem=_stem)
    return read_image_files(folder, _find_assets, _read_asset, _EXPECTED)


def _find_exports(folder: Path, files: list[PurePosixPath]) -> list[PurePosixPath]:
    return find_json_files(folder, files, lambda head: _is_json_of(head, b'"assets"') and b'"asset"' in head)


def _find_assets(folder: Path, files: list[PurePosixPath]) -> list[PurePosixPath]:
    def is_asset(head: bytes) -> bool:
        return _is_json_of(head, b'"asset"') and b'"assets"' not in head

    return find_json_files(folder, files, is_asset, whole_folders=True)


def _is_json_of(head: bytes, key: bytes) -> bool:
    return head.startswith(b"{") and key in head and b'"regions"' in head


def _stem(file: PurePosixPath) -> str:
    return file.stem.removesuffix("-export")


def _read_export(annotations: AnnotationFile) -> RawSplit:
    assets = lookup(annotations.read_json(), "assets")
    if not isinstance(assets, dict):
        raise PipelineError(f"{annotations.file}: not a VoTT export: it has no assets by id")
    return RawSplit(
        tuple(_image(annotations, f"{annotations.file}: asset {show_value(id)}", entry) for id, entry in assets.items())
    )


def _read_asset(annotations: AnnotationFile) -> RawImage:
    return _image(annotations, str(annotations.file), annotations.try_read_json())


def _image(annotations: AnnotationFile, source: str, entry: Any) -> RawImage:
    regions = entry if isinstance(entry, Issue) else lookup(entry, "regions")
    size = to_size(lookup(entry, "asset", "size", "width"), lookup(entry, "asset", "size", "height"))
    if isinstance(regions, list):
        regions = [pair for region in regions for pair in _tagged(region)]
    return json_image(annotations, source, lookup(entry, "asset", "name"), regions, _object, size)


def _tagged(region: Any) -> Iterator[tuple[Any, Any]]:
    """The region with each of its tags."""
    tags = lookup(region, "tags")
    yield from ((region, tag) for tag in (tags if isinstance(tags, list) and tags else [None]))


def _object(source: str, item: Any) -> RawObject:
    region, tag = item
    return object_record(source, to_label(tag), box_from_size([lookup(region, "boundingBox", n) for n in _BOX], _BOX))
