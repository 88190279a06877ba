"""Where torch.compile keeps the programs that it has compiled."""

import os
import tempfile

from pipeline.workspace import state_dir


def use_private_folder() -> None:
    """Makes torch.compile keep its files in `.fcos/torch_compile`, which only this user can enter.

    By default, it uses a folder of /tmp with a predictable name. Another user could create that folder first, with
    programs in it that torch would then run. Folders in TORCHINDUCTOR_CACHE_DIR and TRITON_CACHE_DIR are kept.
    """
    folder = state_dir() / "torch_compile"
    folder.mkdir(mode=0o700, exist_ok=True)
    torch_default = f"{tempfile.gettempdir()}/torchinductor_"  # imports of torch set the variables to it
    for variable, path in {"TORCHINDUCTOR_CACHE_DIR": folder, "TRITON_CACHE_DIR": folder / "triton"}.items():
        if os.environ.get(variable, torch_default).startswith(torch_default):
            os.environ[variable] = str(path)
    # This module chooses a folder for precompiled C++ headers while it is imported, regardless of the variables.
    default, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        import torch._inductor.codecache  # noqa: F401
    finally:
        tempfile.tempdir = default
