"""`python -m` and `dvc` as new processes that don't have to import torch, MLflow and DVC: a third of a stage's time.

pytest's own workers are such processes, too. A server imports them once for the whole test session, and forks for each
command. The commands `python` and `dvc` in `folder()` send it their arguments, environment and open files, pass on
signals, and end as the forked process does. Code of this project is never imported in the server: the forked process
takes that of its current folder.
"""

import atexit
import functools
import gc
import hashlib
import importlib
import json
import os
import pickle
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
import weakref
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from shutil import rmtree
from types import ModuleType
from typing import Any

from filelock import FileLock

# What stages and DVC's commands import, apart from this project.
PACKAGES = (
    "torch", "torch._dynamo", "torch.distributed", "torch.utils.data", "torchvision.transforms.v2", "PIL.Image",
    "safetensors.torch", "sklearn.datasets", "sklearn.manifold", "scipy.optimize", "pycocotools.cocoeval",
    "hotcoco", "matplotlib.pyplot", "matplotlib.backends.backend_agg", "pydantic", "ruamel.yaml", "jinja2",
    "rich.progress", "psutil", "mlflow", "mlflow.models", "mlflow.pyfunc", "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.artifact.local_artifact_repo", "dvc.cli", "dvc.cli.parser", "dvc.repo", "dvc.repo.reproduce",
    "dvc.repo.plots", "dvc.repo.metrics", "dvc.stage.run", "dvc.repo.experiments",
    "dvc.repo.experiments.queue.celery", "dvc.repo.experiments.executor.local", "dvc.render.convert",
    "dvc_data.index", "dvc_task.app", "dvc_objects.fs.local", "dulwich.repo", "pygit2", "scmrepo.git", "celery",
    "kombu",
    # What tests import in pytest's workers. Not hydra: pytest has to import its plugin first.
    "av", "cv2", "huggingface_hub", "markdown_it", "nbformat", "networkx", "omegaconf", "pymongo", "timm",
)  # fmt: skip

# Modules whose own processes are forked, too. FiftyOne, which inspect starts, can't be imported after MLflow.
WARM_CHILDREN = ("ipykernel_launcher", "mlflow", "pipeline.stages.train", "tests.support.held_training")

# Of all forked processes. With Python's own thresholds, collections took a twelfth of the suite's CPU time.
_GC_THRESHOLDS = (50_000, 20, 100)

_CLIENT = """#!{python} -IS
import json, os, signal, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
command = {command!r} + sys.argv[1:]
umask = os.umask(0o77)
message = json.dumps([command, os.getcwd(), dict(os.environ), umask]).encode()
socket.send_fds(server, [len(message).to_bytes(4, "big") + message[:1]], [0, 1, 2])
server.sendall(message[1:])
replies = server.makefile()
forked = int(replies.readline())
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) != signal.SIG_IGN:
        signal.signal(number, lambda number, frame: os.kill(forked, number))
status = int(replies.readline())
if status < 0:
    if status != -signal.SIGKILL:
        signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
os._exit(status)
"""


@functools.cache
def folder() -> Path:
    """The folder of the commands, for PATH. Starts the server, once for all workers of a test session."""
    home = _home()
    home.mkdir(mode=0o700, exist_ok=True)
    with FileLock(home / "lock"):
        if not _answers(home / "socket"):
            _start(home)
    return home / "bin"


def command(*arguments: str) -> list[str]:
    """`python ARGUMENTS`, which begin with `-m MODULE` or `-c CODE`, after `-u` or `-W error`."""
    return [str(folder() / "python"), *arguments]


def running() -> list[int]:
    """The process ids of the commands of this worker of pytest. Each has the forked process as a child."""
    return [int(file.name.partition("-")[2]) for file in (_home() / "commands").glob(f"{_worker(os.environ)}-*")]


def _worker(environment: Mapping[str, str]) -> str:
    return environment.get("PYTEST_XDIST_WORKER", "main")


def _session() -> int:
    """The process id of pytest, also in its workers, which inherit the variable."""
    return int(os.environ.setdefault("WARM_PYTHON_SESSION", str(os.getpid())))


def _home() -> Path:
    return Path(tempfile.gettempdir(), f"warm-python-{_session()}")


def _answers(address: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client, suppress(OSError):
        client.connect(str(address))
        return True
    return False


def _start(home: Path) -> None:
    for name in ("bin", "commands", "yaml"):
        (home / name).mkdir(exist_ok=True)
    for name, command in (("python", []), ("dvc", ["-m", "dvc"])):
        script = _CLIENT.format(python=sys.executable, address=str(home / "socket"), command=command)
        (home / "bin" / name).write_text(script)
        (home / "bin" / name).chmod(0o700)
    (home / "socket").unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(home / "socket"))
    server.listen(64)
    with server, (home / "log").open("wb") as log:
        subprocess.run(
            [sys.executable, __file__, str(server.fileno()), str(_session())],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[server.fileno()],
            start_new_session=True,
            cwd="/",
            check=True,
        )


def main() -> None:
    server, session = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    home = Path(server.getsockname()).parent
    if os.fork():  # in the background
        os._exit(0)
    sys.path.pop(0)  # this folder
    gc.set_threshold(*_GC_THRESHOLDS)
    for name in PACKAGES:
        with suppress(ImportError):
            importlib.import_module(name)
    share_parsed_yaml(home / "yaml")
    list_installed_modules()
    skip_torch_cleanup()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the handlers are waited for by no one
    server.settimeout(1)
    try:
        while _is_alive(session):
            with suppress(TimeoutError):
                client, _ = server.accept()
                client.setblocking(True)
                if os.fork() == 0:
                    server.close()
                    break
                client.close()
        else:
            rmtree(home, ignore_errors=True)
            return
    except BaseException:
        rmtree(home, ignore_errors=True)
        raise
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    handle(client, home / "commands")


def share_parsed_yaml(folder: Path) -> None:
    """Lets all processes parse each YAML text once: `dvc exp run` parses params.yaml, dvc.yaml and dvc.lock 58 times.

    That is most of the time of DVC's commands, and the texts of the tests' projects are the same.
    """
    from dvc.utils import strictyaml
    from dvc.utils.serialize import _yaml

    parse = _yaml.parse_yaml

    def parse_yaml(text: str, path: str, typ: str = "safe") -> Any:
        file = folder / f"{hashlib.sha256(text.encode()).hexdigest()}.{typ}"
        with suppress(FileNotFoundError):
            return pickle.loads(file.read_bytes())
        content = parse(text, path, typ)
        partial = file.with_suffix(f".{typ}-{os.getpid()}")
        partial.write_bytes(pickle.dumps(content))
        partial.replace(file)
        return content

    _yaml.parse_yaml = strictyaml.parse_yaml = parse_yaml


def list_installed_modules() -> None:
    """Reads which package each installed module belongs to: MLflow does, in each process that saves a model."""
    with suppress(ImportError):
        from mlflow.utils import requirements_utils

        requirements_utils._init_modules_to_packages_map()


def skip_torch_cleanup() -> None:
    """At its end, each process would remove torch's operators one by one, and log the times of its compiler."""
    with suppress(ImportError):
        from torch._dynamo import utils

        atexit.unregister(utils.dump_compile_times)
        for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]
            if (alive := finalizer.peek()) and alive[1].__module__ == "torch.library":
                finalizer.atexit = False


def _is_alive(session: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(session, 0)
        return True
    return False


def handle(client: socket.socket, commands: Path) -> None:
    """Forks the command, and waits for it. It is killed when the client is: nothing else knows it."""
    start, files, _, _ = socket.recv_fds(client, 5, 3)
    if not start:  # somebody tried whether the server answers
        os._exit(0)
    length, content = int.from_bytes(start[:4], "big"), start[4:]
    while len(content) < length:
        content += client.recv(length - len(content))
    command, here, environment, umask = json.loads(content)
    file = commands / f"{_worker(environment)}-{os.getpid()}"
    file.touch()
    forked = os.fork()
    if forked == 0:
        client.close()
        run(command, here, environment, umask, files, commands.with_name("bin") / "python")
        return
    for number in files:
        os.close(number)
    client.sendall(f"{forked}\n".encode())
    process = os.pidfd_open(forked)
    ready, _, _ = select.select([process, client], [], [])
    if process not in ready:
        os.kill(forked, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1])
    file.unlink(missing_ok=True)
    with suppress(OSError):
        client.sendall(f"{status}\n".encode())
    os._exit(0)


def run(command: list[str], here: str, environment: dict[str, str], umask: int, files: list[int], python: Path) -> None:
    """Becomes `python COMMAND`; `python` is the command that forks."""
    os.setpgid(0, 0)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(here)
    os.umask(umask)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = [here, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    if command[0] == "-u":
        command = command[1:]
    if command[:2] == ["-W", "error"]:
        warnings.simplefilter("error")
        command = command[2:]
    option, sys.argv, status = command[0], command[1:], 0
    if any(module in WARM_CHILDREN for module in sys.argv[:1]):
        sys.executable = str(python)
        if "FCOS_LAUNCHER" in os.environ:  # the parent, at whose death a process of a training ends
            os.environ["FCOS_LAUNCHER"] = str(os.getppid())
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        if option == "-m":
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        elif option == "-c":
            code, sys.argv[0] = sys.argv[0], "-c"
            exec(compile(code, "<string>", "exec"), vars(sys.modules["__main__"]))
        else:
            raise NotImplementedError(command)
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if isinstance(ended.code, str):
            sys.stderr.write(f"{ended.code}\n")
    except BaseException:  # noqa: BLE001  # as the interpreter does
        traceback.print_exc()
        status = 1
    # What the interpreter does at its end, without tearing down the modules, which takes a second.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status & 0xFF)


if __name__ == "__main__":
    main()
