"""`python -m benchmarks.fuzzing FORMAT`: coverage-guided fuzzing of a reader, starting from a valid file.

It needs `pip install atheris` (Linux), which the environment doesn't contain; the tests use hypothesis instead. A
correct result is a PipelineError of one line, or data that is valid in the unified format. Anything else stops the
fuzzer, which saves the bytes to a file. Temporary files are in memory, under /dev/shm.
"""

import argparse
import json
import shutil
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import atheris
import crc32c
import PIL.Image
from tfrecord import example_pb2

with atheris.instrument_imports(include=["pipeline.formats", "pipeline.conversion"]):
    from pipeline import params
    from pipeline.conversion import survey_original_splits
    from pipeline.data import annotations
    from pipeline.errors import PipelineError

_REPOSITORY = Path(__file__).resolve().parents[1]
_VOC = b"""<annotation><filename>a.png</filename><size><width>40</width><height>30</height></size>
<object><name>cat</name><difficult>1</difficult>
<bndbox><xmin>1</xmin><ymin>2.5</ymin><xmax>30</xmax><ymax>20</ymax></bndbox></object></annotation>"""
_CVAT = b"""<annotations><version>1.1</version><image id="0" name="a.png" width="40" height="30">
<box label="cat" xtl="1" ytl="2.5" xbr="30" ybr="20" occluded="0"></box>
<polygon label="cat" points="1,2;5,6;3,9" occluded="0"/></image></annotations>"""
_KITTI = b"""Car 0.00 0 1.5 1 2 30 20 1 1 1 1 1 1 0.1
DontCare -1 -1 -10 5 6 9 9 -1 -1 -1 -1 -1 -1 -1
"""
_OPEN_IMAGES = b"""ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf
a,/m/01,0.25,0.5,0,1,0
b,/m/01,"0,25",0.5,0,1,1
"""
_PENNFUDAN = b"""# Compatible with PASCAL Annotation Version 1.00
Image filename : "a.png"
Image size (X x Y x C) : 40 x 30 x 3
Objects with ground truth : 1 { "PASperson" }
Bounding box for object 1 "PASperson" (Xmin, Ymin) - (Xmax, Ymax) : (1, 2) - (30, 20)
"""
_COCO: dict[str, object] = {
    "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 30}, {"id": "2", "file_name": "b.png"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 7, "bbox": [1, 2.5, 30, 20], "area": 9, "iscrowd": 0},
        {"id": 2, "image_id": "2", "category_id": "7", "bbox": [0, 0, 2, 2], "segmentation": {"counts": "a"}},
    ],
    "categories": [{"id": 7, "name": "cat"}],
}
_LABELME: dict[str, object] = {
    "shapes": [{"label": "cat", "points": [[1, 2], [30, 20]], "shape_type": "rectangle", "flags": {"difficult": True}}],
    "imagePath": "a.png",
    "imageData": None,
    "imageHeight": 30,
    "imageWidth": 40,
}

_LABELME_XML = b"""<annotation><filename>a.png</filename><folder></folder>
<imagesize><nrows>30</nrows><ncols>40</ncols></imagesize>
<object><name>cat</name><deleted>0</deleted><polygon><pt><x>1</x><y>2</y></pt><pt><x>30</x><y>2</y></pt><pt><x>9</x><y>20</y>
</pt></polygon></object><object><name>dog</name><segm><box><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>8</ymax></box></segm>
</object></annotation>"""


def _record() -> bytes:
    """A record of TensorFlow's Object Detection API."""
    example = example_pb2.Example()
    feature = example.features.feature
    feature["image/filename"].bytes_list.value.append(b"a.png")
    feature["image/object/class/text"].bytes_list.value.append(b"cat")
    for side, share in (("xmin", 0.1), ("ymin", 0.2), ("xmax", 0.5), ("ymax", 0.9)):
        feature[f"image/object/bbox/{side}"].float_list.value.append(share)
    return bytes(example.SerializeToString())


def _add_framing(content: bytes) -> bytes:
    """Adds valid lengths and checksums, so that the fuzzer reaches the code behind their checks."""
    length = struct.pack("<Q", len(content))
    return b"".join((length, _masked_crc(length), content, _masked_crc(content)))


def _masked_crc(content: bytes) -> bytes:
    crc = crc32c.crc32c(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _as_is(content: bytes) -> bytes:
    return content


# By format: the fuzzed file, its initial content, a function applied to the content before writing, the other files.
TARGETS: dict[str, tuple[str, bytes, Callable[[bytes], bytes], dict[str, str]]] = {
    "coco": ("train.json", json.dumps(_COCO).encode(), _as_is, {}),
    "voc": ("Annotations/a.xml", _VOC, _as_is, {"ImageSets/Main/train.txt": "a\n"}),
    "yolo": ("a.txt", b"0 0.5 0.5 0.2 0.3\n1 0.1 0.1 0.9 0.1 0.5 0.8\n", _as_is, {"classes.txt": "cat\ndog\n"}),
    "yolo-manifest": ("data.yaml", b"train: .\nval: .\nnames: [cat, dog]\n", _as_is, {"a.txt": "0 .5 .5 .2 .3\n"}),
    "kitti": ("label_2/a.txt", _KITTI, _as_is, {}),
    "pennfudan": ("Annotation/a.txt", _PENNFUDAN, _as_is, {}),
    "cvat": ("annotations.xml", _CVAT, _as_is, {}),
    "labelme_xml": ("Annotations/a.xml", _LABELME_XML, _as_is, {}),
    "labelme": ("a.json", json.dumps(_LABELME).encode(), _as_is, {}),
    "tfrecord": ("train.tfrecord", _record(), _add_framing, {}),
    "retinanet": ("train.csv", b"a.png,1,2,30,20,cat\nb.png,,,,,\n", _as_is, {"classes.csv": "cat,0\ndog,1\n"}),
    "openimages": (
        "train-annotations-bbox.csv",
        _OPEN_IMAGES,
        _as_is,
        {"class-descriptions.csv": "/m/01,Cat\n"},
    ),
}


def _write_data_set(folder: Path, target: str) -> Path:
    """Writes a small data set and returns the path of the fuzzed file."""
    name, initial, transform, others = TARGETS[target]
    files = {**{path: text.encode() for path, text in others.items()}, name: transform(initial)}
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    for gray, image in enumerate(("a.png", "b.png")):
        PIL.Image.new("L", (40, 30), 100 * gray).save(folder / image)
    return folder / name


def _check_reader(folder: Path, format: str, options: params.ConvertParams) -> str:
    """Reads the data set and returns the kind of result.

    Raises:
        Exception: the result is neither a PipelineError of one line nor valid data.
    """
    try:
        splits = survey_original_splits(folder, options, format).splits.values()
    except PipelineError as error:
        line = str(error)
        assert len(line.splitlines()) == 1, line
        line.encode()
        return "one-line error"
    nonempty = [split for split in splits if split.annotations]  # `convert` reports the others as errors
    for problem in (problem for split in nonempty for problem in annotations.problems(split)):
        raise AssertionError(problem)
    return "valid data" if nonempty else "no annotations"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzzing", description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fuzzing-", dir="/dev/shm"))
    format, (_, initial, transform, _) = options.target.split("-")[0], TARGETS[options.target]
    fuzzed_file = _write_data_set(folder / "raw", options.target)
    (folder / "corpus").mkdir()
    (folder / "corpus/initial").write_bytes(initial)
    stop_params = replace(params.load(_REPOSITORY / "params.yaml").convert, image_check="header")
    convert_params = (stop_params, replace(stop_params, issues="repair"))
    results: Counter[str] = Counter()
    start = time.monotonic()

    def test_input(content: bytes) -> None:
        fuzzed_file.write_bytes(transform(content))
        results[_check_reader(folder / "raw", format, convert_params[len(content) % 2])] += 1
        count = sum(results.values())
        if count == options.inputs:
            seconds = round(time.monotonic() - start)
            summary = {"target": options.target, "inputs": count, **results, "seconds": seconds}
            print(json.dumps(summary), flush=True)  # libFuzzer ends the process

    flags = [f"-runs={options.inputs}", f"-seed={options.seed}", "-max_len=4096", "-verbosity=0", "-timeout=20"]
    atheris.Setup([sys.argv[0], *flags, f"-artifact_prefix={options.target}-", str(folder / "corpus")], test_input)
    try:
        atheris.Fuzz()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
