"""The metadata of an ONNX file, so that no other file is needed to use its detector."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fcos.description import Description, Normalization, from_json, parse, to_json
from fcos.postprocess import Postprocess

_DETECTIONS, _RAW = "detections", "raw"


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """The metadata of a file. Values are None where they are not known."""

    description: Description
    normalization: Normalization
    raw: bool  # whether the outputs are those of the network, without post-processing
    postprocess: Postprocess  # the default values of the model's inputs
    precision: str  # float32 or int8
    version: str  # of the package that wrote the file
    weights: str  # SHA-256 of the file of weights
    operating_point: Any = None  # content of operating_point.json
    dataset: str | None = None
    data_digest: str | None = None  # of data/unified, as in dvc.lock
    license: str | None = None  # of the data set
    model_card: str | None = None  # Markdown

    def to_props(self) -> dict[str, str]:
        """The metadata as ONNX has it: texts. Values that are not texts are JSON."""
        mean, std = self.normalization.mean, self.normalization.std
        values = {
            "fcos_version": self.version,
            "outputs": _RAW if self.raw else _DETECTIONS,
            "precision": self.precision,
            "classes": [name for _, name in self.description.categories],
            "category_ids": [id for id, _ in self.description.categories],
            "input_size": list(self.description.input_size.size),
            "letterbox": self.description.input_size.letterbox,
            "postprocess": asdict(self.postprocess),
            "operating_point": self.operating_point,
            "dataset": self.dataset,
            "data_digest": self.data_digest,
            "license": self.license,
            "model_card": self.model_card,
            "weights_sha256": self.weights,
            "description": json.loads(to_json(self.description, mean=mean, std=std)),
        }
        return {
            name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for name, value in values.items()
            if value is not None
        }

    @classmethod
    def from_props(cls, props: Mapping[str, str]) -> "Metadata":
        """Reads the metadata of a model.

        Raises:
            ValueError: the model is no exported detector, or its metadata is damaged.
        """
        if "fcos_version" not in props:
            raise ValueError("no exported detector: it lacks the metadata of one")
        try:
            description, normalization = from_json(props["description"].encode())
            point = props.get("operating_point")
            return cls(
                description=description,
                normalization=normalization,
                raw=props["outputs"] == _RAW,
                postprocess=parse(json.loads(props["postprocess"]), Postprocess, "postprocess"),
                precision=props["precision"],
                version=props["fcos_version"],
                weights=props["weights_sha256"],
                operating_point=None if point is None else json.loads(point),
                dataset=props.get("dataset"),
                data_digest=props.get("data_digest"),
                license=props.get("license"),
                model_card=props.get("model_card"),
            )
        except KeyError as error:
            problem = f"{error.args[0]} is missing"
        except ValueError as error:
            problem = str(error)
        raise ValueError(f"its metadata is damaged: {problem}; export the detector again")
