"""The notebook of examples/ runs from its first cell to its last, as a person would run it."""

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import nbformat
import pytest

import fcos
from tests.support import projects, warm_python
from tests.support.projects import read

# Runs a notebook in place. The kernel communicates over sockets in a folder of its own.
EXECUTE = """
import os
import shutil
import sys
import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

path, folder = sys.argv[1:]
sys.executable = shutil.which("python")  # which runs the kernel
notebook = nbformat.read(path, as_version=4)
kernel = AsyncKernelManager(transport="ipc", ip=f"{folder}/kernel", connection_file=f"{folder}/kernel.json")
resources = {"metadata": {"path": os.path.dirname(path)}}
NotebookClient(notebook, km=kernel, timeout=120, resources=resources).execute(cleanup_kc=True)
nbformat.write(notebook, path)
"""


@pytest.fixture(scope="module")
def outputs(project: Path) -> dict[str, str]:
    """What each code cell of the notebook showed, by the last line of its code."""
    path = project / "examples/first_look.ipynb"
    with tempfile.TemporaryDirectory() as folder:  # the path of a socket has at most 107 bytes
        command = warm_python.command("-c", EXECUTE, str(path), folder)
        environment = projects.environment() | {"IPYTHONDIR": folder, "JUPYTER_PREFER_ENV_PATH": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell["cell_type"] == "code"]
    return {cell["source"].splitlines()[-1]: "\n".join(map(shown, cell["outputs"])) for cell in cells}


def shown(output: Any) -> str:
    data = output.get("data", {})
    return "picture" if "image/png" in data else str(output.get("text") or data["text/plain"])


def test_it_detects(project: Path, outputs: dict[str, str]) -> None:
    detector = fcos.load(project / "models/detector.safetensors")
    result = detector.predict(project / "data/raw/digits/images/val/000001.jpg")
    assert outputs["result"] == repr(result).replace(f"{project}/", "")
    assert outputs["result.plot().resize((512, 512))"] == "picture"
    names = outputs["boxes.assign(name=result.names, score=result.scores.tolist())"]
    assert re.findall(r"(?m)^(\d+) ", names)[-1] == str(len(result) - 1)  # pandas leaves out rows of a long table
    truth = read(project, "data/unified/val.json")
    found = sum(map(len, detector.predict([project / "data/raw/digits" / i["file_name"] for i in truth["images"]])))
    line = next(text for code, text in outputs.items() if code.startswith('print(f"{found}'))
    assert line == f"{found} detections, {len(truth['annotations'])} objects\n"


def test_it_shows_the_evaluation_and_an_experiment(project: Path, outputs: dict[str, str]) -> None:
    ap = read(project, "metrics/evaluate.json")["coco"]["AP"]
    table = next(text for code, text in outputs.items() if "AP75" in code and "round(3)" in code)
    assert float(re.search(r"(?m)^AP +(\S+)$", table)[1]) == round(ap, 3)
    experiment = next(text for code, text in outputs.items() if "round(4)" in code)
    assert float(re.search(r"(?m)^AP +(\S+) +(\S+)$", experiment)[1]) == round(ap, 4)
    assert outputs['Image("plots/evaluate/confusion.png", width=640)'] == "picture"
    assert re.search(r"(?m)^  nms: hard +#", (project / "params.yaml").read_text())
