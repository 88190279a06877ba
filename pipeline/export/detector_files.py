"""Writes a saved detector as files that other programs run: ONNX, and torch's exported programs (.pt2)."""

import io
import json
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import onnx_ir as ir
import torch
from torch import Tensor

from fcos.description import Normalization
from fcos.onnx_metadata import Metadata
from fcos.postprocess import Postprocess
from pipeline.errors import PipelineError
from pipeline.export import network, quantization
from pipeline.export.onnx_graph import assemble
from pipeline.export.provenance import Provenance
from pipeline.files import atomic_replace, write_errors, write_json
from pipeline.inference.saved_detector import SavedDetector
from pipeline.workspace import workspace

Measure: TypeAlias = Callable[[Path, Path], dict[str, Any]]


def check_location(out: Path, suffix: str) -> None:
    """Makes sure that a file replaces no weights, and is no part of a stage's result, which DVC restores or removes.

    Raises:
        PipelineError: its name doesn't end with the suffix, or it lies in the folder models of the project.
    """
    if out.suffix != suffix:
        raise PipelineError(f"{out}: its name doesn't end with {suffix}; choose another --out")
    try:
        models = (workspace() / "models").resolve()
    except PipelineError:  # not inside a project
        return
    if models in out.resolve().parents:
        raise PipelineError(f"{out}: DVC empties the folder models when a detector is trained; choose another one")


def check_postprocess(postprocess: Postprocess) -> None:
    """Makes sure that ONNX has operators for the post-processing.

    Raises:
        PipelineError: it has none.
    """
    if postprocess.nms != "hard":
        raise PipelineError(
            f"postprocess.nms {postprocess.nms}: ONNX has no operator for it; add -S postprocess.nms=hard, or --raw to "
            "export the network's outputs, which `fcos predict` post-processes itself"
        )


def metadata(model: SavedDetector, weights: Path, postprocess: Postprocess, *, raw: bool) -> Metadata:
    """The metadata of a detector that is exported.

    Raises:
        PipelineError: the detector is in an ONNX file already, or a file of its project is invalid.
    """
    mean, std = model.network.backbone.mean, model.network.backbone.std
    return Metadata(
        description=model.description,
        normalization=Normalization((mean[0], mean[1], mean[2]), (std[0], std[1], std[2])),
        raw=raw,
        postprocess=postprocess,
        precision="float32",
        version=version("fcos-pipeline"),
        **vars(Provenance.of(weights)),
    )


def write_onnx(model: SavedDetector, about: Metadata, out: Path, check: Callable[[Path], object]) -> None:
    """Writes an ONNX file.

    Args:
        about: its metadata, which also say whether it ends with the network's outputs.
        check: called with the path of the complete file before it replaces `out`, which an exception prevents.

    Raises:
        PipelineError: the network can't be traced, or the file can't be written.
    """
    graph = complete(network.to_onnx(model.network), model, about)
    with write_errors(out), atomic_replace(out) as temporary:
        ir.save(graph, temporary)
        check(temporary)


def write_int8(
    model: SavedDetector, about: Metadata, out: Path, calibration: Iterable[Tensor], measure: Measure
) -> dict[str, Any]:
    """Writes a quantized ONNX file, and its measurements beside it as JSON: `NAME.onnx.json`.

    Args:
        about: the metadata of the detector in float32.
        calibration: images as stored, from which the ranges of activations are taken.
        measure: takes the paths of the complete files in float32 and int8, and returns the content of the JSON file.

    Raises:
        PipelineError: as for `write_onnx`.
    """
    traced = ir.to_proto(network.to_onnx(model.network))
    quantized = quantization.quantize(traced, quantization.prepare(model, calibration))
    with write_errors(out), atomic_replace(out) as temporary, tempfile.TemporaryDirectory() as folder:
        ir.save(complete(quantized, model, replace(about, precision="int8")), temporary)
        float32 = Path(folder, "float32.onnx")
        ir.save(complete(ir.from_proto(traced), model, about), float32)
        report = measure(float32, temporary)
    write_json(out.with_name(f"{out.name}.json"), report)  # NAME.json may be the description of weights
    return report


def complete(traced: ir.Model, model: SavedDetector, about: Metadata) -> ir.Model:
    """The whole model around a network, with its metadata."""
    graph = assemble(
        traced,
        model.network,
        len(model.class_names),
        model.description.input_size,
        None if about.raw else about.postprocess,
    )
    graph.producer_name, graph.producer_version = "fcos", about.version
    graph.metadata_props.update(about.to_props())
    return graph


def write_torch(model: SavedDetector, about: Metadata, out: Path, check: Callable[[Path], object]) -> None:
    """Writes a program of `torch.export`, from a batch of `batch_images` to the network's outputs.

    Its metadata is the extra file `metadata.json`.

    Args:
        about, check: as for `write_onnx`.

    Raises:
        PipelineError: the network can't be traced, or the file can't be written.
    """
    program, content = network.to_torch(model.network), io.BytesIO()
    with network.quiet():
        # Not into a file, whose name would become a part of the content.
        torch.export.save(
            program, content, extra_files={"metadata.json": json.dumps(about.to_props(), ensure_ascii=False)}
        )
    with write_errors(out), atomic_replace(out) as temporary:
        temporary.write_bytes(content.getvalue())
        check(temporary)
