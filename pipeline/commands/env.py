"""`fcos env`: what a bug report needs, on one page."""

import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from pipeline.errors import PipelineError, count_noun

DISTRIBUTION = "fcos-pipeline"
# Variables that change what the project, its libraries or Python do. No others are shown.
PREFIXES = (
    *("CUBLAS_", "CUDA_", "DVC_", "FCOS_", "FIFTYONE_", "GLOO_", "HF_", "KMP_", "MKL_", "MLFLOW_", "NCCL_", "OMP_"),
    *("PIP_", "PYTHON", "PYTORCH_", "TORCH", "XDG_"),
)
NAMES = ("LANG", "LC_ALL", "LD_LIBRARY_PATH", "NO_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "TMPDIR", "VIRTUAL_ENV")
_SECRET = re.compile(r"TOKEN|KEY|SECRET|PASS|CREDENTIAL|AUTH|COOKIE|SIGNATURE", re.IGNORECASE)
_USER = re.compile(r"(?<=://)\S*@|^[^\s:/]+:(?!//)\S*@")  # `user:password@` of an address, with or without a scheme
_QUERY = re.compile(r"(?<=\?)[^#\s]+")  # of a signed URL, for example
TITLES = {
    "project": "Project",
    "machine": "Machine",
    "gpu": "GPU",
    "packages": "Packages",
    "environment": "Environment variables",
    "parameters": "Parameters that differ from the defaults",
}
_BF16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")  # x86, x86, Arm
HIDDEN = "***"

Section = dict[str, str]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def env(as_json: bool) -> None:
    """Print what a bug report needs: versions, machine, settings, and how params.yaml differs from the defaults.

    Secrets are hidden: values of variables whose names say that they hold one, and credentials in addresses.
    """
    report = {
        "project": _project(),
        "machine": _machine(),
        "gpu": _gpu(),
        "packages": _packages(),
        "environment": dict(_variables(os.environ)),
        "parameters": dict(_parameters()),
    }
    shown = {title: {name: hide(name, value) for name, value in values.items()} for title, values in report.items()}
    click.echo(json.dumps(shown, indent=2) if as_json else _page(shown))


def hide(name: str, value: str) -> str:
    """The value without secrets: all of it for a name such as `API_TOKEN`, credentials and queries of addresses."""
    if _SECRET.search(name.rsplit(".", 1)[-1]):
        return HIDDEN
    value = _USER.sub(f"{HIDDEN}@", value)
    if "://" in value:
        value = _QUERY.sub(HIDDEN, value)
    return value.replace(str(Path.home()), "~")


def _page(report: Mapping[str, Section]) -> str:
    width = max(len(name) for values in report.values() for name in values)
    lines = []
    for title, values in report.items():
        rows = [f"  {name:<{width}}  {value}" for name, value in values.items()] or ["  none"]
        lines += [TITLES[title], *rows, ""]
    return "\n".join(lines).rstrip()


def _project() -> Section:
    from pipeline import workspace

    try:
        folder = workspace.workspace()
        root, revision = str(workspace.root()), _revision(folder)
    except PipelineError as error:
        folder, root, revision = Path.cwd(), str(error), "unknown"
    return {
        "version": _version(DISTRIBUTION),
        "installed in": str(Path(__file__).parents[2]),
        "git revision": revision,
        "workspace": str(folder),
        "main repository": root,
        "free disk space": _gigabytes(shutil.disk_usage(folder).free),
        "mongod": _mongod(),
    }


def _revision(folder: Path) -> str:
    """The commit that is checked out, and whether files differ from it."""
    commit, status = (
        _output("git", "-C", folder, "rev-parse", "HEAD"),
        _output("git", "-C", folder, "status", "--short"),
    )
    if not commit:
        return "none"
    return f"{commit} and {count_noun(len(status.splitlines()), 'changed file')}" if status else commit


def _mongod() -> str:
    from pipeline.integrations import mongo

    if os.environ.get("FIFTYONE_DATABASE_URI"):
        return "FIFTYONE_DATABASE_URI names a server"
    try:
        return str(mongo.find_mongod())
    except PipelineError as error:
        return str(error)


def _machine() -> Section:
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    flags = _cpuinfo("flags") or _cpuinfo("Features")
    bf16 = [flag for flag in _BF16_FLAGS if flag in flags.split()]
    shared = Path("/dev/shm")
    return {
        "operating system": platform.platform(),
        "Python": f"{platform.python_version()} ({platform.python_implementation()}), {sys.executable}",
        "CPU": f"{_cpuinfo('model name') or platform.processor() or 'unknown'}, {platform.machine()}",
        "CPU cores": f"{cpus} usable of {os.cpu_count()}",
        "CPU bf16 instructions": ", ".join(bf16) or "none",
        "memory": _memory(),
        "shared memory": f"{_gigabytes(shutil.disk_usage(shared).free)} free" if shared.is_dir() else "no /dev/shm",
    }


def _cpuinfo(key: str) -> str:
    """A line's value in Linux's /proc/cpuinfo, of the first core; empty on other systems."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.split(":")[0].strip() == key), "")


def _memory() -> str:
    page = os.sysconf("SC_PAGE_SIZE")
    total = _gigabytes(os.sysconf("SC_PHYS_PAGES") * page)
    path = Path("/proc/meminfo")
    available = re.search(r"MemAvailable:\s*(\d+) kB", path.read_text(encoding="utf-8")) if path.is_file() else None
    return f"{total}, {_gigabytes(int(available[1]) * 1024)} available" if available else total


def _gpu() -> Section:
    import torch

    devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    names = [f"{device.name} ({_gigabytes(device.total_memory)})" for device in devices]
    query = ("--query-gpu=driver_version", "--format=csv,noheader")
    return {
        "GPUs that torch finds": ", ".join(names) or "none",
        "CUDA that torch was built with": torch.version.cuda or "none",
        "cuDNN": str(torch.backends.cudnn.version() or "none"),  # type: ignore[no-untyped-call]
        "driver": ", ".join(sorted(set(_output("nvidia-smi", *query).splitlines()))) or "none",
        "torch uses CPU instructions": torch.backends.cpu.get_cpu_capability(),
        "torch threads": str(torch.get_num_threads()),
    }


def _packages() -> Section:
    """Versions of the packages that pyproject.toml declares."""
    try:
        declared = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        declared = []
    names = sorted({re.match(r"[\w.-]+", requirement)[0] for requirement in declared})  # type: ignore[index]
    return {name: _version(name) for name in names}


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _variables(environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name, value in sorted(environment.items()):
        if name.startswith(PREFIXES) or name.upper() in NAMES:
            yield name, value


def _parameters() -> Iterator[tuple[str, str]]:
    from pipeline import params, recipes

    try:
        values, defaults = params.load().flat(), recipes.defaults().flat()
    except PipelineError as error:
        yield "params.yaml", str(error)
        return
    for name, value in values.items():
        if value != defaults[name]:
            yield name, f"{json.dumps(value)} (default: {json.dumps(defaults[name])})"


def _output(*command: str | Path) -> str:
    """What a program prints; empty if the program is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _gigabytes(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
