"""The job files for clusters, as far as they can be checked without one: syntax, stages, modules and options."""

import re
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from pipeline.yaml_files import read_yaml
from tests.support.paths import PROJECT

CLUSTER = PROJECT / "examples/cluster"
SLURM = CLUSTER / "train.sbatch"


def test_the_script_for_slurm() -> None:
    subprocess.run(["bash", "-n", SLURM], check=True)
    script = SLURM.read_text()
    options = re.findall(r"^#SBATCH --([a-z-]+)", script, re.MULTILINE)
    assert {"nodes", "ntasks-per-node", "gpus-per-node", "cpus-per-task", "signal"} <= set(options)
    # A line of options after the first command would be ignored.
    assert script.index("set -euo") > script.rindex("#SBATCH")
    stages = re.findall(r"^dvc (?:repro|commit --force) ([a-z]+) ", script, re.MULTILINE)
    assert stages == ["convert", "train"]
    assert set(stages) <= set(read_yaml(PROJECT / "dvc.yaml")["stages"])
    check_torchrun(script.partition("exec ")[2].partition("'")[0])


def test_the_job_for_kubernetes() -> None:
    job: dict[str, Any] = yaml.safe_load((CLUSTER / "trainjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("trainer.kubeflow.org/v1alpha1", "TrainJob")
    trainer = job["spec"]["trainer"]
    check_torchrun(trainer["args"][0].partition("exec ")[2])
    limits = trainer["resourcesPerNode"]["limits"]
    assert limits["nvidia.com/gpu"] == trainer["numProcPerNode"]
    environment = {item["name"]: item["value"] for item in trainer["env"]}
    assert int(environment["OMP_NUM_THREADS"]) == int(limits["cpu"]) // trainer["numProcPerNode"]
    (patch,) = job["spec"]["runtimePatches"]
    (node,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = node["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def check_torchrun(command: str) -> None:
    """The options are torchrun's, and the module exists. The source of torchrun is read: an import takes seconds."""
    torch = find_spec("torch")
    assert torch
    assert torch.origin
    known = (Path(torch.origin).parent / "distributed/run.py").read_text()
    for option in re.findall(r"--([a-z-]+)", command):
        assert f'"--{option}"' in known, option
    module = re.findall(r"-m ([\w.]+)", command)
    assert module == ["pipeline.stages.train"]
    assert (PROJECT / f"{module[0].replace('.', '/')}.py").is_file()
