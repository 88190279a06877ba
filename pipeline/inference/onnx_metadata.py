"""What an ONNX file knows of its detector, so that nothing else is needed to use it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import TypeAdapter, ValidationError

from fcos.description import Description, Normalization, from_json, to_json
from fcos.postprocess import Postprocess
from pipeline.errors import PipelineError, describe_validation_error

_POSTPROCESS = TypeAdapter(Postprocess)
DETECTIONS, RAW = "detections", "raw"


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """The metadata of a file. Values are None where they are not known."""

    description: Description
    normalization: Normalization
    raw: bool  # the outputs are the network's
    postprocess: Postprocess  # the defaults of the graph's inputs
    precision: str  # float32 or int8
    version: str  # of this package
    operating_point: dict[str, Any] | None = None  # content of operating_point.json
    weights: str | None = None  # SHA-256 of the safetensors file
    dataset: str | None = None
    data_digest: str | None = None  # of data/unified, as in dvc.lock
    license: str | None = None  # of the data set

    def to_props(self) -> dict[str, str]:
        """The metadata as a model of ONNX has it: texts, of JSON where a value is not a text itself."""
        categories = self.description.categories
        values = {
            "fcos_version": self.version,
            "outputs": RAW if self.raw else DETECTIONS,
            "precision": self.precision,
            "classes": [name for _, name in categories],
            "category_ids": [id for id, _ in categories],
            "input_size": list(self.description.input_size.size),
            "letterbox": self.description.input_size.letterbox,
            "postprocess": asdict(self.postprocess),
            "operating_point": self.operating_point,
            "dataset": self.dataset,
            "data_digest": self.data_digest,
            "license": self.license,
            "weights_sha256": self.weights,
            "description": json.loads(
                to_json(self.description, mean=self.normalization.mean, std=self.normalization.std)
            ),
        }
        return {
            name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for name, value in values.items()
            if value is not None
        }

    @classmethod
    def parse(cls, props: Mapping[str, str], path: Path) -> Self:
        """Reads the metadata of a model.

        Raises:
            PipelineError: the model was not written by `fcos export`, or its metadata is damaged.
        """
        if "fcos_version" not in props:
            raise PipelineError(f"{path}: has no metadata of a detector; use a file that `fcos export` wrote")
        try:
            about, normalization = from_json(props["description"].encode())
            point = props.get("operating_point")
            return cls(
                description=about,
                normalization=normalization,
                raw=props["outputs"] == RAW,
                postprocess=_POSTPROCESS.validate_json(props["postprocess"]),
                precision=props["precision"],
                version=props["fcos_version"],
                operating_point=None if point is None else json.loads(point),
                weights=props.get("weights_sha256"),
                dataset=props.get("dataset"),
                data_digest=props.get("data_digest"),
                license=props.get("license"),
            )
        except ValidationError as error:
            problem = describe_validation_error(error, lambda _: ())
        except KeyError as error:
            problem = f"{error.args[0]} is missing"
        except ValueError as error:
            problem = str(error)
        raise PipelineError(f"{path}: its metadata is damaged: {problem}; export the detector again")
