"""Every option of a detector, exported to ONNX and to torch's program, and compared with the detector.

    python -m benchmarks.export_matrix              # each option against the default, then a pairwise set
    python -m benchmarks.export_matrix --singles    # each option against the default only
    python -m benchmarks.export_matrix --part 0 3   # a third of it, to run three processes side by side

Weights are random and inputs small. The pairwise set has each pair of values of two options in at least one detector;
of backbones, which meet the other parts through C3, C4 and C5 only, each detector has another one.
Compared are the network's outputs at every location, and the detections of the complete ONNX file. The exit status is 1
if a detector can't be exported, or differs by more than rounding.
"""

import argparse
import itertools
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from fcos.config import ARCHITECTURE, PAPER, Backbone, InputSize, ModelConfig
from fcos.description import Description
from fcos.detector import Detector, build
from fcos.fast.fused import fuse
from fcos.inference import fit
from fcos.onnx_detector import OnnxDetector
from fcos.ops.boxes import aligned_iou, boxes_from_ltrb
from fcos.postprocess import Postprocess
from fcos.structures import Outputs
from fcos.weights import save_detector
from pipeline.errors import PipelineError
from pipeline.export import detector_files, network, parity, torch_program
from pipeline.inference.saved_detector import SavedDetector

_CLASSES = 3
DEFAULT = replace(
    PAPER,
    backbone="tiny",
    pretrained=False,
    batch_norm="trained",
    frozen_stages=0,
    channels=16,
    tower_depth=1,
    levels=(4, 5),  # of five levels, tracing takes twice as long
)
# Values of options that have no list of choices.
_VALUES: dict[str, tuple[Any, ...]] = {
    "backbone": (
        *get_args(Backbone),
        *("timm:mobilenetv4_conv_small_050", "timm:convnext_atto", "timm:tf_mobilenetv3_small_minimal_100"),
    ),
    "channels": (16, 24),
    "levels": ((4, 5), (3, 4, 5, 6, 7), (3,), (5, 6, 7)),
    "tower_depth": (1, 0, 2),
    "tower_channels": (None, 8),
    "distribution_max": (16, 8),
}
# What is no part of the network: how it is trained, resized for, and post-processed.
_OTHERS: dict[str, tuple[Any, ...]] = {
    "batch_norm": ("trained", "frozen", "synchronized"),
    "assigner": get_args(get_type_hints(ModelConfig)["assigner"]),
    "regression_ranges": (None, (40.0,)),
    "letterbox": (False, True),
    "score_mode": get_args(get_type_hints(Postprocess)["score_mode"]),
    "nms": get_args(get_type_hints(Postprocess)["nms"]),
}
# Without these, an option has no effect.
_REQUIRED: dict[str, dict[str, Any]] = {
    "extra_levels_from": {"levels": (5, 6, 7)},
    "distribution_max": {"box_output": "distribution"},
}
_SIZES = ((80, 120), (150, 90))  # of the images
_REACH = 1000.0  # pixels: distances up to which boxes are compared; exp of random weights can be infinite


def options() -> dict[str, tuple[Any, ...]]:
    """The values of each option of the architecture; the first one is the default."""
    hints = get_type_hints(ModelConfig)
    values = dict(_VALUES)
    for name in ARCHITECTURE:
        if get_origin(hints[name]) is Literal:
            values[name] = get_args(hints[name])
        elif hints[name] is bool:
            values[name] = (False, True)
        elif name not in values:
            raise ValueError(f"{name}: an option without values; add some to benchmarks/export_matrix.py")
    return {name: _first(getattr(DEFAULT, name), values[name]) for name in ARCHITECTURE}


def _first(default: Any, values: Sequence[Any]) -> tuple[Any, ...]:
    return (default, *(value for value in values if value != default))


def singles(values: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """The default, and each other value of each option alone, or with the options that it has an effect with."""
    return [
        {},
        *({name: value, **_REQUIRED.get(name, {})} for name, choices in values.items() for value in choices[1:]),
    ]


def pairwise(values: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Combinations that have each pair of values of two options at least once, by greedy choice."""
    missing = {
        frozenset([(first, a), (second, b)])
        for first, second in itertools.combinations(values, 2)
        for a in values[first]
        for b in values[second]
    }
    found = []
    while missing:
        chosen = dict(min(missing, key=lambda pair: sorted(map(repr, pair))))
        for name in sorted(values.keys() - chosen.keys(), key=lambda name: (-len(values[name]), name)):
            chosen[name] = max(
                values[name],
                key=lambda value, name=name: sum(  # type: ignore[misc]
                    frozenset([(name, value), item]) in missing for item in chosen.items()
                ),
            )
        missing -= {frozenset(pair) for pair in itertools.combinations(chosen.items(), 2)}
        found.append(chosen)
    return found


@dataclass(frozen=True)
class Difference:
    """Between the outputs of a detector and of its file, at all locations."""

    score: float  # largest one
    iou: float  # lowest one of boxes at least a pixel wide and high
    moved: int  # boxes with a lower IoU and a larger shift than rounding causes

    @classmethod
    def of(cls, expected: Outputs, found: Outputs) -> "Difference":
        """Compares the scores of all classes, and the boxes."""
        boxes = [
            boxes_from_ltrb(outputs.locations.xy, outputs.ltrb.double().clamp(max=_REACH)).flatten(0, 1)
            for outputs in (expected, found)
        ]
        iou, _ = aligned_iou(*boxes)
        shift = (boxes[0] - boxes[1]).abs().amax(dim=1)
        moved = (iou < parity.MIN_IOU) & (shift > parity.MAX_SHIFT)
        is_thin = (boxes[0][:, 2:] - boxes[0][:, :2]).amin(dim=1) < 1  # rounding can leave them no IoU at all
        difference = (_scores(expected) - _scores(found)).abs().max()
        return cls(float(difference), float(iou.where(~is_thin, 1.0).min()), int(moved.sum()))

    @property
    def holds(self) -> bool:
        """Whether the two differ by rounding only."""
        return self.score <= parity.MAX_SCORE_DIFFERENCE and not self.moved

    def __str__(self) -> str:
        mark = "" if self.holds else "DIFFERS: "
        return f"{mark}{self.score:.1e}, {self.iou:.5f}"


def _scores(outputs: Outputs) -> Tensor:
    probability = outputs.logits.double().sigmoid()
    return (
        probability if outputs.quality is None else (probability * outputs.quality.double().sigmoid()[..., None]).sqrt()
    )


def images() -> list[Tensor]:
    """Colored blocks, which are resized in both directions."""
    generator = torch.Generator().manual_seed(0)
    blocks = [torch.randint(0, 256, (3, h // 10, w // 10), generator=generator, dtype=torch.uint8) for h, w in _SIZES]
    return [block.repeat_interleave(10, 1).repeat_interleave(10, 2) for block in blocks]


def random_detector(config: ModelConfig) -> Detector:
    """A detector with random weights, statistics of batch norm that suit them, and varied scores and boxes."""
    torch.manual_seed(0)
    detector = build(config, _CLASSES)
    nn.init.normal_(detector.head.class_logits.weight, std=0.1)
    nn.init.normal_(detector.head.box.weight, std=0.1)
    batch = detector.prepare([fit(image, InputSize((96, 96))) for image in images()])
    torch.optim.swa_utils.update_bn([batch], network.Network(detector))
    return fuse(detector.eval())


class Result(NamedTuple):
    """Of a file: how it differs from the detector, or why there is none."""

    text: str
    holds: bool  # whether it differs by rounding only, or ONNX has no operator for the suppression


def check(chosen: Mapping[str, Any], folder: Path) -> list[Result]:
    """Exports a detector in all ways: the results of the raw ONNX file, the complete one and torch's program."""
    chosen = dict(chosen)
    postprocess = Postprocess(**{name: chosen.pop(name) for name in ("score_mode", "nms") if name in chosen})
    input_size = InputSize((96, 160), chosen.pop("letterbox", False))
    model = SavedDetector(
        random_detector(replace(DEFAULT, **chosen)),
        Description(
            model=replace(DEFAULT, **chosen),
            categories=tuple((k, str(k)) for k in range(_CLASSES)),
            input_size=input_size,
        ),
    )
    weights = folder / "detector.safetensors"
    save_detector(build(DEFAULT, _CLASSES), model.description, weights)  # for the digest in the metadata
    raw, complete = (detector_files.metadata(model, weights, postprocess, raw=is_raw) for is_raw in (True, False))
    try:
        traced = ir.to_proto(network.to_onnx(model.network))
    except PipelineError as error:
        return [Result(str(error), holds=False), Result("", holds=False), _check_torch(model, raw, folder)]
    return [
        _check_raw(model, traced, raw, folder),
        _check_complete(model, traced, complete, folder),
        _check_torch(model, raw, folder),
    ]


def _check_raw(model: SavedDetector, traced: Any, about: Any, folder: Path) -> Result:
    """The differences of the raw file, for soft suppression those of its detections."""
    path = folder / "raw.onnx"
    ir.save(detector_files.complete(ir.from_proto(traced), model, about), path)
    if about.postprocess.nms != "hard":
        return _describe(parity.compare_file(path, model, images(), replace(about.postprocess, score_threshold=0.0)))
    exported, input_size = OnnxDetector(path, torch.device("cpu")), model.description.input_size
    differences = []
    for image in images():
        with torch.inference_mode():
            expected = model.network(model.network.prepare([fit(image, input_size)], input_size.canvas))
        found, _ = exported.outputs(np.stack([image.permute(1, 2, 0).numpy()]), input_size)
        differences.append(Difference.of(expected, found))
    return _worst(differences)


def _worst(differences: Sequence[Difference]) -> Result:
    worst = max(differences, key=lambda item: (not item.holds, item.moved, item.score))
    return Result(str(worst), worst.holds)


def _check_complete(model: SavedDetector, traced: Any, about: Any, folder: Path) -> Result:
    try:
        detector_files.check_postprocess(about.postprocess)
    except PipelineError as error:
        return Result(str(error), holds=about.postprocess.nms != "hard")
    path = folder / "complete.onnx"
    ir.save(detector_files.complete(ir.from_proto(traced), model, about), path)
    return _describe(parity.compare_file(path, model, images(), replace(about.postprocess, score_threshold=0.0)))


def _check_torch(model: SavedDetector, about: Any, folder: Path) -> Result:
    path = folder / "detector.pt2"
    try:
        detector_files.write_torch(model, about, path, lambda _: None)
        return _compare_torch(torch_program.load(path), model)
    except PipelineError as error:
        return Result(str(error), holds=False)


def _compare_torch(program: torch_program.Program, model: SavedDetector) -> Result:
    input_size, differences = model.description.input_size, []
    for image in images():
        resized = [fit(image, input_size)]
        with torch.inference_mode():
            expected = model.network(model.network.prepare(resized, input_size.canvas))
        differences.append(
            Difference.of(expected, torch_program.outputs(program, resized, model.description.model, input_size.canvas))
        )
    return _worst(differences)


def _describe(found: parity.Parity) -> Result:
    mark = "" if found.holds else "DIFFERS: "
    count = f"{found.unmatched + found.moved} of {found.detections} without counterpart"
    return Result(f"{mark}{count}, {found.score_difference:.1e}, {found.iou:.5f}", found.holds)


def rows(combinations: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[Result], float]]:
    """Name, results and CPU seconds of each combination."""
    for chosen in combinations:
        name = ", ".join(f"{key}: {value}" for key, value in chosen.items() if _is_changed(key, value))
        start = time.process_time()
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = check(chosen, Path(folder))
        yield name or "default", found, time.process_time() - start


def _is_changed(name: str, value: Any) -> bool:
    return bool(value != (getattr(DEFAULT, name) if hasattr(DEFAULT, name) else _OTHERS[name][0]))


def _without_backbone() -> dict[str, tuple[Any, ...]]:
    return {name: values for name, values in options().items() if name != "backbone"}


def _with_backbones(combinations: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The combinations, with the backbones in turn."""
    return [
        {"backbone": backbone, **chosen}
        for backbone, chosen in zip(itertools.cycle(_VALUES["backbone"]), combinations, strict=False)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--singles", action="store_true", help="no pairwise set")
    parser.add_argument("--part", type=int, nargs=2, default=(0, 1), metavar=("I", "N"), help="I of N, from 0")
    arguments = parser.parse_args()
    alone = singles({**options(), **_OTHERS})
    combinations = alone if arguments.singles else [*alone, *_with_backbones(pairwise(_without_backbone()))]
    print(f"{len(combinations)} combinations, {len(alone)} of them single options")
    print("| # | option | raw ONNX | complete ONNX | torch.export | CPU s |\n|---|---|---|---|---|---|")
    failed, (part, parts) = 0, arguments.part
    for index, (name, found, seconds) in enumerate(rows(combinations[part::parts])):
        print(
            f"| {index * parts + part} | {name} | {' | '.join(result.text for result in found)} | {seconds:.0f} |",
            flush=True,
        )
        failed += not all(result.holds for result in found)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
