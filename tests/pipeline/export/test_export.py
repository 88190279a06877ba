"""`fcos export`: the files have the detector's detections, and everything that is needed to use them."""

import copy
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fcos
from fcos.config import InputSize
from fcos.inference import detect, load_fused
from fcos.postprocess import Detections, Postprocess
from fcos.weights import load_detector
from pipeline.data import annotations
from pipeline.digests import dvc_hash
from pipeline.export import parity
from pipeline.files import digest
from tests.support.paths import PROJECT
from tests.support.projects import read, readme, run

Export = Callable[..., str]


@pytest.fixture(scope="module")
def traced() -> Iterator[None]:
    """Lets torch's exporter trace each detector once in this module; that takes it seconds."""
    import onnx_ir as ir

    from pipeline.export import network

    known: dict[int, Any] = {}
    trace = network.to_onnx

    def to_onnx(detector: Any) -> Any:
        key = sum(parameter.numel() for parameter in detector.parameters())
        if key not in known:
            known[key] = ir.to_proto(trace(detector))
        return ir.from_proto(copy.deepcopy(known[key]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "to_onnx", to_onnx)
        yield


@pytest.fixture(scope="module")
def export(project: Path, traced: None) -> Export:  # noqa: ARG001 - changes what it calls
    return lambda *options, **keywords: run(project, "fcos", "export", *options, **keywords)


@pytest.fixture(scope="module")
def model(project: Path, export: Export) -> Path:
    """The project's detector as an ONNX file."""
    output = export()
    assert output.splitlines()[-1].endswith("exported/detector.onnx: a detector of 10 classes")
    assert "compared with" in output
    return project / "exported/detector.onnx"


def session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options)


@pytest.mark.usefixtures("model")
def test_average_precision_is_that_of_the_detector(project: Path) -> None:
    scores = {}
    for file in ("models/detector.safetensors", "exported/detector.onnx"):
        found = json.loads(run(project, "fcos", "evaluate", "--weights", file, "--json"))
        scores[file] = found["coco"]["AP"]
        assert found["protocol"]["detections"].startswith(f"{file}: ")
    assert scores["models/detector.safetensors"] == read(project, "metrics/evaluate.json")["coco"]["AP"]
    assert scores["exported/detector.onnx"] == pytest.approx(scores["models/detector.safetensors"], abs=5e-4)


def test_all_detections_in_the_validation_split_match(project: Path, model: Path) -> None:
    from pipeline.data.images import read_image
    from pipeline.inference.saved_detector import SavedDetector

    split = annotations.read(project / "data/unified/val.json")
    images = [read_image(project / "data/raw/digits" / image.file_name) for image in split.images]
    detector = SavedDetector.load(project / "models/detector.safetensors", torch.device("cpu"))
    found = parity.compare_file(model, detector, images, Postprocess(score_threshold=0.01))
    assert (found.images, found.unmatched, found.holds) == (8, 0, True)
    assert found.detections > 100
    assert found.score_difference <= 1e-4
    assert found.iou >= 0.999


def test_the_file_alone_takes_batches_of_any_size(project: Path, model: Path) -> None:
    detector, _ = load_fused(project / "models/detector.safetensors")
    postprocess = Postprocess(score_threshold=0.02, max_detections=7)
    settings = {"score_threshold": np.array([0.02], np.float32), "max_detections": np.array([7])}
    runtime = session(model)
    # At the larger size, no level consists of a single location.
    for shape, size in (((3, 60, 200, 3), (128, 128)), ((1, 300, 90, 3), (128, 128)), ((2, 200, 260, 3), (300, 420))):
        images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        boxes, scores, labels, counts = runtime.run(None, {"images": images, "size": np.array(size)} | settings)
        assert (boxes.shape, scores.shape, labels.dtype, counts.shape) == (
            (shape[0], 7, 4), (shape[0], 7), np.int64, shape[:1],
        )  # fmt: skip
        tensors = [torch.from_numpy(image).permute(2, 0, 1) for image in images]
        for index, expected in enumerate(detect(detector, tensors, InputSize(size), postprocess)):
            found = Detections(
                *(torch.from_numpy(values[index, : counts[index]]) for values in (boxes, scores, labels))
            )
            assert len(found) == len(expected) == 7
            pairs, ious = parity.match(expected, found)
            assert (len(pairs), min(ious) > 0.999) == (7, True)


def test_metadata(project: Path, model: Path) -> None:
    props = session(model).get_modelmeta().custom_metadata_map
    assert json.loads(props["classes"]) == [str(digit) for digit in range(10)]
    assert json.loads(props["category_ids"]) == [
        category["id"] for category in read(project, "data/unified/val.json")["categories"]
    ]
    assert json.loads(props["input_size"]) == [128, 128]
    assert json.loads(props["operating_point"]) == read(project, "predictions/operating_point.json")
    assert json.loads(props["postprocess"])["score_threshold"] == 0.05
    assert json.loads(props["description"]) == read(project, "models/detector.json")
    assert props["weights_sha256"] == digest(project / "models/detector.safetensors")
    assert (props["dataset"], props["data_digest"]) == ("digits", dvc_hash(project / "data/unified"))
    assert props["model_card"] == (project / "reports/model_card.md").read_text()
    assert (props["outputs"], props["precision"]) == ("detections", "float32")
    assert str(project).encode() not in model.read_bytes()


def test_predictions_are_those_of_the_weights(project: Path, model: Path, tmp_path: Path) -> None:
    """The file is enough: it lies alone in a folder, and has the thresholds of its operating point."""
    alone = Path(shutil.copy(model, tmp_path))
    image = str(next((project / "data/raw/digits/images/val").iterdir()))
    weights = project / "models/detector.safetensors"
    predictors = [fcos.load(path) for path in (weights, alone)]
    assert predictors[0].thresholds == predictors[1].thresholds
    for options in ((), ("--score", "0.05", "--tiles", "70", "0.2", "--flip", "--size", "96", "128")):
        records = [
            json.loads(
                run(
                    tmp_path, "fcos", "predict", image, "--json", "--plain", *options, "--weights", str(path)
                ).splitlines()[0]
            )
            for path in (weights, alone)
        ]
        assert records[0]["detections"] or not options
        assert len(records[0]["detections"]) == len(records[1]["detections"])
        for first, second in zip(*(record["detections"] for record in records), strict=True):
            assert first["category"] == second["category"]
            assert first["score"] == pytest.approx(second["score"], abs=2e-4)
            assert first["bbox"] == pytest.approx(second["bbox"], abs=0.02)
    results = [predictor.predict(image, score=0.05) for predictor in predictors]
    assert len(results[0]) == len(results[1]) > 0
    torch.testing.assert_close(results[1].boxes, results[0].boxes, atol=1e-3, rtol=0)


def test_raw_outputs_are_those_of_the_network(project: Path, export: Export, tmp_path: Path) -> None:
    path = tmp_path / "raw.onnx"
    assert export("--raw", "--out", str(path)).splitlines()[-1] == f"{path}: the network of a detector of 10 classes"
    detector, description = load_fused(project / "models/detector.safetensors")
    image = np.random.default_rng(0).integers(0, 256, (1, 128, 100, 3), dtype=np.uint8)
    runtime = session(path)
    names = [output.name for output in runtime.get_outputs()]
    found = dict(zip(names, runtime.run(None, {"images": image}), strict=True))
    with torch.inference_mode():
        expected = detector(detector.prepare([torch.from_numpy(image[0]).permute(2, 0, 1)]))
    assert names == ["logits", "ltrb", "quality", "locations", "resized"]
    for name in ("logits", "ltrb", "quality"):
        np.testing.assert_allclose(found[name], getattr(expected, name), atol=1e-3, rtol=1e-4)
    assert np.array_equal(found["locations"], expected.locations.xy)
    assert found["resized"].tolist() == [128, 100]
    assert description.input_size == InputSize((128, 128))


def test_soft_suppression_needs_raw_outputs(project: Path, export: Export, tmp_path: Path) -> None:
    parameters = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(parameters.replace("  nms: hard", "  nms: soft_linear"))
    try:
        message = export("--out", str(tmp_path / "soft.onnx"), check=False)
        assert message == (
            "fcos: postprocess.nms soft_linear: ONNX has no operator for it; add -S postprocess.nms=hard, or --raw to "
            "export the network's outputs, which `fcos predict` post-processes itself\n"
        )
        options = "-S", "postprocess.nms=hard", "--out", str(tmp_path / "hard.onnx")
        assert ": 2 images, " in export(*options, "--check-images", "2")
        assert fcos.load(tmp_path / "hard.onnx").postprocess.nms == "hard"
        assert "0 without counterpart" in export("--raw", "--out", str(tmp_path / "soft.onnx"))
        assert fcos.load(tmp_path / "soft.onnx").postprocess.nms == "soft_linear"
    finally:
        (project / "params.yaml").write_text(parameters)


def test_no_file_is_written_into_the_result_of_a_stage(export: Export) -> None:
    message = export("--out", "models/detector.onnx", check=False)
    assert message == (
        "fcos: models/detector.onnx: DVC empties the folder models when a detector is trained; choose another one\n"
    )


def test_only_files_with_the_suffix_of_the_format_are_written(project: Path, export: Export, tmp_path: Path) -> None:
    for name in ("detector.safetensors", "detector.json"):
        path = Path(shutil.copy(project / "models" / name, tmp_path))
        before = path.read_bytes()
        message = export("--weights", str(tmp_path / "detector.safetensors"), "--out", str(path), check=False)
        assert message == f"fcos: {path}: its name doesn't end with .onnx; choose another --out\n"
        assert path.read_bytes() == before
    message = export("--format", "torch", "--out", "a.onnx", check=False)
    assert message == "fcos: a.onnx: its name doesn't end with .pt2; choose another --out\n"


def test_detections_of_all_scores_are_compared(
    project: Path, export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.data.images import read_image
    from pipeline.export import images

    options = "--raw", "--score", "1", "--out", str(tmp_path / "strict.onnx")
    detector, description = load_fused(project / "models/detector.safetensors")
    pixels = [read_image(path) for path in sorted((project / "data/raw/digits/images/val").iterdir())]
    everything = detect(detector, pixels, description.input_size, Postprocess(score_threshold=0))
    line = export(*options).splitlines()[-2]
    assert f": 8 images, {sum(map(len, everything))} detections: " in line
    # Down to a score of 0, AP is that of evaluation and a little more.
    ap = [float(number) for number in re.findall(r"0\.\d{4}", line.rpartition(", AP ")[2])]
    assert ap[0] == pytest.approx(ap[1], abs=5e-4)
    assert ap[1] == pytest.approx(read(project, "metrics/evaluate.json")["coco"]["AP"], abs=0.02)
    (tmp_path / "strict.onnx").unlink()
    monkeypatch.setattr(images, "for_comparison", lambda *_: images.Compared(0, [], None))
    assert export(*options, check=False).startswith("fcos: the detector finds nothing at any score, so that the")
    assert list(tmp_path.iterdir()) == []


def test_a_long_comparison_has_a_hint(export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.export import detector_files, images

    monkeypatch.setattr(images, "for_comparison", lambda *_: images.Compared(5000, [], None))
    monkeypatch.setattr(detector_files, "write_onnx", lambda *_: None)
    command = "--out", str(tmp_path / "a.onnx")
    assert export(*command).splitlines()[0] == "comparing in 5,000 images; --check-images 100 takes less time"
    assert len(export(*command, "--check-images", "200").splitlines()) == 1


def test_parameters_of_other_sections_do_not_apply(export: Export) -> None:
    message = export("-S", "postprocess.nms=hard", "-S", "model.quality=none", check=False)
    assert message.endswith(
        "Error: -S model.quality=none: an export uses the parameters postprocess.* only; model.quality is of the "
        "detector, which is exported as it was trained\n"
    )


def test_nothing_is_written_where_detections_differ(
    export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "MAX_SCORE_DIFFERENCE", -1.0)
    out = tmp_path / "new/detector.onnx"
    assert "differs from the detector by more than rounding" in export("--out", str(out), check=False)
    assert list(out.parent.iterdir()) == []
    export("--out", str(out), "--no-check")
    assert out.is_file()


@pytest.mark.parametrize(
    ("content", "problem"),
    [(None, "no such file"), (b"no model", "damaged, or no model that ONNX Runtime can run: ")],
)
def test_a_file_that_is_no_detector_is_named(tmp_path: Path, content: bytes | None, problem: str) -> None:
    path = tmp_path / "other.onnx"
    if content:
        path.write_bytes(content)
    (tmp_path / "a.png").touch()
    message = run(tmp_path, "fcos", "predict", "a.png", "--weights", "other.onnx", check=False)
    assert message.startswith(f"fcos: other.onnx: {problem}")
    assert message.count("\n") == 1


@pytest.mark.usefixtures("model")
def test_commands_that_need_layers_say_so(project: Path) -> None:
    message = run(project, "fcos", "export", "--weights", "exported/detector.onnx", check=False)
    assert message == (
        "fcos: exported/detector.onnx: only `fcos predict` and `fcos evaluate` run ONNX; give the .safetensors file "
        "that it was exported from\n"
    )


def test_int8_and_its_measurements(project: Path, export: Export) -> None:
    description = project / "exported/detector.int8.json"  # of other weights, which the report must not replace
    description.parent.mkdir(exist_ok=True)
    description.write_text("{}")
    output = export("--int8").splitlines()
    assert description.read_text() == "{}"
    path, report = project / "exported/detector.int8.onnx", read(project, "exported/detector.int8.onnx.json")
    assert output[-1].endswith("exported/detector.int8.onnx: a detector of 10 classes")
    assert (report["calibration"], report["split"], report["images"]) == ("24 images of the training split", "val", 8)
    assert report["float32"]["AP"] == pytest.approx(read(project, "metrics/evaluate.json")["coco"]["AP"], abs=5e-4)
    found = json.loads(run(project, "fcos", "evaluate", "--weights", "exported/detector.int8.onnx", "--json"))
    assert report["int8"]["AP"] == pytest.approx(found["coco"]["AP"], abs=1e-6)
    assert f"AP {report['int8']['AP']:.4f} instead of {report['float32']['AP']:.4f}" in output[-2]
    assert report["int8"]["bytes"] == path.stat().st_size < 0.4 * report["float32"]["bytes"]
    times = [report[name]["milliseconds_per_image"] for name in ("float32", "int8")]
    assert report["speedup"] == pytest.approx(times[0] / times[1], rel=0.02)
    assert session(path).get_modelmeta().custom_metadata_map["precision"] == "int8"
    detector, _ = load_detector(project / "models/detector.safetensors")
    convolutions = sum(isinstance(layer, torch.nn.Conv2d) for layer in detector.modules())
    assert quantized_layers(path) == (convolutions - 3, 3)
    assert rounded_before_activation(path) == []


def rounded_before_activation(path: Path) -> list[str]:
    """Activations whose input has 8 bits, for a range that they cut off. Those after group norm get all bits."""
    import onnx

    graph = onnx.load(path).graph
    of_8_bits = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    return [node.name for node in graph.node if node.op_type in ("Relu", "Clip") and node.input[0] in of_8_bits]


def quantized_layers(path: Path) -> tuple[int, int]:
    """The numbers of convolutions with weights of 8 bits, and of others, which are the last ones of the head."""
    import onnx

    graph = onnx.load(path).graph
    outputs = {name: node.op_type for node in graph.node for name in node.output}
    kinds = {}
    for node in graph.node:
        if node.op_type == "Conv":
            kinds[node.input[1]] = outputs.get(node.input[1]) == "DequantizeLinear"
    kept = [name for name, is_quantized in kinds.items() if not is_quantized]
    assert sorted(name.split(".")[-2] for name in kept) == ["box", "class_logits", "quality"]
    return len(kinds) - len(kept), len(kept)


def test_int8_needs_images_and_onnx(tmp_path: Path, project: Path, export: Export) -> None:
    for name in ("detector.safetensors", "detector.json"):
        shutil.copy(project / "models" / name, tmp_path)
    message = run(tmp_path, "fcos", "export", "--int8", "--weights", "detector.safetensors", check=False)
    assert message == (
        "fcos: detector.safetensors: no training split of its project here; give --calibrate FOLDER with images\n"
    )
    (tmp_path / "empty").mkdir()
    message = export("--int8", "--calibrate", str(tmp_path / "empty"), check=False)
    assert message == f"fcos: {tmp_path / 'empty'}: no image in this folder; give another one\n"
    assert "--int8 needs --format onnx" in export("--int8", "--format", "torch", check=False)


def test_int8_is_not_measured_with_other_classes(project: Path, export: Export, tmp_path: Path) -> None:
    path = project / "data/unified/val.json"
    before = path.read_text()
    split = json.loads(before)
    split["categories"][0]["name"] = "nought"
    path.write_text(json.dumps(split))
    try:
        message = export("--int8", "--out", str(tmp_path / "new.onnx"), check=False)
    finally:
        path.write_text(before)
    assert message.startswith(f"fcos: {path}: its classes ['nought', '1', ")
    assert message.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_views_and_a_damaged_operating_point(project: Path, export: Export, tmp_path: Path) -> None:
    path = project / "predictions/operating_point.json"
    before = path.read_text()
    options = "--no-check", "--raw", "--out", str(tmp_path / "raw.onnx")
    try:
        path.write_text(json.dumps(json.loads(before) | {"views": {"flip": True}}))
        assert export(*options).splitlines()[0] == (
            "evaluation detected objects in several views of each image (the size of training, mirrored too), which "
            "the exported file doesn't make: `fcos predict` does, other programs have to"
        )
        for content in ("{}", json.dumps(json.loads(before) | {"views": {"flip": 7}})):
            path.write_text(content)
            message = export(*options, check=False)
            assert message.startswith(f"fcos: {path}: ")
            assert message.endswith("; run `dvc repro -f evaluate`, or remove it\n")
        path.unlink()
        assert len(export(*options).splitlines()) == 1
    finally:
        path.write_text(before)


def test_the_commands_and_the_example_of_the_documentation(
    project: Path, export: Export, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, with_defaults, *others, predict, evaluate = readme("Export", "docs/export.md")
    # Other tests run these.
    assert plain == ["fcos", "export"]
    assert [command[2:] for command in others] == [["--raw", "--out", "raw.onnx"], ["--format", "torch"], ["--int8"]]
    export(*with_defaults[2:])
    (scores,) = session(project / "small.onnx").run(["scores"], {"images": np.zeros((1, 128, 128, 3), np.uint8)})
    assert scores.shape == (1, 50)
    assert not ((scores > 0) & (scores < 0.3)).any()
    assert len(run(project, *predict).splitlines()) == 9
    assert "AP50" in run(project, *evaluate)
    shutil.copy(next((project / "data/raw/digits/images/val").iterdir()), project / "photo.jpg")
    (example,) = re.findall(r"(?ms)^```python\n(.*?)^```", (PROJECT / "docs/export.md").read_text())
    monkeypatch.chdir(project)
    exec(compile(example.replace("[0.3]", "[0.05]"), "docs/export.md", "exec"), {})
    found = fcos.load("exported/detector.onnx").predict("photo.jpg", score=0.05)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == found.names
    assert found.names
