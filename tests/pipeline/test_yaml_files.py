"""YAML files of any content end in a value or in one line, within seconds and in little memory."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from pipeline import params
from pipeline.errors import PipelineError
from pipeline.recipes import DEFAULTS
from pipeline.yaml_files import check_structure, parse_yaml, read_yaml, to_json

FILE = Path("params.yaml")
LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 40))
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 40))
DEFAULT_TEXT = DEFAULTS.read_text()
VALUES = [match.span(1) for match in re.finditer(r"^ *\w+: ([^#\n]+)", DEFAULT_TEXT, re.MULTILINE)]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: &x\n  b: *x\n", "*x at line 2 refers to a value that contains it"),
        ("- &x [1, [*x]]", "*x at line 1 refers to a value that contains it"),
        (LAUGHS, "over 100,000 values at line 6, with those that aliases repeat"),
        (MERGES, "over 100,000 values at line 15, with those that aliases repeat"),
        ("[" * 1000, "nested over 50 levels deep at line 1"),
        ("".join(f"{' ' * depth}a:\n" for depth in range(100)), "nested over 50 levels deep at line 51"),
        ("#" * 200_000, "the file has over 131,072 characters"),
        ("a: *nowhere", "found undefined alias 'nowhere' at line 1"),
        ("a: \0", "unacceptable character #x0000: special characters are not allowed"),
        ("a: 2001-13-01", "month must be in 1..12"),
        ("a: !!float x", "could not convert string to float: 'x'"),
        ("a: !!bool x", "'x'"),
        ("a: 1\n---\nb: 2", "but found another document at line 2"),
    ],
)
def test_what_is_refused(text: str, problem: str) -> None:
    with pytest.raises(PipelineError) as caught:
        parse_yaml(text, FILE)
    assert str(caught.value) == f"params.yaml: not YAML: {problem}"


def test_each_caller_has_values_of_its_own() -> None:
    first = parse_yaml("a: {b: [1]}", FILE)
    first["a"]["b"].append(2)
    assert parse_yaml("a: {b: [1]}", FILE) == {"a": {"b": [1]}}


def test_a_long_message_is_cut() -> None:
    with pytest.raises(PipelineError) as caught:
        parse_yaml(f"a: !!{'x' * 10_000} b", FILE)
    assert len(str(caught.value)) < 300


def test_aliases_are_read() -> None:
    """Those of a few values are of use."""
    text = "a: &a {lr: 1e-05, off: off}\nb: *a\nc: {<<: *a, lr: 2}\nd: [&s x, *s]\n"
    base = {"lr": 1e-05, "off": "off"}
    assert parse_yaml(text, FILE) == {"a": base, "b": base, "c": base | {"lr": 2}, "d": ["x", "x"]}


@pytest.mark.parametrize("content", [b"a: caf\xe9", b"a: 1\nb: \xff\xfe", "ä: 1".encode("utf-16-le")])
def test_a_file_that_is_not_utf8(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    line = content.count(b"\n") + 1
    with pytest.raises(PipelineError, match=rf"params\.yaml: not UTF-8 text at line {line}; save it as UTF-8$"):
        read_yaml(path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(DEFAULT_TEXT, encoding=encoding)
    assert params.load(path) == params.load(DEFAULTS)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"nowhere: no such file$"):
        read_yaml(tmp_path / "nowhere")
    with pytest.raises(PipelineError, match=r"can't be read: Is a directory$"):
        read_yaml(tmp_path)


@pytest.mark.parametrize("values", [{(1, 2): 3}, {"a": float("inf")}, {"a": float("nan")}, {"a": "\ud800"}])
def test_what_json_cannot_represent(values: object) -> None:
    with pytest.raises(PipelineError) as caught:
        to_json(values, "params.yaml")
    assert str(caught.value) == "params.yaml: keys should be words, and values words, finite numbers or lists"


@given(st.recursive(st.sampled_from(["x", "*a", "*b"]), lambda inner: st.lists(inner, max_size=4), max_leaves=30))
def test_the_size_is_that_of_the_expanded_values(tree: object) -> None:
    def text(node: object) -> str:
        return node if isinstance(node, str) else f"[{', '.join(map(text, node))}]"  # type: ignore[call-overload]

    def size(node: object) -> int:
        return {"x": 1, "*a": 3, "*b": 8}[node] if isinstance(node, str) else 1 + sum(map(size, node))  # type: ignore[call-overload]

    whole = f"[&a [x, x], &b [x, *a, *a], {text(tree)}]"
    expected = 1 + 3 + 8 + size(tree)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.yaml_files._MAX_VALUES", expected)
        check_structure(whole)
        patch.setattr("pipeline.yaml_files._MAX_VALUES", expected - 1)
        with pytest.raises(ValueError, match="with those that aliases repeat"):
            check_structure(whole)
    assert YAML(typ="safe").load(whole)[1][1] == ["x", "x"]


def parameters_or_one_line(text: str) -> None:
    message = "params.yaml: "
    try:
        params.parse(text, FILE)
    except PipelineError as error:
        message = str(error)
    assert message.startswith("params.yaml: ")
    assert "\n" not in message
    assert len(message) < 1000


@given(st.text(st.sampled_from("a:-&*!|>'\"[]{},#%@`?~.019<= \n\t\ud800é") | st.characters(), max_size=60))
def test_any_text(text: str) -> None:
    parameters_or_one_line(text)


YAML_VALUES = st.sampled_from(
    [
        "null",
        "~",
        "{}",
        "[]",
        "[1, 2]",
        "{a: 1}",
        "0",
        "-1",
        "1e400",
        "-.inf",
        ".nan",
        "1e-5",
        "1_000",
        "0x10",
        "yes",
        "off",
        "''",
        '"\\ud800"',
        "2001-01-01",
        "!!binary aGk=",
        "!!set {a}",
        "!!python/name:os.system",
        "*a",
        "&a",
        "&a [*a]",
        "{<<: *a}",
        "{<<: 3}",
        "!!timestamp x",
        ">",
    ]
)


@settings(max_examples=30)  # reading the whole file takes a tenth of a second
@given(st.sampled_from(VALUES), YAML_VALUES | st.text(max_size=20))
def test_any_value_of_any_parameter(span: tuple[int, int], value: str) -> None:
    parameters_or_one_line(DEFAULT_TEXT[: span[0]] + value + DEFAULT_TEXT[span[1] :])
