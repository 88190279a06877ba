"""Where a card lies, and whether it is that of a detector."""

from pathlib import Path

from pipeline.files import digest

CARD = "model_card.md"
FOLDER = "reports"  # of a project


def find_card(weights: Path) -> Path | None:
    """The card of a detector: beside its weights, or in the folder reports of its project; None if there is none.

    A card of other weights is not taken: a card states the digest of the weights.
    """
    # The weights may be a link into DVC's cache, or a link to a project's weights.
    folders = dict.fromkeys((weights.parent.resolve(), weights.resolve().parent))
    paths = [path for folder in folders for path in (folder / CARD, folder.parent / FOLDER / CARD) if path.is_file()]
    stated = digest(weights).encode() if paths else b""
    return next((path for path in paths if stated in path.read_bytes()), None)


def read_card(weights: Path) -> str | None:
    """The text of a detector's card; None if there is none."""
    path = find_card(weights)
    return path.read_text(encoding="utf-8") if path else None
