"""Finding an image in the data set, however a person names it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pipeline.data import annotations
from pipeline.data.annotations import Annotation, AnnotationSet, Image
from pipeline.errors import PipelineError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Found:
    """An image file; where it belongs to the data set, its split's name and its objects."""

    path: Path
    name: str  # as the data set names it, or as it was given
    split: str | None
    annotations: tuple[Annotation, ...]


class DataSet:
    """The unified splits that are there, and the folder of their images.

    Args:
        home: the workspace.
        dataset: its name, that of the folder in data/raw.
        split: the only one to look into; None: all.

    Raises:
        PipelineError: there is no such split yet.
    """

    def __init__(self, home: Path, dataset: str, split: str | None = None) -> None:
        self.folder = home / "data/unified"
        files = {name: self.folder / f"{name}.json" for name in ([split] if split else SPLITS)}
        self.splits = {name: annotations.read(file) for name, file in files.items() if file.is_file()}
        if not self.splits:
            missing = self.folder / f"{split}.json" if split else self.folder
            raise PipelineError(f"{missing}: not there yet: run `dvc repro convert` first")
        self.raw = home / "data/raw" / dataset

    @property
    def first(self) -> AnnotationSet:
        """A split to read the categories from: all have the same."""
        return next(iter(self.splits.values()))

    def find(self, path: Path) -> Found:
        """An image by its path, by its path in the data set, or by its bare name where only one has it.

        Raises:
            PipelineError: no file, or several, or a folder.
        """
        if path.is_dir():
            raise PipelineError(f"{path}: is a folder; name the images in it")
        if path.is_file():
            return self._of_file(path)
        matches = self._named(path.as_posix()) or (self._with_bare_name(path.name) if len(path.parts) == 1 else [])
        if not matches:
            raise PipelineError(f"{path}: no such file, nor an image of {', '.join(self.splits)} in data/unified")
        if len(matches) > 1:
            names = ", ".join(f"{image.file_name} ({split})" for split, image in matches[:3])
            raise PipelineError(f"{path}: {len(matches)} images have this name: {names}; give one's path, or --split")
        return self._found(self.raw / matches[0][1].file_name, matches)

    def _of_file(self, path: Path) -> Found:
        # Both ways: the data may lie behind a link, or the person may follow one.
        for file, raw in ((path.absolute(), self.raw.absolute()), (path.resolve(), self.raw.resolve())):
            if file.is_relative_to(raw):
                return self._found(path, self._named(file.relative_to(raw).as_posix()))
        return self._found(path, [])

    def _named(self, name: str) -> list[tuple[str, Image]]:
        return [(split, i) for split, each in self.splits.items() for i in each.images if i.file_name == name]

    def _with_bare_name(self, name: str) -> list[tuple[str, Image]]:
        every = ((split, image) for split, each in self.splits.items() for image in each.images)
        return [(split, image) for split, image in every if PurePosixPath(image.file_name).name == name]

    def _found(self, path: Path, matches: Sequence[tuple[str, Image]]) -> Found:
        if not path.is_file():
            raise PipelineError(f"{path}: no such file; run `dvc repro download`")
        if not matches:
            return Found(path, path.as_posix(), None, ())
        split, image = matches[0]
        return Found(path, image.file_name, split, tuple(self.splits[split].by_image()[image.id]))
