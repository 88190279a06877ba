"""The JSON file beside the weights: valid values come back, all others are one line."""

import json
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fcos.config import PAPER, InputSize
from fcos.description import Description, Normalization, from_json, to_json

ABOUT = Description(model=PAPER, categories=((7, "cat"), (3, "dög")), input_size=InputSize((320, 416)))
TEXT = to_json(ABOUT, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))


def test_what_is_written_is_read() -> None:
    description, normalization = from_json(TEXT.encode())
    assert description == ABOUT
    assert (normalization.mean, normalization.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert from_json(b"\xef\xbb\xbf" + TEXT.encode())[0] == ABOUT  # with a byte order mark
    content = json.loads(TEXT)
    assert from_json(json.dumps(content, indent=7, sort_keys=True).encode())[0] == ABOUT  # formatted by a program


@pytest.mark.parametrize(("key", "value"), [("normalization.mean.0", 0.2), ("categories.0.id", 8), ("size.1", 418)])
def test_a_valid_value_that_was_not_saved_is_an_error(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=r"its values are not those that were saved; restore the file, or remove sha2"):
        from_json(changed(key, value))
    content = json.loads(changed(key, value))
    del content["sha256"]
    description, normalization = from_json(json.dumps(content).encode())
    assert (description, normalization.mean[0]) != (ABOUT, 0.1)


def changed(key: str, value: object) -> bytes:
    """The file with another value, by a key such as `model.channels` or `size.0`."""
    content: Any = json.loads(TEXT)
    *path, last = [int(part) if part.isdigit() else part for part in key.split(".")]
    target = content
    for part in path:
        target = target[part]
    target[last] = value
    return json.dumps(content).encode()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("size.0", 0, "size: [0, 416] must be two sides from 1 to 16384 pixels"),
        ("size.1", -5, "size: [320, -5] must be two sides from 1 to 16384 pixels"),
        ("size.1", 10**9, "size: [320, 1000000000] must be two sides from 1 to 16384 pixels"),
        ("size", [320], "size is [320], but should be a list of 2"),
        ("size.0", 320.5, "size[0] is 320.5, but should be a whole number"),
        ("normalization.mean.0", float("nan"), "normalization.mean[0] is nan, but should be a finite number"),
        ("normalization.std.1", float("inf"), "normalization.std[1] is inf, but should be a finite number"),
        ("normalization.std.1", 0, "normalization.std: [0.4, 0, 0.6] must be positive"),
        ("normalization", None, "normalization is None, but should have the keys mean, std"),
        ("categories.1.id", 7, "categories: the id 7 is used twice"),
        ("categories.1.name", "cat", "categories: the name 'cat' is used twice"),
        ("categories.0.id", True, "categories[0].id is True, but should be a whole number"),
        ("categories.0.name", None, "categories[0].name is None, but should be a text"),
        ("categories", [], "categories: there are none"),
        ("categories", {}, "categories is {}, but should be a list"),
        ("model", [], "model is [], but should have the keys backbone, pretrained, "),
        ("model.neck", "foo", "model.neck is 'foo', but should be fpn or pan or bifpn"),
        ("model.channels", -8, "model.channels: -8 must be a positive multiple of 8"),
        ("model.tower_depth", 10**9, "model.tower_depth: 1000000000 must be 64 or less"),
        ("model.distribution_max", 10**9, "model.distribution_max: 1000000000 must be 256 or less"),
        (
            "model.tower_channels",
            "9" * 10**6,
            "model.tower_channels is '999999999999...9999999999999', but should be a",
        ),
        ("model.levels", [3, 5], "model.levels: [3, 5] must be consecutive, start at 3, 4 or 5, and end at 7 or below"),
        ("model.focal_gamma", float("nan"), "model.focal_gamma is nan, but should be a finite number"),
        ("model.loss_weights.box", None, "model.loss_weights.box is None, but should be a finite number"),
        ("model.foo", 1, "model.foo is unknown"),
        ("version", 5, "version 5, but versions 3 and 4 can be read"),
        ("letterbox", 1, "letterbox is 1, but should be a true or false"),
    ],
)
def test_an_invalid_value_is_named(key: str, value: object, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared
        from_json(changed(key, value))
    assert str(caught.value).startswith(message)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("key", ["version", "size", "model", "categories", "letterbox", "normalization"])
def test_a_missing_key_is_named(key: str) -> None:
    content = json.loads(TEXT)
    del content[key]
    with pytest.raises(ValueError, match=rf"^{key} is missing$"):
        from_json(json.dumps(content).encode())


def test_the_precision_is_unknown_in_older_files() -> None:
    content = json.loads(TEXT)
    del content["precision"], content["sha256"]
    assert from_json(json.dumps(content).encode())[0].precision is None
    saved = to_json(replace(ABOUT, precision="bf16"), mean=(0, 0, 0), std=(1, 1, 1))
    assert from_json(saved.encode())[0].precision == "bf16"
    with pytest.raises(ValueError, match=r"^precision is 'int4', but should be float32 or bf16 or fp16 or null$"):
        from_json(changed("precision", "int4"))


def test_options_of_the_model_that_older_files_lack_have_the_value_they_meant() -> None:
    content = json.loads(TEXT)
    model = content["model"]
    del model["tower_convolution"], model["distribution_max"], model["loss_weights"]["distribution"], content["sha256"]
    read = from_json(json.dumps(content).encode())[0].model
    assert (read.tower_convolution, read.distribution_max, read.loss_weights.distribution) == ("standard", 16, 0.25)
    saved = to_json(
        replace(ABOUT, model=replace(ABOUT.model, tower_convolution="depthwise")), mean=(0,) * 3, std=(1,) * 3
    )
    assert from_json(saved.encode())[0].model.tower_convolution == "depthwise"


def test_version_3_with_any_model_is_one_line() -> None:
    for model in (None, [], "x", {"locations": []}):
        with pytest.raises(ValueError, match=r"^(model|categories).* (missing|should)"):
            from_json(json.dumps({"version": 3, "model": model, "normalisation": 1}).encode())


@pytest.mark.parametrize("content", [b"", b"\0\0\0\0", b"[]", b"null", b"{", b"\xff\xfe", b"[" * 10**5, b"1" * 10**5])
def test_other_content_is_one_line(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"not JSON|version is missing|nested too deeply|Exceeds the limit") as caught:
        from_json(content)
    assert "\n" not in str(caught.value)


def paths(value: Any) -> list[tuple[Any, ...]]:
    """Where the values of a JSON document are."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [(), *((key, *path) for key, item in items for path in paths(item))]


def parse(content: bytes) -> tuple[Description, Normalization] | str:
    """The description, or the message of the error, which has one line."""
    try:
        return from_json(content)
    except ValueError as error:
        message = str(error)
    assert message
    assert "\n" not in message
    return message


UNCHECKED = {key: value for key, value in json.loads(TEXT).items() if key != "sha256"}
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([0, -1, 2**31, 2**63]),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=5,
)


@settings(max_examples=150)
@given(path=st.sampled_from(paths(UNCHECKED)), value=JSON)
def test_any_value_anywhere_is_valid_or_one_line(path: tuple[Any, ...], value: object) -> None:
    content: Any = {"": deepcopy(UNCHECKED)}
    target, *_ = [content]
    *parents, last = ("", *path)
    for part in parents:
        target = target[part]
    target[last] = value
    result = parse(json.dumps(content[""]).encode())
    if not isinstance(result, str):
        description, normalization = result
        assert (
            from_json(to_json(description, mean=normalization.mean, std=normalization.std).encode())[0] == description
        )


@settings(max_examples=100)
@given(position=st.integers(0, len(TEXT.encode()) - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_changes_nothing_or_is_one_line(position: int, bit: int) -> None:
    content = bytearray(TEXT.encode())
    content[position] ^= 1 << bit
    result = parse(bytes(content))
    assert isinstance(result, str) or result == from_json(TEXT.encode())
