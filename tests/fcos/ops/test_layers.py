import torch
from torchvision import ops

from fcos.ops.layers import FrozenBatchNorm2d


def test_frozen_batch_norm_equals_torchvisions_and_has_its_tensors() -> None:
    torch.manual_seed(0)
    theirs, ours = ops.FrozenBatchNorm2d(8, eps=1e-3), FrozenBatchNorm2d(8, eps=1e-3)
    for name in ("weight", "bias", "running_mean"):
        getattr(theirs, name).normal_()
    theirs.running_var.uniform_(0.5, 2)
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 8, 5, 6)
    assert torch.equal(ours(images), theirs(images))
    assert list(ours.parameters()) == []
    assert repr(ours) == repr(theirs)
