"""Environment variables of torch.compile's cache; tests/fcos/fast/test_compiled.py compiles with it."""

import os
import tempfile
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
    folder, default = home / ".fcos/torch_compile", f"{tempfile.gettempdir()}/torchinductor_user"
    for value in (None, default, f"{default}/triton/0"):
        for variable in VARIABLES:
            if value is None:
                monkeypatch.delenv(variable)
            else:
                monkeypatch.setenv(variable, value)
        compiler_cache.use_private_folder()
        assert [os.environ[variable] for variable in VARIABLES] == [str(folder), str(folder / "triton")]
    assert folder.stat().st_mode & 0o777 == 0o700
