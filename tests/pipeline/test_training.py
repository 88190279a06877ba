from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fcos.backbones import build_backbone
from pipeline import params
from pipeline.annotations import Annotation, AnnotationSet, Category, Image
from pipeline.errors import PipelineError
from pipeline.training import make_batches, make_trainer


class Silent:
    def stepped(self, row: dict[str, float], images: int) -> None: ...
    def validated(self, row: dict[str, float]) -> None: ...


def test_a_relative_file_of_weights_lies_under_the_main_repository(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for `dvc exp run --queue`, which runs in a temporary workspace without the files that git ignores."""
    main = tmp_path / "main"
    main.mkdir()
    own = params.load(home / "params.yaml")
    backbone = build_backbone(own.model)
    torch.save(backbone.parts.state_dict(), main / "start.pth")
    monkeypatch.setenv("DVC_ROOT", str(main))
    one = Annotation(1, 1, 1, (1.0, 1.0, 9.0, 9.0), 81.0)
    split = AnnotationSet((Category(1, "cat"),), (Image(1, "a.png", 40, 30),), (one,))

    def start(name: str) -> torch.nn.Module:
        chosen = replace(own, seed=1, model=replace(own.model, pretrained=name, batch_norm="trained"))
        batches = make_batches(chosen, split, home)
        made = make_trainer(chosen, batches=batches, validate=dict, classes=1, watcher=Silent(), checkpoint=None)
        return made.detector.backbone.parts

    theirs = start("start.pth").state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in backbone.parts.state_dict().items())
    with pytest.raises(PipelineError, match=r"params\.yaml: model\.pretrained: .*main/other\.pth"):
        start("other.pth")
