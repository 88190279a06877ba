"""State dicts: how the tensors of two differ, and what a library says that can't read one, short and whole."""

import re
from collections.abc import Mapping

Shape = tuple[int, ...]

COUNTER = "num_batches_tracked"  # the end of the name of batch norm's counter of batches


def describe_mismatch(expected: Mapping[str, Shape], given: Mapping[str, Shape]) -> str | None:
    """How the tensors of a state dict differ from those that a detector needs; None if they fit.

    Counters of batch norm may be missing: frozen batch norm has none.
    """
    missing = [name for name in expected if name not in given and not name.endswith(COUNTER)]
    unknown = [name for name in given if name not in expected]
    other = [name for name in expected if name in given and expected[name] != given[name]]
    problems = [
        f"{count} {noun} {verb}, such as {examples[0]}"
        for examples, verb in ((missing, "missing"), (unknown, "unknown"))
        if (count := len(examples)) and (noun := "tensor is" if count == 1 else "tensors are")
    ]
    if other:
        problems.append(f"{other[0]} has the shape {list(given[other[0]])} instead of {list(expected[other[0]])}")
    return "; ".join(problems) or None


def first_sentence(error: Exception) -> str:
    """The first sentence of another library's message, whole: such messages may go on for pages."""
    text = " ".join(str(error).split()) or type(error).__name__
    return re.split(r"(?<=[^\W\d_]{2}[.!?]) (?=[A-Z])", text, maxsplit=1)[0].rstrip(".")
