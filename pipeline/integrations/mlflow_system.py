"""Use of the processor, memory, disk, network and GPU while a training runs, as MLflow's system metrics."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

SECONDS = 10.0  # between two measurements, as MLflow's own


@contextmanager
def system_metrics(log: Callable[[Mapping[str, float], int], None]) -> Iterator[None]:
    """Measures in a thread.

    Args:
        log: receives the metrics, named as MLflow's page expects, and the number of the measurement.
    """
    ending = threading.Event()
    thread = threading.Thread(target=_measure, args=(_monitors(), log, ending), name="system metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


def _measure(monitors: list[Any], log: Callable[[Mapping[str, float], int], None], ending: threading.Event) -> None:
    number, ended = 0, False
    while not ended:
        ended = ending.wait(SECONDS)
        if ended and number:
            return
        for monitor in monitors:
            monitor.collect_metrics()
        values = {name: value for monitor in monitors for name, value in monitor.aggregate_metrics().items()}
        for monitor in monitors:
            monitor.clear_metrics()
        log({f"system/{name}": float(value) for name, value in values.items()}, number)
        number += 1


def _monitors() -> list[Any]:
    """MLflow's measurements; that of the GPU where there is one, if the package nvidia-ml-py is installed."""
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    monitors = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    with suppress(ImportError, RuntimeError):
        monitors.append(GPUMonitor())
    return monitors
