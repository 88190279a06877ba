"""Where a data set comes from: generated, a person's own, or an entry of the registry."""

from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.datasets import custom, digits, published, registry
from pipeline.params import Params

BUILT_IN: dict[str, Callable[[Params, Path], Sequence[Path]]] = {"digits": digits.make, "custom": custom.fetch}


def fetch(params: Params, into: Path) -> Sequence[Path]:
    """Brings the data set `params.dataset`, as published, into the folder `into`.

    Returns:
        Downloaded files that may be removed once `into` is complete.

    Raises:
        PipelineError: the data set is unknown or can't be fetched.
    """
    name = params.dataset
    if name in BUILT_IN:
        return BUILT_IN[name](params, into)
    return published.fetch(registry.find(name), name, into, params.download.mirror)
