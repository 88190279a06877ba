"""Environment variables of torch.compile's cache; tests/fcos/fast/test_compiled.py compiles with it."""

import os
from pathlib import Path

import pytest

from pipeline.training import compiler_cache

VARIABLES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")


def test_the_cache_is_in_the_project_unless_the_user_has_chosen_a_folder(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in VARIABLES:
        monkeypatch.setenv(variable, f"/chosen/{variable}")
    compiler_cache.use_private_folder()
    assert [os.environ[variable] for variable in VARIABLES] == [f"/chosen/{variable}" for variable in VARIABLES]
    for variable in VARIABLES:
        monkeypatch.delenv(variable)
    compiler_cache.use_private_folder()
    folder = home / ".fcos/torch_compile"
    assert [os.environ[variable] for variable in VARIABLES] == [str(folder), str(folder / "triton")]
    assert folder.stat().st_mode & 0o777 == 0o700
