"""Writes a saved detector as files that other programs run: ONNX, and torch's exported programs (.pt2)."""

import io
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import onnx_ir as ir
import torch

from fcos.description import Normalization
from fcos.onnx_metadata import Metadata
from fcos.postprocess import Postprocess
from pipeline.errors import PipelineError
from pipeline.export import network
from pipeline.export.onnx_graph import assemble
from pipeline.export.provenance import Provenance
from pipeline.files import atomic_replace, write_errors
from pipeline.inference.saved_detector import SavedDetector


def check_postprocess(postprocess: Postprocess) -> None:
    """Makes sure that ONNX has operators for the post-processing.

    Raises:
        PipelineError: it has none.
    """
    if postprocess.nms != "hard":
        raise PipelineError(
            f"postprocess.nms {postprocess.nms}: ONNX has no operator for it; set it to hard, or export the network's "
            "outputs with --raw, which `fcos predict` post-processes itself"
        )


def metadata(model: SavedDetector, weights: Path, postprocess: Postprocess, *, raw: bool) -> Metadata:
    """The metadata of a detector that is exported.

    Raises:
        PipelineError: the detector is in a file of ONNX already, or a file of its project is invalid.
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
    program = network.to_onnx(model.network)
    graph = assemble(
        program,
        model.network,
        len(model.class_names),
        model.description.input_size,
        None if about.raw else about.postprocess,
    )
    graph.producer_name, graph.producer_version = "fcos", about.version
    graph.metadata_props.update(about.to_props())
    with write_errors(out), atomic_replace(out) as temporary:
        ir.save(graph, temporary)
        check(temporary)


def write_torch(model: SavedDetector, about: Metadata, out: Path) -> None:
    """Writes a program of `torch.export`, from a batch of `batch_images` to the network's outputs.

    Its metadata is the extra file `metadata.json`.

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
