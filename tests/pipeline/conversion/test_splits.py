import shlex
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides
from ruamel.yaml import YAML

from pipeline.conversion.splits import SplitChoice, choose_splits, set_option
from pipeline.errors import PipelineError


def disjoint(names: str | list[str]) -> dict[str, set[str]]:
    """A different image in each split."""
    return {name: {f"{name}.jpg"} for name in (names.split() if isinstance(names, str) else names)}


def images(**splits: str) -> dict[str, set[str]]:
    """Splits with an image for each letter."""
    return {name: set(letters) for name, letters in splits.items()}


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
        ("custom_train custom_val", ("custom_train", "custom_val", None)),
        ("customTrain customVal", ("customTrain", "customVal", None)),
        ("train_labels test_labels", ("train_labels", "test_labels", None)),
        ("trainset testset", ("trainset", "testset", None)),
        ("training testing", ("training", "testing", None)),
        ("my-set-TRAIN my-set-EVALUATION", ("my-set-TRAIN", "my-set-EVALUATION", None)),
        ("train test-dev2017", ("train", "test-dev2017", None)),
        ("train_val test", ("train_val", "test", None)),
        # Several of one kind
        ("trainA trainB valA valB testA testB", ("trainA+trainB", "valA+valB", "testA+testB")),
        ("train_1 train_2 val", ("train_1+train_2", "val", None)),
        ("train2014 train2017 val2017", ("train2014+train2017", "val2017", None)),
        ("north/train north/val south/train south/val", ("north/train+south/train", "north/val+south/val", None)),
        ("train/north train/south val/north", ("train/north+train/south", "val/north", None)),
        ("VOC2007/trainval VOC2012/trainval VOC2007/test", ("VOC2007/trainval+VOC2012/trainval", "VOC2007/test", None)),
        # No split names
        ("north south", ("north+south", None, None)),
        ("north south test", ("north+south", "test", None)),
        ("north south val test", ("north+south", "val", "test")),
        ("cars trains", ("cars+trains", None, None)),
        ("train extra val", ("train", "val", None)),
    ],
)
def test_obvious(names: str, chosen: tuple[str, str | None, str | None]) -> None:
    assert choose_splits(disjoint(names), None, None, None) == SplitChoice(*chosen)


@pytest.mark.parametrize(
    ("names", "requested", "chosen"),
    [
        ("train val trainval test", ("trainval", None, None), ("trainval", "test", None)),
        ("train val trainval test", ("trainval", "test", None), ("trainval", "test", None)),
        ("train val trainval test", (None, "test", None), ("trainval", "test", None)),
        ("train val trainval test", ("train", "test", "val"), ("train", "test", "val")),
        ("train val trainval", ("trainval", None, None), ("trainval", None, None)),
        ("VOC2007/trainval VOC2012/trainval VOC2007/test", ("VOC2007/trainval+VOC2012/trainval", "VOC2007/test", None),
         ("VOC2007/trainval+VOC2012/trainval", "VOC2007/test", None)),
        ("a b", ("a", "b", None), ("a", "b", None)),
        ("a b c", (None, "b", None), ("a+c", "b", None)),
        ("train val", ("train+val", None, None), ("train+val", None, None)),
        ("train val test", ("train+val", None, None), ("train+val", "test", None)),
    ],
)  # fmt: skip
def test_named_splits(names: str, requested: tuple[str | None, ...], chosen: tuple[str | None, ...]) -> None:
    assert choose_splits(disjoint(names), *requested) == SplitChoice(*chosen)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("names", "requested", "message"),
    [
        ("train val", ("trian", None, None), "convert.train: the data set has no split 'trian'; it has train, val"),
        (  # those of the recipe cpu_lite0
            "train val",
            ("trainval", "test", None),
            "'trainval'; it has train, val: name one of them, or use -S convert.train=null -S convert.val=null to take",
        ),
        ("train val", ("train", "train", None), "'train' is used twice"),
        (
            "test val",
            (None, None, None),
            "splits [(]test, val[)]; choose one or several, as in -S convert.train=test+val",
        ),
        ("a b c", ("a", None, None), "convert.val: no obvious choice among the data set's splits [(]a, b, c[)]"),
        ("train val", ("train+val", "val", None), "'val' is used twice"),
        ("train val", ("train", "train", None), "; -S convert.val=null holds out a share of it"),
        ("", (None, None, None), "splits [(]none[)]"),
    ],
)
def test_refused(names: str, requested: tuple[str | None, ...], message: str) -> None:
    with pytest.raises(PipelineError, match=message.replace(".", r"\.").replace("+", r"\+")):
        choose_splits(disjoint(names), *requested)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("names", "requested", "chosen"),
    [
        ("train val", (None, None, None), ("train", None, None)),
        ("train val trainval test", (None, None, None), ("trainval", None, "test")),
        ("all", (None, None, None), ("all", None, None)),
        ("train val", ("train+val", None, None), ("train+val", None, None)),
        ("a b", ("a", None, None), ("a", None, None)),
    ],
)
def test_folds_divide_train(names: str, requested: tuple[str | None, ...], chosen: tuple[str | None, ...]) -> None:
    assert choose_splits(disjoint(names), *requested, folds=True) == SplitChoice(*chosen)  # type: ignore[arg-type]


def test_a_validation_split_with_the_images_of_train_is_left_out() -> None:
    for splits in (
        images(train="abc", val="abc"),
        images(train="abc", val="abcd"),
        images(trainA="a", trainB="bc", val="abc"),
    ):
        choice = choose_splits(splits, None, None, None)
        assert (choice.val, choice.test) == (None, None)
        assert choice.remarks[-1].startswith(f"val: split val has all images of {choice.train} and is left out; ")
    assert choose_splits(images(train="abc", val="c"), None, None, None).val == "val"  # a leak, which can be repaired
    assert choose_splits(images(train="abc", val="abc", test="d"), None, None, None).val == "test"


def test_the_advice_for_a_named_validation_split_with_the_images_of_train() -> None:
    splits = images(train="abc", val="abc")
    with pytest.raises(
        PipelineError, match=r"convert\.val: val has all images of train; -S convert\.val=null .* -S convert\.folds=5"
    ):
        choose_splits(splits, "train", "val", None)
    assert choose_splits(splits, "train", None, None).val is None
    assert choose_splits(splits, "train", "val", None, folds=True) == SplitChoice("train", None, None)


def test_a_test_split_with_the_images_of_val_is_left_out() -> None:
    assert choose_splits(images(train="a", val="bc", test="bc"), None, None, None) == SplitChoice("train", "val", None)
    assert choose_splits(images(train="abc", val="abc", test="abc"), None, None, None) == SplitChoice(
        "train", None, None
    )


def test_splits_of_one_kind_that_share_images() -> None:
    plain = choose_splits(images(train="abc", train_small="ab", train_more="de", val="f"), None, None, None)
    assert plain.train == "train+train_more"
    assert (
        plain.remarks[0]
        == "train: split train_small shares images with train and is left out; -S convert.train=train_small"
    )
    assert choose_splits(images(north="ab", everywhere="abc"), None, None, None).train == "everywhere"
    with pytest.raises(
        PipelineError, match=r"the splits v1 and v2 share 2 images; choose one, for example -S convert\.train=v1$"
    ):
        choose_splits(images(v1="ab", v2="ab"), None, None, None)
    assert choose_splits(images(v1="ab", v2="ab"), "v1", None, None) == SplitChoice("v1", None, None)


def test_splits_of_several_folds() -> None:
    folds = images(fold0_train="bc", fold0_val="a", fold1_train="ac", fold1_val="b", fold2_train="ab", fold2_val="c")
    with pytest.raises(PipelineError, match=r"share 1 image; choose one, for example -S convert\.train=fold0_train"):
        choose_splits(folds, None, None, None)
    assert choose_splits(folds, "fold1_train", None, None) == SplitChoice("fold1_train", "fold1_val", None)


def test_empty_splits_are_left_out() -> None:
    choice = choose_splits(images(train="abc", val="", test=""), None, None, None)
    assert choice == SplitChoice("train", None, None)
    assert choice.remarks == ("split val has no images and is left out", "split test has no images and is left out")
    assert choose_splits(images(train="", val="a"), None, None, None) == SplitChoice("train", "val", None)


def test_splits_that_are_not_used_are_named_with_their_option() -> None:
    choice = choose_splits(images(train="abc", val="d", north="e", old="a"), None, None, None)
    assert choice.remarks == ("split north is not used; -S convert.train=train+north adds it",)
    assert choose_splits(images(train="abc", val="d", north="e"), "train+north", None, None).val == "val"


@pytest.mark.parametrize(
    "name",
    [
        *("train", "VOC2007/trainval+VOC2012/trainval", "site A+site B", "caf\u00e9/train", "a=b", "10", "1e3", "True"),
        *("x(1)", "o'brien", 'the "new"', "back\\slash", "end\\", 'both\\"', "null"),
    ],
)
def test_options_mean_their_value_to_dvc(tmp_path: Path, name: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("convert: {train: null}")
    flag, option = shlex.split(set_option("convert.train", name))
    assert flag == "-S"
    apply_overrides(path, [option])
    assert YAML(typ="safe").load(path)["convert"]["train"] == name
