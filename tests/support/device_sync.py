"""Detects operations on a CPU that would make the host wait for a GPU."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class NoSynchronization(TorchDispatchMode):
    """Raises an AssertionError for operations whose result the host must know: `.item()`, `nonzero`, boolean masks."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = func.name()
        if name.startswith("aten::index"):
            assert all(index is None or index.dtype != torch.bool for index in args[1]), name
        assert name not in {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select"}, name
        return func(*args, **kwargs or {})
