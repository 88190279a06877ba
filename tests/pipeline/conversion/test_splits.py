import pytest

from pipeline.conversion.splits import SplitChoice, choose_splits
from pipeline.errors import PipelineError


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        ("train val", ("train", "val", None)),
        ("train valid test", ("train", "valid", "test")),
        ("train2017 val2017", ("train2017", "val2017", None)),
        ("train val trainval", ("train", "val", None)),  # VOC2007 without its test images
        ("train val trainval test", ("train", "val", "test")),  # BCCD
        ("trainval test", ("trainval", "test", None)),
        ("train trainval test", ("trainval", "test", None)),
        ("train test", ("train", "test", None)),
        ("all", ("all", None, None)),
        ("train", ("train", None, None)),
        ("v2", ("v2", None, None)),
    ],
)
def test_obvious(names: str, chosen: tuple[str, str | None, str | None]) -> None:
    assert choose_splits(names.split(), None, None, None) == SplitChoice(*chosen)


@pytest.mark.parametrize(
    ("names", "asked", "chosen"),
    [
        ("train val trainval test", ("trainval", None, None), ("trainval", "test", None)),
        ("train val trainval test", ("trainval", "test", None), ("trainval", "test", None)),
        ("train val trainval test", (None, "test", None), ("trainval", "test", None)),
        ("train val trainval test", ("train", "test", "val"), ("train", "test", "val")),
        ("train val trainval", ("trainval", None, None), ("trainval", None, None)),
        ("VOC2007/trainval VOC2012/trainval VOC2007/test", ("VOC2007/trainval+VOC2012/trainval", "VOC2007/test", None),
         ("VOC2007/trainval+VOC2012/trainval", "VOC2007/test", None)),
        ("a b", ("a", "b", None), ("a", "b", None)),
    ],
)  # fmt: skip
def test_named_splits(names: str, asked: tuple[str | None, ...], chosen: tuple[str | None, ...]) -> None:
    assert choose_splits(names.split(), *asked) == SplitChoice(*chosen)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("names", "asked", "said"),
    [
        ("train val", ("trian", None, None), "convert.train: the data set has no split 'trian'; it has train, val"),
        ("train val", ("train", "train", None), "'train' is used twice"),
        ("a b", (None, None, None), "convert.train: no obvious choice among the data set's splits [(]a, b[)]"),
        ("a b c", ("a", None, None), "convert.val: no obvious choice among the data set's splits [(]a, b, c[)]"),
        ("train val", ("train+val", "val", None), "'val' is used twice"),
        ("", (None, None, None), "splits [(]none[)]"),
    ],
)
def test_refused(names: str, asked: tuple[str | None, ...], said: str) -> None:
    with pytest.raises(PipelineError, match=said.replace(".", r"\.").replace("+", r"\+")):
        choose_splits(names.split(), *asked)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("names", "asked", "chosen"),
    [
        ("train val", (None, None, None), ("train", None, None)),
        ("train val trainval test", (None, None, None), ("trainval", None, "test")),
        ("all", (None, None, None), ("all", None, None)),
        ("train val", ("train+val", None, None), ("train+val", None, None)),
        ("a b", ("a", None, None), ("a", None, None)),
    ],
)
def test_folds_divide_train(names: str, asked: tuple[str | None, ...], chosen: tuple[str | None, ...]) -> None:
    assert choose_splits(names.split(), *asked, folds=True) == SplitChoice(*chosen)  # type: ignore[arg-type]
