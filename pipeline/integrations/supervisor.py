"""Runs a server, and stops it with all its child processes once the processes that use it have ended or were killed.

A script that imports nothing of this project, so that it starts in milliseconds: `supervisor.py USERS COMMAND...`.
USERS is the descriptor of a pipe, whose other end only the user of the server has open, or the path of a file, on
which each user holds a shared lock. When a process ends, in whatever way, the kernel closes its end and its lock.

A second process, the guard, waits in the same way for the end of this one, and stops the server if it was killed.
"""

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

STOP_SECONDS = 10.0  # between SIGTERM and SIGKILL


def main(users: str, *command: str) -> None:
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    supervisor = os.getpid()
    guard, to_guard = _start_guard()
    server = subprocess.Popen(command, process_group=0, preexec_fn=lambda: _die_with(supervisor))
    try:
        with suppress(BrokenPipeError):  # the guard was killed
            os.write(to_guard, f"{server.pid}".encode())
        threading.Thread(target=_stop_without_users, args=[users, threading.get_ident()], daemon=True).start()
        status = server.wait()
        sys.exit(status if status >= 0 else 128 - status)
    finally:
        _stop(server)
        os.kill(guard, signal.SIGKILL)
        os.waitpid(guard, 0)


def _start_guard() -> tuple[int, int]:
    """Starts the guard; returns its process id, and the descriptor that the server's process id is to be written to.

    It has a process group of its own, so that no signal to the group of this process ends both.
    """
    read, write = os.pipe()
    if guard := os.fork():
        os.close(read)
        return guard, write
    os.setpgid(0, 0)
    os.close(write)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    server = os.read(read, 20)  # nothing if the supervisor was killed before: then `_die_with` ends the server
    os.read(read, 1)  # until the supervisor ends
    if server:
        _stop_group(int(server))
    os._exit(0)


def _stop_group(group: int) -> None:
    """Stops all processes of a group whose leader is no child process of this one."""
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline:
            time.sleep(0.05)
            os.killpg(group, 0)  # raises once there is none
        os.killpg(group, signal.SIGKILL)


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
