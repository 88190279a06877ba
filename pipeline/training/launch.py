"""One training in several processes, started and restarted by torch's elastic launcher."""

import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NoReturn

import torch
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure, get_error_handler
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from fcos.training.distributed import SINGLE_PROCESS, Processes, process_group
from fcos.training.trainer import PeerFailedError, TrainingInterrupted
from pipeline.errors import PipelineError
from pipeline.inference.device import choose_device
from pipeline.params import Params, TrainParams

_RESTARTS = 3
_STOPPED = (-signal.SIGTERM, 128 + signal.SIGTERM, 128 + signal.SIGINT)  # exit codes of a process that was stopped


def num_processes(params: Params) -> int:
    """The number of training processes on this machine, from machine.devices.

    Raises:
        PipelineError: there are fewer GPUs, or the batch can't be divided evenly among the processes.
    """
    train, machine = params.train, params.machine
    if choose_device(machine.device).type == "cpu":
        count = 1 if machine.devices == "auto" else machine.devices
    else:
        gpus = torch.cuda.device_count()
        count = gpus if machine.devices == "auto" else machine.devices
        if count > gpus:
            raise PipelineError(f"params.yaml: machine.devices is {count}, but torch finds {gpus} GPUs")
    check_batch_divides(train, count)
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
    return {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()


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
    try:
        with process_group(choose_device(params.machine.device)) as processes:
            yield processes
    except PeerFailedError:
        sys.exit(1)
    except TrainingInterrupted:
        sys.exit(128 + signal.SIGTERM)


def run_worker(body: Callable[[], None]) -> NoReturn:
    """Runs the body of a process that `launch` started, and exits. `launch` reports its errors."""
    try:
        body()
    except Exception as error:  # noqa: BLE001 - `launch` raises it again
        get_error_handler().record_exception(error)
        sys.exit(1)
    sys.exit(0)


def launch(module: str, *arguments: str, count: int) -> None:
    """Runs `python -m module arguments` in `count` processes on this machine, and waits until all have succeeded.

    If the system kills a process (a signal, lack of memory), all are restarted; training resumes from its saved state.

    Raises:
        PipelineError: a process raised it, or processes were killed too often.
        SystemExit: the processes were stopped, or one failed with a traceback, which is printed.
    """
    for restarts_left in reversed(range(_RESTARTS + 1)):
        try:
            _launch(module, *arguments, count=count)
        except ChildFailedError as error:
            killed = _describe_killed(error.failures)
            if not restarts_left:
                raise PipelineError(f"{killed}, after {_RESTARTS} restarts: is there enough memory?") from None
            line = f"{killed}; restarting all processes from the last saved state"
            print(line, file=sys.stderr, flush=True)  # noqa: T201
        except SignalException as error:
            sys.exit(128 + error.sigval)
        else:
            return


def _launch(module: str, *arguments: str, count: int) -> None:
    with tempfile.TemporaryDirectory() as folder, _silence_launcher(), _restore_handlers(), _worker_environment(count):
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",  # any free port
            local_addr="127.0.0.1",
            max_restarts=0,  # torch would also restart after errors that occur again
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        elastic_launch(config, sys.executable)("-m", module, *arguments)


def _describe_killed(failures: Mapping[int, ProcessFailure]) -> str:
    """Describes which process the system killed. Any other failure is raised instead.

    Raises:
        PipelineError: a process raised it.
        SystemExit: the processes were stopped, or one failed with a traceback, which is printed.
    """
    raised = {rank: failure for rank, failure in failures.items() if _has_exception(failure)}
    for failure in raised.values():
        kind, _, text = failure.error_file_data["message"]["message"].partition(": ")
        if kind == PipelineError.__name__:
            raise PipelineError(text)
    for rank, failure in failures.items():
        if failure.exitcode < 0 and failure.exitcode not in _STOPPED:
            return f"training process {rank} was killed by {failure.signal_name()}"
    # Processes that were stopped in the middle of a step may have raised just because of that.
    messages = [failure.error_file_data["message"] for failure in raised.values() if failure.exitcode not in _STOPPED]
    for message in messages:
        print(message["extraInfo"]["py_callstack"], file=sys.stderr)  # noqa: T201
    sys.exit(1 if messages else 128 + signal.SIGTERM)


def _has_exception(failure: ProcessFailure) -> bool:
    return isinstance(failure.error_file_data["message"], dict)


@contextmanager
def _worker_environment(count: int) -> Iterator[None]:
    """Sets environment variables for the processes: an equal share of the cores, and only the loopback interface.

    Variables that are already set keep their values.
    """
    defaults = {"OMP_NUM_THREADS": str(max(1, _cores() // count)), "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "300"}
    if sys.platform == "linux":
        defaults["GLOO_SOCKET_IFNAME"] = "lo"
    before = dict(os.environ)
    os.environ.update(defaults | before)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


@contextmanager
def _silence_launcher() -> Iterator[None]:
    """Suppresses the launcher's log messages; `launch` reports failures itself."""
    logger = logging.getLogger("torch.distributed.elastic")
    handler, propagate = logging.NullHandler(), logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


@contextmanager
def _restore_handlers() -> Iterator[None]:
    """Restores the signal handlers that torch's launcher replaces."""
    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    handlers = {number: signal.getsignal(number) for number in signals}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
