"""Ports of the loopback address, which every server of this project listens on."""

import socket

from pipeline.errors import PipelineError

LOOPBACK = "127.0.0.1"


def free() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def require_free(port: int) -> None:
    """Raises PipelineError when something listens on the port: servers say so late, or join it silently."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # else one that closed a minute ago still counts
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            reason = error.strerror or str(error)
            raise PipelineError(
                f"{LOOPBACK}:{port}: {reason[:1].lower()}{reason[1:]}; stop its owner, or choose another --port"
            ) from None
