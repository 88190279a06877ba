"""Finds images of the data set by the path or name that a person gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pipeline.data import annotations
from pipeline.data.annotations import Annotation, AnnotationSet, Image
from pipeline.errors import PipelineError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class ImageFile:
    """An image file with its split and objects, if it belongs to the data set."""

    path: Path
    name: str  # file name in the data set; for other images, the path as given
    split: str | None  # None: not in the data set
    annotations: tuple[Annotation, ...]


class DataSet:
    """The unified splits that exist, and the folder of their images.

    Args:
        home: the workspace.
        dataset: the name of the data set, which is the name of its folder in data/raw.
        split: the only split to search; None: all.

    Raises:
        PipelineError: the split does not exist yet.
    """

    def __init__(self, home: Path, dataset: str, split: str | None = None) -> None:
        self.folder = home / "data/unified"
        files = {name: self.folder / f"{name}.json" for name in ([split] if split else SPLITS)}
        self.splits = {name: annotations.read(file) for name, file in files.items() if file.is_file()}
        if not self.splits:
            missing = self.folder / f"{split}.json" if split else self.folder
            raise PipelineError(f"{missing}: does not exist yet; run `dvc repro convert` first")
        self.raw = home / "data/raw" / dataset

    @property
    def first(self) -> AnnotationSet:
        """The first split; all splits have the same categories."""
        return next(iter(self.splits.values()))

    def find(self, path: Path) -> ImageFile:
        """Finds an image by its path, by its path inside the data set, or by its file name if that is unique.

        Raises:
            PipelineError: there is no such image, several images have the name, or the path is a folder.
        """
        if path.is_dir():
            raise PipelineError(f"{path}: is a folder; give the images in it")
        if path.is_file():
            return self._find_file(path)
        matches = self._with_path(path.as_posix()) or (self._with_name(path.name) if len(path.parts) == 1 else [])
        if not matches:
            raise PipelineError(f"{path}: no such file, and no such image of {', '.join(self.splits)} in data/unified")
        if len(matches) > 1:
            names = ", ".join(f"{image.file_name} ({split})" for split, image in matches[:3])
            raise PipelineError(f"{path}: {len(matches)} images have this name: {names}; give the path, or --split")
        return self._image_file(self.raw / matches[0][1].file_name, matches)

    def _find_file(self, path: Path) -> ImageFile:
        # Unresolved and resolved: data/raw may be a symbolic link, or the given path may go through one.
        for file, raw in ((path.absolute(), self.raw.absolute()), (path.resolve(), self.raw.resolve())):
            if file.is_relative_to(raw):
                return self._image_file(path, self._with_path(file.relative_to(raw).as_posix()))
        return self._image_file(path, [])

    def _with_path(self, name: str) -> list[tuple[str, Image]]:
        return [(split, image) for split, image in self._images() if image.file_name == name]

    def _with_name(self, name: str) -> list[tuple[str, Image]]:
        return [(split, image) for split, image in self._images() if PurePosixPath(image.file_name).name == name]

    def _images(self) -> list[tuple[str, Image]]:
        return [(name, image) for name, split in self.splits.items() for image in split.images]

    def _image_file(self, path: Path, matches: Sequence[tuple[str, Image]]) -> ImageFile:
        if not path.is_file():
            raise PipelineError(f"{path}: no such file; run `dvc repro download`")
        if not matches:
            return ImageFile(path, path.as_posix(), None, ())
        split, image = matches[0]
        return ImageFile(path, image.file_name, split, tuple(self.splits[split].by_image()[image.id]))
