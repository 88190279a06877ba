"""`fcos evaluate` with ground truth and detections of many forms."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image as Picture

from pipeline.cli import main
from pipeline.evaluation import resampling
from tests.support.projects import readme

NAMES = ("cat", "dog", "traffic light")
SIZE = (100, 50)  # width, height
# Image, class, box: both objects of image b are found, that of image a is not, and c has none.
OBJECTS = (("a", "cat", (10, 10, 20, 20)), ("b", "dog", (0, 0, 40, 40)), ("b", "traffic light", (60, 10, 20, 30)))
FOUND = (
    ("b", "dog", (0, 0, 40, 40), 0.9),
    ("b", "traffic light", (60, 10, 20, 30), 0.8),
    ("c", "cat", (5, 5, 9, 9), 0.3),
)


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals are tested elsewhere, and take most of the time."""
    monkeypatch.setattr(resampling, "resample", partial(resampling.resample, draws=3))


def evaluate(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


def report(*arguments: str | Path) -> dict[str, Any]:
    run = evaluate(*arguments, "--json")
    assert (run.exit_code, run.stderr) == (0, ""), run.stderr
    content = json.loads(run.stdout)
    assert isinstance(content, dict)
    return content


def check(content: dict[str, Any]) -> None:
    assert content["coco"]["AP"] == content["voc"]["mAP50_area"] == pytest.approx(2 / 3, abs=1e-6)
    assert {name: values["AP"] for name, values in content["per_class"].items()} == {
        "cat": 0.0,
        "dog": 1.0,
        "traffic light": 1.0,
    }
    assert (content["images"], content["objects"], content["detections"]) == (3, 3, 3)


def write_json(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def coco_truth(folder: Path, image_id: Any = "image {}".format, category_id: Any = "class {}".format) -> Path:
    """COCO JSON without info, area, iscrowd and ids of annotations."""
    images = [
        {"id": image_id(name), "file_name": f"pictures/{name}.jpg", "width": SIZE[0], "height": SIZE[1]}
        for name in "abc"
    ]
    boxes = [{"image_id": image_id(i), "category_id": category_id(n), "bbox": list(box)} for i, n, box in OBJECTS]
    categories = [{"id": category_id(name), "name": name} for name in NAMES]
    return write_json(folder / "gt.json", {"images": images, "annotations": boxes, "categories": categories})


def coco_results(folder: Path, image_id: Any, category_id: Any) -> Path:
    records = [
        {"image_id": image_id(i), "category_id": category_id(n), "bbox": list(box), "score": s}
        for i, n, box, s in FOUND
    ]
    return write_json(folder / "dets.json", records)


def number(name: str) -> int:
    return ("a", "b", "c", *NAMES).index(name) + 1


@pytest.mark.parametrize(
    ("truth_ids", "image_id", "category_id"),
    [
        (("{}".format, "{}".format), "{}".format, "{}".format),
        (("x{}".format, number), "x{}".format, number),
        ((number, number), number, number),
        ((number, number), lambda name: str(number(name)), number),
        ((number, number), "{}.jpg".format, "{}".format),  # by names
        (("x{}".format, "y{}".format), "elsewhere/pictures/{}.jpg".format, "y{}".format),
    ],
)
def test_coco_with_any_ids(tmp_path: Path, truth_ids: Any, image_id: Any, category_id: Any) -> None:
    content = report("--gt", coco_truth(tmp_path, *truth_ids), "--dets", coco_results(tmp_path, image_id, category_id))
    check(content)
    assert content["protocol"]["ground_truth"].endswith(
        "): 3 images, 3 objects, 0 ignored (crowds, difficult), 3 classes"
    )
    assert content["protocol"]["coco"].startswith("COCO by pycocotools 2.")
    assert content["operating_points"]["classes"]["dog"]["score"] == 0.9


def test_output_of_predict_and_a_data_set_with_scores(tmp_path: Path) -> None:
    gt = coco_truth(tmp_path, number, number)
    predicted = [
        {
            "file": f"some/where/{image}.jpg",
            "width": SIZE[0],
            "height": SIZE[1],
            "detections": [
                {"category_id": 99, "category": name, "score": score, "bbox": list(box)}
                for found, name, box, score in FOUND
                if found == image
            ],
        }
        for image in "abc"
    ]
    check(report("--gt", gt, "--dets", write_json(tmp_path / "detections.json", predicted)))
    truth = json.loads(gt.read_text())
    renumbered = {item["id"]: item["id"] + 50 for item in truth["images"]}
    images = [
        item | {"id": renumbered[item["id"]], "file_name": Path(item["file_name"]).name} for item in truth["images"]
    ]
    boxes = json.loads(coco_results(tmp_path, lambda name: number(name) + 50, number).read_text())
    check(
        report("--gt", gt, "--dets", write_json(tmp_path / "d.json", truth | {"images": images, "annotations": boxes}))
    )


def yolo_line(name: str, box: tuple[int, ...]) -> str:
    x, y, width, height = box
    return f"{NAMES.index(name)} {(x + width / 2) / 100} {(y + height / 2) / 50} {width / 100} {height / 50}"


def yolo(folder: Path) -> tuple[Path, Path]:
    """A YOLO data set with images, and a folder with detections; image a has none."""
    for kind in ("images", "labels"):
        (folder / "data" / kind / "val").mkdir(parents=True)
    (folder / "data/data.yaml").write_text(f"val: images/val\nnames: {list(NAMES)}\n")
    (folder / "dets").mkdir()
    for image in "abc":
        Picture.new("RGB", SIZE).save(folder / f"data/images/val/{image}.jpg")
        lines = [yolo_line(name, box) for item, name, box in OBJECTS if item == image]
        (folder / f"data/labels/val/{image}.txt").write_text("\n".join(lines))
        found = [f"{yolo_line(name, box)} {score}\n" for item, name, box, score in FOUND if item == image]
        if found:
            (folder / f"dets/{image}.txt").write_text("".join(found))
    return folder / "data", folder / "dets"


def test_yolo_folders(tmp_path: Path) -> None:
    gt, dets = yolo(tmp_path)
    content = report("--gt", gt, "--dets", dets)
    check(content)
    assert content["by_size"]["16-32"]["objects"] == 2
    assert "(yolo, split val)" in content["protocol"]["ground_truth"]
    assert "(YOLO results (class, box, score), 2 files)" in content["protocol"]["detections"]
    check(report("--gt", coco_truth(tmp_path, number, number), "--dets", dets))


def test_yolo_results_with_the_score_second_or_with_names(tmp_path: Path) -> None:
    _, dets = yolo(tmp_path)
    (dets / "classes.txt").write_text("traffic light\ncat\ndog\n")
    numbers = {0: "1", 1: "2", 2: "0"}
    for file in dets.glob("?.txt"):
        columns = [line.split() for line in file.read_text().splitlines()]
        swapped = [[numbers[int(first)], score, *box] for first, *box, score in columns]
        file.write_text("\n".join(map(" ".join, swapped)))
    content = report("--gt", coco_truth(tmp_path, number, number), "--dets", dets)
    check(content)
    assert "(YOLO results (class, score, box), 2 files)" in content["protocol"]["detections"]


def voc(folder: Path) -> tuple[Path, Path]:
    """VOC's annotations without images, and its results, one file for each class, with pixels counted from 1."""
    (folder / "Annotations").mkdir()
    for image in "abc":
        objects = "".join(
            f"<object><name>{name}</name><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + w}</xmax>"
            f"<ymax>{y + h}</ymax></bndbox></object>"
            for item, name, (x, y, w, h) in OBJECTS
            if item == image
        )
        (folder / f"Annotations/{image}.xml").write_text(
            f"<annotation><filename>{image}.jpg</filename><size><width>{SIZE[0]}</width><height>{SIZE[1]}</height></size>"
            f"{objects}</annotation>"
        )
    (folder / "results").mkdir()
    for class_name in NAMES:
        lines = [
            f"{item} {score} {x + 1} {y + 1} {x + w} {y + h}\n"
            for item, name, (x, y, w, h), score in FOUND
            if name == class_name
        ]
        (folder / f"results/comp4_det_test_{class_name}.txt").write_text("".join(lines))
    return folder / "Annotations", folder / "results"


def test_voc_folders(tmp_path: Path) -> None:
    gt, dets = voc(tmp_path)
    content = report("--gt", gt, "--dets", dets)
    check(content)
    assert "(VOC results, 3 files)" in content["protocol"]["detections"]
    (tmp_path / "yolo").mkdir()
    check(report("--gt", gt, "--dets", yolo(tmp_path / "yolo")[1]))


def test_the_protocol_is_printed(tmp_path: Path) -> None:
    gt, dets = voc(tmp_path)
    for metric, expected in {"coco": "COCO by pycocotools", "voc": "VOC's development kit: IoU 0.50"}.items():
        lines = evaluate("--gt", gt, "--dets", dets, "--metric", metric).stdout.splitlines()
        assert (
            lines[-3]
            == f" Ground truth: {gt} (voc, split all): 3 images, 3 objects, 0 ignored (crowds, difficult), 3 classes"
        )
        assert lines[-2] == f" Detections: {dets} (VOC results, 3 files): 3"
        assert lines[-1].startswith(f" Protocol: {expected}")


def test_options_that_describe_the_detector(tmp_path: Path) -> None:
    arguments = ("--gt", coco_truth(tmp_path, number, number), "--dets", coco_results(tmp_path, number, number))
    content = report(*arguments, "--input-size", "200", "400", "--max-detections", "101")
    sizes = {name: values["objects"] for name, values in content["by_size"].items() if values["objects"]}
    assert sizes == {"64-128": 2, "128-256": 1}  # four times 20, √(20 · 30) and 40 pixels
    assert content["coco_raised_limit"]["max_detections"] == 101


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("dets/b.txt", "0 0.5 0.5 0.1 0.1", "b.txt: line 1: 5 columns instead of class, x"),
        ("dets/b.txt", "7 0.5 0.5 0.1 0.1 1", "b.txt: line 1: class 7 is not one of 3, counted from 0"),
        ("dets/b.txt", "\n0 50 5 9 9 1", "b.txt: line 2: coordinates must be fractions"),
        ("dets/b.txt", "0 .5 .5 nan .1 1", "b.txt: line 1: a number isn't finite"),
        ("dets/z.txt", "0 .5 .5 .1 .1 1", "z.txt: no image of the ground truth"),
        ("dets/classes.txt", "cow\ncat\n", "b.txt: line 1: class cow is not in the ground truth"),
        ("dets", None, "dets: no .txt file with detections"),
        ("data/images/val/b.jpg", None, "image b not found; --images names another folder"),
        ("data/labels/val/a.txt", "0 .5 .5 0 .1", "-S convert.issues=repair"),
        ("data/images/test/d.jpg", (9, 9), "several splits; choose one with --split: val, test"),
    ],
)
def test_errors_are_one_line(tmp_path: Path, file: str, content: Any, message: str) -> None:
    gt, dets = yolo(tmp_path)
    path = tmp_path / file
    if content is None:
        for item in [path] if path.is_file() else path.iterdir():
            item.unlink()
    elif isinstance(content, str):
        path.write_text(content)
        if "cow" in content:
            (dets / "b.txt").write_text("0 .5 .5 .1 .1 1")
    else:
        path.parent.mkdir()
        Picture.new("RGB", content).save(path)
        (gt / "data.yaml").write_text(f"val: images/val\ntest: images/test\nnames: {list(NAMES)}\n")
    run = evaluate("--gt", gt, "--dets", dets)
    assert (run.exit_code, run.stdout, run.stderr.count("\n")) == (1, "", 1), run.stderr
    assert run.stderr.startswith("fcos: ")
    assert message in run.stderr


def test_an_unknown_string_id_is_named(tmp_path: Path) -> None:
    run = evaluate("--gt", coco_truth(tmp_path), "--dets", coco_results(tmp_path, "other {}".format, "class {}".format))
    assert run.stderr == f"fcos: {tmp_path}/dets.json: record 0: image 'other b' is not in the ground truth\n"
    run = evaluate("--gt", tmp_path / "gt.json")
    assert (run.exit_code, "give both --gt and --dets, or neither" in run.stderr) == (2, True)


def test_the_commands_of_docs_on_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gt, _ = voc(tmp_path)
    lists = tmp_path / "voc/ImageSets/Main"
    lists.mkdir(parents=True)
    gt.rename(tmp_path / "voc/Annotations")
    (lists / "train.txt").write_text("a\n")
    (lists / "val.txt").write_text("b\nc\n")
    coco_truth(tmp_path, number, number).rename(tmp_path / "truth.json")
    coco_results(tmp_path, number, number).rename(tmp_path / "detections.json")
    monkeypatch.chdir(tmp_path)
    of_coco, of_voc, as_json = (command[1:] for command in readme("Other files", "docs/evaluation.md"))
    assert " = 0.667\n" in CliRunner().invoke(main, of_coco).stdout
    assert "(voc, split val): 2 images, 2 objects," in CliRunner().invoke(main, of_voc).stdout
    assert json.loads(CliRunner().invoke(main, as_json).stdout)["coco_raised_limit"]["AP"] == 0.666667


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--weights a.onnx -S seed=1", "--set-param is only for --gt and --dets"),
        ("--weights a.onnx --input-size 800 1333", "--input-size is only for --gt and --dets"),
        ("--weights a.onnx --images .", "--images is only for --gt and --dets"),
        ("--weights a.onnx --format voc", "--format is only for --gt and --dets"),
        ("box-2 --max-detections 9", "--max-detections is only for --gt and --dets or --weights"),
        ("--max-detections 9", "--max-detections is only for --gt and --dets or --weights"),
        ("box-2 --device cpu", "--device is only for --weights"),
        ("--gt a.json", "give both --gt and --dets, or neither"),
        ("box-2 --gt a.json --dets b.json", "give an experiment, or --gt and --dets"),
        ("--weights a.onnx box-2", "give --weights, or an experiment, or --gt and --dets"),
    ],
)
def test_an_option_that_does_not_apply_is_no_silence(arguments: str, message: str) -> None:
    result = evaluate(*arguments.split())
    assert result.exit_code == 2
    assert result.stderr.endswith(f"Error: {message}\n")
