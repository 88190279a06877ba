"""The measurement of loading: both sides give the same batches, as long as one of them is there."""

import gc
from functools import partial

import pytest

from benchmarks import loader


@pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning")
def test_an_epoch_on_each_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "photographs", partial(loader.photographs, count=8))
    monkeypatch.setattr(loader, "_check_same", lambda *_: None)  # tested by the measurement itself
    ours, theirs = loader.files_to_batches(0)
    gc.collect()
    assert (ours(), theirs()) == (8, 8)
    del ours, theirs
    gc.collect()
