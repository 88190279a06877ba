"""Runs a server, and stops it with all its child processes once the processes that use it have ended or were killed.

A script that imports nothing of this project, so that it starts in milliseconds: `supervisor.py USERS COMMAND...`.
USERS is the descriptor of a pipe, whose other end only the user of the server has open, or the path of a file, on
which each user holds a shared lock. When a process ends, in whatever way, the kernel closes its end and its lock.
"""

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

STOP_SECONDS = 10.0  # between SIGTERM and SIGKILL


def main(users: str, *command: str) -> None:
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    supervisor = os.getpid()
    server = subprocess.Popen(command, process_group=0, preexec_fn=lambda: _die_with(supervisor))
    try:
        threading.Thread(target=_stop_without_users, args=[users, threading.get_ident()], daemon=True).start()
        status = server.wait()
        sys.exit(status if status >= 0 else 128 - status)
    finally:
        _stop(server)


def _die_with(supervisor: int) -> None:
    """Makes Linux send SIGTERM to this process, which is about to become the server, if the supervisor is killed."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Python's handler only makes a note, which exec forgets
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
    if os.getppid() != supervisor:  # killed before the line above
        os._exit(1)


def _stop_without_users(users: str, main_thread: int) -> None:
    """Waits until there are no users, and interrupts the main thread. It keeps the lock until this process ends."""
    if users.isdecimal():
        os.read(int(users), 1)
    else:
        fcntl.flock(os.open(users, os.O_RDWR), fcntl.LOCK_EX)
    signal.pthread_kill(main_thread, signal.SIGTERM)


def _stop(server: subprocess.Popen[bytes]) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with suppress(subprocess.TimeoutExpired):
            server.wait(STOP_SECONDS)


if __name__ == "__main__":
    main(*sys.argv[1:])
