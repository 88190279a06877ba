"""params.schema.json: the JSON schema of params.yaml, with which editors complete and check the file.

Types and limits come from `pipeline.params`, descriptions and default values from defaults.yaml. After a change of
either, `python -m pipeline.recipes.schema` writes the file again.
"""

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from pipeline import recipes
from pipeline.errors import PipelineError
from pipeline.files import write_text
from pipeline.params import Params
from pipeline.workspace import workspace

FILE = "params.schema.json"


def text() -> str:
    """The content of params.schema.json."""
    schema = TypeAdapter(Params).json_schema()
    sections = schema.pop("$defs")
    comments, defaults = recipes.comments(), recipes.defaults().flat()

    def expand(section: dict[str, Any], prefix: str) -> dict[str, Any]:
        """The section with its nested sections in place of references, and without unknown keys."""
        properties = {}
        for name, value in section["properties"].items():
            key = prefix + name
            nested = sections.get(value.get("$ref", "").rpartition("/")[2])
            properties[name] = expand(nested, f"{key}.") if nested else {**value, "default": defaults[key]}
            properties[name].pop("title", None)
            if key in comments:
                properties[name]["description"] = comments[key]
        return {"type": "object", "properties": properties, "additionalProperties": False}

    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "params.yaml"}
    return json.dumps(head | expand(schema, ""), indent=2, ensure_ascii=False) + "\n"


def write(path: Path) -> None:
    """Writes params.schema.json."""
    write_text(path, text())


def main() -> None:
    """Writes the schema of this project, or exits with one line if defaults.yaml does not fit the parameters."""
    try:
        write(workspace() / FILE)
    except PipelineError as error:
        sys.exit(f"schema: {error}")


if __name__ == "__main__":
    main()
