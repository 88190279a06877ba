"""The front matter of a card: the metadata of Hugging Face's model cards, as YAML.

https://github.com/huggingface/hub-docs/blob/main/modelcard.md describes the fields. `datasets` is left out, since it
takes ids of data sets on that site only; `model-index` names the data set.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.model_card.facts import Facts

# Names of licenses in the registry of data sets, by their identifier on Hugging Face.
_LICENSES = (
    "apache-2.0", "bsd-3-clause", "cc0-1.0", "cc-by-3.0", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0",
    "cc-by-sa-3.0", "cc-by-sa-4.0", "gpl-3.0", "mit", "odbl",
)  # fmt: skip
_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
_METRICS = {"AP": "AP, IoU 0.50:0.95", "AP50": "AP at IoU 0.50"}


def render(facts: Facts) -> str:
    """The lines between two `---`. Values are JSON, which is YAML, so that no name can break it."""
    return "\n".join(["---", *_lines(facts), "---"])


def _lines(facts: Facts) -> Iterator[str]:
    yield f"library_name: {_scalar('fcos-pipeline')}"
    yield "pipeline_tag: object-detection"
    if identifier := license_identifier(facts):
        yield f"license: {identifier} # of the training data"
    yield "tags:"
    yield from (f"- {_scalar(tag)}" for tag in ("object-detection", "fcos", facts.description.model.backbone))
    yield "metrics:"
    yield "- mean_average_precision"
    yield f"weights_sha256: {_scalar(facts.weights_digest)}"
    yield "model-index:"
    yield f"- name: {_scalar(model_name(facts))}"
    yield "  results:"
    for split, metrics in {"val": facts.val, "test": facts.test}.items():
        if metrics and metrics["coco"]["AP"] is not None:
            yield from _result(facts, split, metrics)


def _result(facts: Facts, split: str, metrics: Mapping[str, Any]) -> Iterator[str]:
    title = facts.source.title if facts.source and facts.source.title else facts.dataset
    yield "  - task:"
    yield "      type: object-detection"
    yield "    dataset:"
    yield f"      type: {_scalar(facts.dataset)}"
    yield f"      name: {_scalar(title)}"
    yield f"      split: {split}"
    yield "    metrics:"
    for name, description in _METRICS.items():
        yield "    - type: mean_average_precision"
        yield f"      name: {_scalar(description)}"
        yield f"      value: {metrics['coco'][name]:.6f}"  # PyYAML reads 4e-05 as text


def license_identifier(facts: Facts) -> str | None:
    """The identifier on Hugging Face of the data set's license; None if it has none, or isn't known."""
    name = re.sub(r"[\s_]+", "-", facts.source.license.strip().lower()) if facts.source else ""
    return name if name in _LICENSES else None


def model_name(facts: Facts) -> str:
    return re.sub(r"[^\w.-]+", "-", f"fcos-{facts.dataset}-{facts.description.model.backbone}")


def _scalar(value: str) -> str:
    """A string as JSON. YAML doesn't allow or changes some characters that JSON does: they are escaped."""
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))
