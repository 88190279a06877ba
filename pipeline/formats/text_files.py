"""Text files of a data set."""

from pathlib import Path, PurePosixPath

from pipeline.errors import PipelineError


def lines(folder: Path, file: PurePosixPath) -> list[str]:
    """The lines that aren't empty, without the blanks around them.

    Raises:
        PipelineError: it can't be read, or is not UTF-8 text.
    """
    try:
        stripped = (line.strip() for line in (folder / file).read_text(encoding="utf-8-sig").splitlines())
    except OSError as error:
        raise PipelineError(f"{file}: can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise PipelineError(f"{file}: it is not UTF-8 text") from None
    return [line for line in stripped if line]
