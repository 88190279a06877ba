"""Names of the fields in FiftyOne's datasets: one of each kind for every experiment."""

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

from pipeline.evaluation.error_kinds import KINDS

LOW_SCORE = "low_score"  # kind of a detection below the score threshold of its class
GROUND_TRUTH = "ground_truth"
LABEL_ERRORS = "label_errors"


@dataclass(frozen=True)
class ExperimentFields:
    """The fields of an experiment: `predictions_NAME` and so on; `predictions` is that of the workspace."""

    suffix: str

    @classmethod
    def of(cls, experiment: str | None) -> "ExperimentFields":
        """The fields of an experiment; None: those of the workspace.

        A name with other characters than letters, digits, - and _ also gets a hash: several have the same letters.
        """
        if experiment is None:
            return cls("")
        plain = re.sub("[^A-Za-z0-9]+", "_", experiment).strip("_")
        if not re.fullmatch("[A-Za-z0-9_-]+", experiment):
            plain = f"{plain[:60]}_{hashlib.sha256(experiment.encode()).hexdigest()[:8]}".strip("_")
        return cls(f"_{plain}")

    @property
    def predictions(self) -> str:
        return f"predictions{self.suffix}"

    @property
    def eval(self) -> str:
        """The evaluation key."""
        return f"eval{self.suffix}"

    @property
    def error(self) -> str:
        """The attribute of ground truth that says whether the object was found."""
        return f"error{self.suffix}"

    @property
    def errors(self) -> str:
        return f"errors{self.suffix}"

    @property
    def most_certain_error(self) -> str:
        return f"most_certain_error{self.suffix}"

    @property
    def ap50(self) -> str:
        return f"ap50{self.suffix}"

    @property
    def lrp_error(self) -> str:
        return f"lrp_error{self.suffix}"

    @property
    def counts(self) -> tuple[str, ...]:
        """FiftyOne's numbers of correct detections, wrong ones and missed objects."""
        return tuple(f"{self.eval}_{count}" for count in ("tp", "fp", "fn"))

    @property
    def scores(self) -> tuple[str, ...]:
        """The sample fields by which images are found."""
        return (self.errors, self.most_certain_error, self.ap50, self.lrp_error)

    @property
    def of_samples(self) -> tuple[str, ...]:
        """The sample fields other than `predictions`."""
        return (*self.scores, *self.counts)

    @property
    def of_truth(self) -> tuple[str, ...]:
        """The attributes of ground truth."""
        return (self.error, self.eval, f"{self.eval}_id", f"{self.eval}_iou")


def declare_samples(dataset: Any) -> None:
    """Declares the fields of samples and of ground truth, so that views can use them even without objects."""
    import fiftyone as fo

    add = dataset.add_sample_field
    add("image_id", fo.IntField, description="id in data/unified")
    add("split", fo.StringField)
    add("source", fo.StringField, description="folder of the image file in the data set")
    add("objects", fo.IntField, description="number of objects that count")
    add("smallest_object", fo.FloatField, description="square root of the area of the smallest object, in pixels")
    _add_detections(dataset, GROUND_TRUTH)
    add(f"{GROUND_TRUTH}.detections.annotation_id", fo.IntField, description="id in data/unified")
    add(f"{GROUND_TRUTH}.detections.ignored", fo.BooleanField, description="difficult or a crowd")
    add(f"{GROUND_TRUTH}.detections.size", fo.FloatField, description="square root of the area, in pixels")


def declare_experiment(dataset: Any, fields: ExperimentFields) -> None:
    """Declares the fields of an experiment; those that are declared already stay."""
    import fiftyone as fo

    add, labels, truth = dataset.add_sample_field, f"{fields.predictions}.detections", f"{GROUND_TRUTH}.detections"
    _add_detections(dataset, fields.predictions)
    kinds = " | ".join((*KINDS, LOW_SCORE))
    add(f"{labels}.error", fo.StringField, description=f"{kinds}: below the score threshold of its class")
    add(f"{labels}.iou", fo.FloatField, description="with the object that it was compared with")
    add(f"{labels}.true_label", fo.StringField, description="class of that object")
    add(f"{truth}.{fields.error}", fo.StringField, description="found | missed | ignored")
    for path in (labels, truth):
        add(f"{path}.{fields.eval}", fo.StringField, description="tp | fp | fn, at the score thresholds")
        add(f"{path}.{fields.eval}_id", fo.StringField)
        add(f"{path}.{fields.eval}_iou", fo.FloatField)
    add(fields.errors, fo.IntField, description="wrong detections and missed objects")
    add(fields.most_certain_error, fo.FloatField, description="highest score of a wrong detection")
    add(fields.ap50, fo.FloatField, description="AP of this image at the IoU threshold, mean over its classes")
    add(fields.lrp_error, fo.FloatField, description="0: nothing is wrong; 1: everything is (LRP, arXiv:2011.10772)")
    for name in fields.counts:
        add(name, fo.IntField)


def _add_detections(dataset: Any, name: str) -> None:
    import fiftyone as fo

    dataset.add_sample_field(name, fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)


def content_hash(*values: Any) -> str:
    """A hash of values that JSON can represent, by which it is found whether something has changed."""
    return hashlib.sha256(json.dumps(values, default=str).encode()).hexdigest()
