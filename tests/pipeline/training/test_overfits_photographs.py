"""Training overfits four photographs, with each assigner and several combinations of losses."""

import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from defusedxml import ElementTree
from torch import Tensor

from fcos.backbones import Backbone
from fcos.training.history import NullCallback
from pipeline import params
from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image
from pipeline.params import Params
from pipeline.training.build import make_batches, make_trainer, make_validation

NAMES = ("000017", "000044", "000048", "000063")
CLASSES = ("bird", "cat", "chair", "dog", "horse", "person")
STEPS = 20


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("photographs")


@pytest.fixture
def photographs(archive: Callable[[str], Path], unpacked: Path) -> AnnotationSet:
    """Four images of VOC2007 with their objects, unpacked once."""
    images, annotations = [], []
    with tarfile.open(archive("voc2007-trainval-400.tar")) as tar:
        for name in NAMES:
            picture = tar.extractfile(f"VOCdevkit/VOC2007/JPEGImages/{name}.jpg")
            record = tar.extractfile(f"VOCdevkit/VOC2007/Annotations/{name}.xml")
            assert picture is not None
            assert record is not None
            (unpacked / f"{name}.jpg").write_bytes(picture.read())
            tree = ElementTree.parse(record).getroot()
            width, height = (int(tree.findtext(f"size/{side}", "")) for side in ("width", "height"))
            images.append(Image(len(images) + 1, f"{name}.jpg", width, height))
            for node in tree.iter("object"):
                x1, y1, x2, y2 = (float(node.findtext(f"bndbox/{k}", "")) for k in ("xmin", "ymin", "xmax", "ymax"))
                box = (x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1)
                label = CLASSES.index(node.findtext("name", "")) + 1
                annotations.append(Annotation(len(annotations) + 1, len(images), label, box, box[2] * box[3]))
    categories = tuple(Category(index + 1, name) for index, name in enumerate(CLASSES))
    return AnnotationSet(categories, tuple(images), tuple(annotations))


def parameters(loss: str, **model: object) -> Params:
    """The parameters of the project, with ImageNet weights, no augmentation, and a batch of four images."""
    values = params.load()
    defaults = {
        "backbone": "efficientnet_lite0",
        "pretrained": True,
        "frozen_stages": 5,
        "channels": 64,
        "levels": (3, 4, 5, 6),
    }
    return replace(
        values,
        loss=loss,
        model=replace(values.model, **{**defaults, **model}),
        train=replace(
            values.train,
            size=(128, 160),
            batch_size=4,
            epochs=STEPS,
            augment=replace(values.train.augment, scale=(1.0, 1.0)),
            validate_every=STEPS,
            ema_decay=0.0,
        ),
    )


@pytest.fixture(scope="module")
def known_features() -> dict[bytes, tuple[Tensor, ...]]:
    """C3, C4, C5 of each image, the same in all trainings."""
    return {}


def compute_once(backbone: Backbone, known: dict[bytes, tuple[Tensor, ...]]) -> None:
    """Makes a frozen backbone look up the features of images that it has seen: half the time of a step."""
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    forward = backbone.forward

    def look_up(images: Tensor) -> tuple[Tensor, ...]:
        keys = [image.numpy().tobytes() for image in images]
        for key, image in zip(keys, images, strict=True):
            if key not in known:
                known[key] = tuple(feature.detach() for feature in forward(image[None]))
        return tuple(torch.cat(features) for features in zip(*(known[key] for key in keys), strict=True))

    backbone.forward = look_up  # type: ignore[method-assign]


@pytest.mark.parametrize("assigner", ["fcos", "atss", "task_aligned"])
@pytest.mark.parametrize(
    ("loss", "quality", "classification"),
    [
        ("iou", "centerness", "focal"),
        ("giou", "iou", "quality_focal"),
        ("ciou", "none", "varifocal"),
        ("smooth_l1", "iou", "focal"),
    ],
)
@pytest.mark.usefixtures("home")
def test_training_overfits_four_photographs(
    photographs: AnnotationSet,
    unpacked: Path,
    known_features: dict[bytes, tuple[Tensor, ...]],
    assigner: str,
    loss: str,
    quality: str,
    classification: str,
) -> None:
    values = parameters(loss, assigner=assigner, quality=quality, classification_loss=classification)
    trainer = make_trainer(
        values,
        batches=make_batches(values, photographs, unpacked),
        validate=make_validation(values, photographs, unpacked),
        classes=CLASSES,
        callback=NullCallback(),
        checkpoint=None,
    )
    compute_once(trainer.detector.backbone, known_features)
    history = trainer.fit()
    assert len(known_features) == len(NAMES)
    assert history.epochs[-1]["AP50"] >= 0.95
