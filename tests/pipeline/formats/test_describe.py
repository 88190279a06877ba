from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.formats.dataset_files import list_files
from pipeline.formats.describe import describe_files


def test_kinds_of_files_with_their_content(tmp_path: Path, picture: Callable[..., Path]) -> None:
    for index in range(3):
        picture(tmp_path / f"images/{index}.png")
        (tmp_path / f"{index}.csv").write_text("file,w,h,what\na.jpg,1,2,cat\n")
    for index in range(2):
        (tmp_path / f"{index}.json").write_text('[{"id": 1, "shape": []}]')
    (tmp_path / "README").write_text("text")
    (tmp_path / "train.json").write_text(" \n")
    assert describe_files(tmp_path, list_files(tmp_path)) == (
        "3 images; 3 .csv files with columns file, w, h, what; 2 .json files with a list of objects with keys id, "
        "shape; 1 file without ending; train.json is empty"
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "1,2,3\n", "1 .csv file whose first row is 1, 2, 3"),
        ("a.csv", "a,b,c,d,e,f,g,h,i\n", "1 .csv file with columns a, b, c, d, e, f, g, h, …"),
        ("a.json", '{"a": 1, "b": 2}', "1 .json file with keys a, b"),
        ("a.json", "[1, 2]", "1 .json file with a list"),
        (
            "a.json",
            '{"a": 1,\n"b": }',
            "1 .json file that can't be parsed (a.json: not JSON: Expecting value at line 2",
        ),
        ("a.jsonl", '{"image": "x"}\n{"image": "y"}\n', "1 .jsonl file whose lines have keys image"),
        ("a.manifest", '{"source-ref": "x"}\n', "1 .manifest file whose lines have keys source-ref"),
        ("a.xml", "<boxes><box/><box/><note/></boxes>", "1 .xml file with <boxes> of box, note"),
        ("a.xml", "<boxes", "1 .xml file that can't be parsed (a.xml: "),
        ("a.yaml", "lr: 1\n", "1 .yaml file such as a.yaml, which begins 'lr: 1'"),
        ("a.txt", "0 1 2 3\nmore", "1 .txt file such as a.txt, which begins '0 1 2 3'"),
        ("a.mat", "MATLAB", "1 .mat file"),
    ],
)
def test_content(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    assert describe_files(tmp_path, list_files(tmp_path)).startswith(message)


def test_no_files(tmp_path: Path) -> None:
    assert describe_files(tmp_path, []) == "no files"
