"""How an image of any size becomes one that a detector takes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class InputSize:
    """The rule by which images are resized, in training and ever after.

    Without letterbox the shorter side becomes the first of `size`, unless the longer would exceed the second. With
    it, `size` is height and width of a canvas that the image is fitted into, and padded to at the right and the bottom.
    """

    size: tuple[int, int]  # pixels
    letterbox: bool = False

    def scale(self, height: int, width: int) -> float:
        """The factor by which an image of this height and width is resized."""
        if self.letterbox:
            return min(self.size[0] / height, self.size[1] / width)
        return min(self.size[0] / min(height, width), self.size[1] / max(height, width))

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of an image after that, in whole pixels, without padding."""
        return scaled(height, width, self.scale(height, width))

    @property
    def canvas(self) -> tuple[int, int] | None:
        """Height and width that every image is padded to; None: to the largest of its batch."""
        return self.size if self.letterbox else None


def scaled(height: int, width: int, scale: float) -> tuple[int, int]:
    """Height and width times a factor, rounded to whole pixels, at least one."""
    return max(1, round(height * scale)), max(1, round(width * scale))
