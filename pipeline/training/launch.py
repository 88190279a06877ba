"""One training in several processes on this machine, which restart together if the system kills one of them."""

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import NoReturn

import torch

from fcos.training.distributed import SINGLE_PROCESS, Processes, process_group
from fcos.training.trainer import PeerFailedError, TrainingInterrupted
from pipeline import process
from pipeline.errors import PipelineError
from pipeline.inference.device import choose_device
from pipeline.params import MachineParams, Params, TrainParams

_RESTARTS = 3
_STATE_SECONDS = 300.0  # for saving the state after a signal
_END_SECONDS = 10.0  # for ending after a failure of another process, and then after SIGTERM
# Variables of a process that `launch` started: a folder of this user alone, and the process that started it.
_FOLDER, _LAUNCHER = "FCOS_LAUNCH_FOLDER", "FCOS_LAUNCHER"
_LOOPBACK = {"linux": "lo", "darwin": "lo0"}


def num_processes(params: Params) -> int:
    """The number of training processes on this machine, from machine.devices.

    Raises:
        PipelineError: there are fewer GPUs, or the batch can't be divided evenly among the processes.
    """
    count = count_devices(params.machine)
    check_batch_divides(params.train, count)
    return count


def count_devices(machine: MachineParams) -> int:
    """The number of GPUs, or of processes on a CPU, that machine.devices stands for.

    Raises:
        PipelineError: there are fewer GPUs.
    """
    if choose_device(machine.device).type == "cpu":
        return 1 if machine.devices == "auto" else machine.devices
    gpus = torch.cuda.device_count()
    count = gpus if machine.devices == "auto" else machine.devices
    if count > gpus:
        raise PipelineError(f"params.yaml: machine.devices is {count}, but torch finds {gpus} GPUs")
    return count


def check_batch_divides(train: TrainParams, world_size: int) -> None:
    """Makes sure that each part of a step has the same number of images in every process.

    Raises:
        PipelineError: it does not; the message names a batch size that does.
    """
    parts = world_size * train.accumulate
    if train.batch_size % parts:
        divisible = -(-train.batch_size // parts) * parts
        raise PipelineError(
            f"params.yaml: train.batch_size is {train.batch_size}, which can't be divided evenly among {world_size} "
            f"processes (machine.devices) with {train.accumulate} parts each (train.accumulate): set it to {divisible}"
        )


def is_worker() -> bool:
    """Whether this process was started as one of several, by `launch` or by a user's torchrun."""
    return _FOLDER in os.environ or {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()


def join_processes(params: Params) -> AbstractContextManager[Processes]:
    """Joins the process group of the launcher; without a launcher, training has a single process.

    Raises:
        PipelineError: the batch can't be divided evenly among the processes.
        SystemExit: on leaving the context, if training failed in another process or was stopped.
    """
    return _join_group(params) if is_worker() else nullcontext(SINGLE_PROCESS)


@contextmanager
def _join_group(params: Params) -> Iterator[Processes]:
    check_batch_divides(params.train, int(os.environ["WORLD_SIZE"]))
    folder = os.environ.get(_FOLDER)
    try:
        with process_group(choose_device(params.machine.device), _store(Path(folder)) if folder else None) as processes:
            yield processes
    except PeerFailedError:
        sys.exit(1)
    except TrainingInterrupted:
        sys.exit(128 + signal.SIGTERM)


def run_worker(body: Callable[[], None]) -> NoReturn:
    """Runs the body of a process that `launch` started, and exits. `launch` reports its errors."""
    process.resume_collection()
    process.handle_signals("")
    process.die_with_parent(int(os.environ[_LAUNCHER]))
    try:
        body()
    except Exception as error:  # noqa: BLE001 - `launch` raises it again
        failure = {"message": str(error) if isinstance(error, PipelineError) else "", "trace": traceback.format_exc()}
        _failure_file(Path(os.environ[_FOLDER]), int(os.environ["RANK"])).write_text(json.dumps(failure))
        sys.exit(1)
    sys.exit(0)


def _store(folder: Path) -> Path:
    return folder / "store"


def _failure_file(folder: Path, rank: int) -> Path:
    return folder / f"{rank}.json"


def launch(module: str, *arguments: str, count: int) -> None:
    """Runs `python -m module arguments` in `count` processes on this machine, and waits until all have succeeded.

    If the system kills a process (a signal, lack of memory), all are restarted; training resumes from its saved state.
    They find each other by a file in a folder of this user alone, and communicate over the loopback interface.

    Raises:
        PipelineError: a process raised it, or processes were killed too often.
        SystemExit: the processes were stopped, or one failed with a traceback, which is printed.
    """
    workers = _Workers([sys.executable, "-m", module, *arguments], count)
    with workers.signals_passed_on():
        for restarts_left in reversed(range(_RESTARTS + 1)):
            with TemporaryDirectory(prefix="fcos-") as folder:  # mode 0700
                workers.run(Path(folder))
                killed = workers.killed(Path(folder))
            if not killed:
                return
            if not restarts_left:
                raise PipelineError(f"{killed}, after {_RESTARTS} restarts: is there enough memory?")
            line = f"{killed}; restarting all processes from the last saved state"
            print(line, file=sys.stderr, flush=True)  # noqa: T201


@dataclass
class _Workers:
    """The processes of one training."""

    command: list[str]
    count: int
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    stopped: set[int] = field(default_factory=set)  # ranks that were running when a failure or a signal stopped all
    signal: int | None = None  # the first that this process received

    @contextmanager
    def signals_passed_on(self) -> Iterator[None]:
        """Within this context, the processes receive the signals that stop this process."""

        def pass_on(number: int, _frame: FrameType | None) -> None:
            self.signal = self.signal or number
            self._send(number)

        handlers = {number: signal.signal(number, pass_on) for number in process.stop_signals()}
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def run(self, folder: Path) -> None:
        """Starts the processes and waits until all have ended."""
        self.stopped.clear()
        # In sessions of their own: Ctrl-C in a terminal reaches this process, which passes it on.
        self.processes = [
            subprocess.Popen(self.command, env=self._environment(folder, rank), start_new_session=True)
            for rank in range(self.count)
        ]
        if self.signal:  # it came before all were started
            self._send(self.signal)
        while self._running() and not self.signal and not any(worker.returncode for worker in self.processes):
            time.sleep(0.05)
        self.stopped.update(self._running())
        self._wait(_STATE_SECONDS if self.signal else _END_SECONDS)
        for number in (signal.SIGTERM, signal.SIGKILL):
            self._send(number)
            self._wait(_END_SECONDS)

    def _environment(self, folder: Path, rank: int) -> dict[str, str]:
        threads = {"OMP_NUM_THREADS": str(max(1, _cores() // self.count))}  # a value that is set already is kept
        ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": self.count, _LAUNCHER: os.getpid(), _FOLDER: folder}
        environment = threads | os.environ | {name: str(value) for name, value in ranks.items()}
        if interface := _LOOPBACK.get(sys.platform):
            environment |= {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface}
        return environment

    def _running(self) -> list[int]:
        return [rank for rank, worker in enumerate(self.processes) if worker.poll() is None]

    def _send(self, number: int) -> None:
        for worker in self.processes:
            worker.send_signal(number)

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self._running() and time.monotonic() < deadline:
            time.sleep(0.05)

    def killed(self, folder: Path) -> str:
        """Describes which process the system killed; empty if all succeeded.

        Raises:
            PipelineError: a process raised it.
            SystemExit: the processes were stopped, or one failed with a traceback, which is printed.
        """
        files = [_failure_file(folder, rank) for rank in range(self.count)]
        failures = [json.loads(file.read_text()) for file in files if file.is_file()]
        for failure in failures:
            if failure["message"]:
                raise PipelineError(failure["message"])
        if self.signal:
            sys.exit(128 + self.signal)
        statuses = dict(enumerate(worker.returncode for worker in self.processes))
        for rank, status in statuses.items():
            if status < 0 and rank not in self.stopped:
                return f"training process {rank} was killed by {signal.Signals(-status).name}"
        if not any(statuses.values()):
            return ""
        for failure in failures:
            print(failure["trace"], file=sys.stderr, end="")  # noqa: T201
        sys.exit(1 if failures else 128 + signal.SIGTERM)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
