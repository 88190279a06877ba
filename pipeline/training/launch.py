"""One training in several processes, by torch's elastic launcher: started, watched, and started again where one is
killed."""

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

from fcos.training.distributed import SINGLE_PROCESS, Processes, group
from fcos.training.trainer import PeerFailedError, TrainingInterrupted
from pipeline.errors import PipelineError
from pipeline.inference.device import choose_device
from pipeline.params import Params, TrainParams

_RESTARTS = 3
_STOPPED = (-signal.SIGTERM, 128 + signal.SIGTERM, 128 + signal.SIGINT)  # exit codes of one that was asked to stop


def num_processes(params: Params) -> int:
    """How many processes machine.devices means on this machine.

    Raises:
        PipelineError: there are fewer GPUs, or a step's images can't be shared out evenly.
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


def check_batch_divides(train: TrainParams, processes: int) -> None:
    """Makes sure that every process gets as many images in each part of a step.

    Raises:
        PipelineError: it doesn't; the message names a batch size that would do.
    """
    parts = processes * train.accumulate
    if train.batch_size % parts:
        fitting = -(-train.batch_size // parts) * parts
        raise PipelineError(
            f"params.yaml: train.batch_size is {train.batch_size}, which {processes} processes (machine.devices) of "
            f"{train.accumulate} parts each (train.accumulate) can't share evenly; {fitting} can be"
        )


def is_worker() -> bool:
    """Whether a launcher, `launch` or a person's torchrun, has started this process as one of several."""
    return {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()


def join_processes(params: Params) -> AbstractContextManager[Processes]:
    """Those that this process trains with: the launcher's, or none.

    Raises:
        PipelineError: a step's images can't be shared out evenly between them.
        SystemExit: at the end, where training failed in another process, or was asked to stop.
    """
    return _joined(params) if is_worker() else nullcontext(SINGLE_PROCESS)


@contextmanager
def _joined(params: Params) -> Iterator[Processes]:
    check_batch_divides(params.train, int(os.environ["WORLD_SIZE"]))
    try:
        with group(choose_device(params.machine.device)) as joined:
            yield joined
    except PeerFailedError:
        sys.exit(1)
    except TrainingInterrupted:
        sys.exit(128 + signal.SIGTERM)


def run_worker(body: Callable[[], None]) -> NoReturn:
    """Runs what a process that `launch` started has to do, and exits. What goes wrong is left for `launch` to tell."""
    try:
        body()
    except Exception as error:  # noqa: BLE001 - `launch` raises it again
        get_error_handler().record_exception(error)
        sys.exit(1)
    sys.exit(0)


def launch(module: str, *arguments: str, count: int) -> None:
    """Runs `python -m module arguments` in so many processes on this machine, and returns when all have ended well.

    When the system kills one (a signal, lack of memory), all are started again; they go on from the last saved state.

    Raises:
        PipelineError: one of them raised it; or they were killed too often.
        SystemExit: they were asked to stop, and did; or one failed with a traceback, which is told.
    """
    for left in reversed(range(_RESTARTS + 1)):
        try:
            _launch(module, *arguments, count=count)
        except ChildFailedError as error:
            killed = _killed(error.failures)
            if not left:
                raise PipelineError(f"{killed}, as others before; is there enough memory?") from None
            print(f"{killed}; all start again from the last saved state", file=sys.stderr, flush=True)  # noqa: T201
        except SignalException as error:
            sys.exit(128 + error.sigval)
        else:
            return


def _launch(module: str, *arguments: str, count: int) -> None:
    with tempfile.TemporaryDirectory() as folder, _quiet(), _handlers_kept(), _environment(count):
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",  # any free port
            local_addr="127.0.0.1",
            max_restarts=0,  # torch's would also be for errors that come again
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        elastic_launch(config, sys.executable)("-m", module, *arguments)


def _killed(failures: Mapping[int, ProcessFailure]) -> str:
    """Says which process the system killed, where that was what happened; raises what it was otherwise."""
    raised = {rank: each for rank, each in failures.items() if isinstance(each.error_file_data["message"], dict)}
    for failure in raised.values():
        kind, _, text = failure.error_file_data["message"]["message"].partition(": ")
        if kind == PipelineError.__name__:
            raise PipelineError(text)
    for rank, failure in failures.items():
        if failure.exitcode < 0 and failure.exitcode not in _STOPPED:
            return f"training process {rank} was killed by {failure.signal_name()}"
    # The others were stopped in the middle of something, and may have raised for that alone.
    own = [failure.error_file_data["message"] for failure in raised.values() if failure.exitcode not in _STOPPED]
    for message in own:
        print(message["extraInfo"]["py_callstack"], file=sys.stderr)  # noqa: T201
    sys.exit(1 if own else 128 + signal.SIGTERM)


@contextmanager
def _environment(count: int) -> Iterator[None]:
    """What the processes find in theirs: a fair share of the cores, and no network but this machine's own."""
    ours = {"OMP_NUM_THREADS": str(max(1, _cores() // count)), "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "300"}
    if sys.platform == "linux":
        ours["GLOO_SOCKET_IFNAME"] = "lo"
    before = dict(os.environ)
    os.environ.update(ours | before)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


@contextmanager
def _quiet() -> Iterator[None]:
    """The launcher's warnings tell a person nothing that `launch` doesn't."""
    logger = logging.getLogger("torch.distributed.elastic")
    handler, propagated = logging.NullHandler(), logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagated


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Torch's launcher installs its own handlers of signals, for good."""
    kept = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)}
    try:
        yield
    finally:
        for each, handler in kept.items():
            signal.signal(each, handler)
