"""A detector as an MLflow model: code, safetensors and JSON. No pickle.

The model contains this project's code for inference, so that `mlflow models serve` and `mlflow.pyfunc.load_model` need
the listed packages only. It reads images as encoded files (JPEG, PNG, …), one per row of the column `image`.
"""

import json
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fcos.onnx_files import SUFFIX, read_metadata
from fcos.onnx_metadata import Metadata
from fcos.postprocess import Postprocess
from pipeline.data.image_files import MAX_MEGAPIXELS
from pipeline.errors import PipelineError
from pipeline.files import digest
from pipeline.inference.postprocess import project_postprocess
from pipeline.inference.score_thresholds import find_operating_point

_PROJECT = Path(__file__).resolve().parents[2]
SERVED = Path(__file__).with_name("served_detector.py")
# What the served detector imports: code of this project, and packages.
CODE_ARCHIVE = "code.zip"
CODE = (
    "fcos", "pipeline/__init__.py", "pipeline/data", "pipeline/errors.py", "pipeline/files.py", "pipeline/inference",
    "pipeline/params.py", "pipeline/prediction", "pipeline/process.py", "pipeline/workspace.py",
    "pipeline/yaml_files.py",
)  # fmt: skip
PACKAGES = (
    "mlflow", "numpy", "opencv-python-headless", "pandas", "pillow", "pydantic", "ruamel.yaml", "safetensors", "torch",
    "torchvision",
)  # fmt: skip
WEIGHTS, ONNX, DESCRIPTION, POSTPROCESS, OPERATING_POINT, MODEL_CARD, EXAMPLE = FILES = (
    "detector.safetensors", "detector.onnx", "detector.json", "postprocess.json", "operating_point.json",
    "model_card.md", "example.jpg",
)  # fmt: skip


@dataclass(frozen=True)
class ModelFiles:
    """What a model is made of."""

    weights: Path  # .safetensors, with the description (.json) beside it; or an ONNX file
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    postprocess: Postprocess = field(default_factory=Postprocess)
    operating_point: Path | None = None
    model_card: Path | None = None
    example: bytes | None = None  # an encoded image

    @property
    def digest(self) -> str:
        return digest(self.weights)

    def files(self) -> dict[str, Path | bytes]:
        """Files by their names in FILES."""
        files: dict[str, Path | bytes] = {WEIGHTS: self.weights, DESCRIPTION: self.weights.with_suffix(".json")}
        if self.weights.suffix == SUFFIX:
            files = {ONNX: self.weights}
        files[POSTPROCESS] = json.dumps(asdict(self.postprocess), indent=2).encode()
        optional = {OPERATING_POINT: self.operating_point, MODEL_CARD: self.model_card, EXAMPLE: self.example}
        return files | {name: content for name, content in optional.items() if content}

    def write(self, folder: Path) -> None:
        """Writes the files into a folder."""
        for name, content in self.files().items():
            if isinstance(content, bytes):
                (folder / name).write_bytes(content)
            else:
                shutil.copyfile(content, folder / name)


def files_of_weights(weights: Path) -> ModelFiles:
    """What a model of a detector's file is made of, with the operating point that was chosen for it, as in prediction.

    Raises:
        PipelineError: the operating point or the section `postprocess` of the project's params.yaml is invalid, or an
            ONNX file is no detector.
    """
    if weights.suffix == SUFFIX:
        return ModelFiles(weights, postprocess=_exported_postprocess(weights))
    points = find_operating_point(weights)
    return ModelFiles(weights, postprocess=project_postprocess(), operating_point=points[0] if points else None)


def _exported_postprocess(weights: Path) -> Postprocess:
    try:
        props = read_metadata(weights)
    except ValueError as error:  # names the file
        raise PipelineError(str(error)) from None
    try:
        return Metadata.from_props(props).postprocess
    except ValueError as error:
        raise PipelineError(f"{weights}: {error}") from None


def write(folder: Path, files: Path, *, model: str | None = None, run: str | None = None, **config: Any) -> None:
    """Writes an MLflow model.

    Args:
        folder: is created.
        files: a folder with FILES; the operating point, the model card and the example may be missing.
        model, run: ids in MLflow.
        config: `device`, which is `auto`, `cpu` or `cuda`, and `max_megapixels` of an image; `model_config` of
            mlflow.pyfunc.load_model overrides them.
    """
    import mlflow.pyfunc
    from mlflow.models import Model

    staged = folder.with_name("staged")
    shutil.copytree(files, staged)
    example, code = staged / EXAMPLE, staged / CODE_ARCHIVE
    _pack_code(code)
    present = [name for name in FILES if (staged / name).is_file() and name != EXAMPLE]
    packages = (*PACKAGES, "onnxruntime") if ONNX in present else PACKAGES
    mlflow.pyfunc.save_model(
        str(folder),
        python_model=str(SERVED),
        artifacts={_key(name): str(staged / name) for name in present},
        signature=signature(),
        input_example=_frame(example.read_bytes()) if example.is_file() else None,
        code_paths=[str(code)],
        pip_requirements=[f"{package}=={version(package)}" for package in packages],
        mlflow_model=Model(model_id=model, run_id=run),
        model_config={"device": "auto", "max_megapixels": MAX_MEGAPIXELS, **config},
    )


def _key(name: str) -> str:
    return {WEIGHTS: "weights", ONNX: "weights", DESCRIPTION: "description"}.get(name, Path(name).stem)


def signature() -> Any:
    """What the model reads and returns."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Array, Object, Property

    box = Array(DataType.double)  # x, y, width, height in pixels of the image
    properties = {"bbox": box, "category": DataType.string, "category_id": DataType.long, "score": DataType.double}
    detection = Object([Property(name, kind) for name, kind in properties.items()])
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.binary, "image")]),
        outputs=Schema([ColSpec(Array(detection), "detections")]),
        params=ParamSchema([ParamSpec("score", DataType.double, None)]),
    )


def _frame(image: bytes) -> Any:
    import pandas as pd

    return pd.DataFrame({"image": [image]})


def _pack_code(path: Path) -> None:
    """Packs the code for inference into an archive, which Python imports from: a server takes long for a hundred files.

    The same code gives the same bytes.
    """
    files = [file for name in CODE for file in sorted({_PROJECT / name, *(_PROJECT / name).rglob("*.py")})]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            if file.is_file():
                archive.writestr(zipfile.ZipInfo(file.relative_to(_PROJECT).as_posix()), file.read_bytes())
