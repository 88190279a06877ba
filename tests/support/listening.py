"""Where the processes that a test starts listen for connections."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from tests.support import warm_python
from tests.support.process_trees import descendants

_LISTEN = "0A"
_SECONDS = 0.02  # between two looks


@contextmanager
def loopback_only() -> Iterator[set[str]]:
    """Checks that this process and all that it starts listen on no TCP address but loopback, while the context lasts.

    Yields:
        A set that the addresses, all of them loopback's, are added to.

    Raises:
        AssertionError: a process listened on another address.
    """
    addresses: set[str] = set()
    if sys.platform != "linux":
        yield addresses
        return
    ended = threading.Event()
    watching = threading.Thread(target=_watch, args=(addresses, ended), daemon=True)
    watching.start()
    try:
        yield addresses
    finally:
        ended.set()
        watching.join()
    foreign = {address for address in addresses if not ip_address(address).is_loopback}
    assert not foreign, f"listened on {foreign}"


def _watch(addresses: set[str], ended: threading.Event) -> None:
    known = set(_listening_sockets())
    while not ended.wait(_SECONDS):
        sockets = _listening_sockets()
        if new := sockets.keys() - known:
            known |= new
            own = _sockets_of_this_process_tree()
            addresses.update(str(sockets[inode]) for inode in new & own)


def _listening_sockets() -> dict[str, IPv4Address | IPv6Address]:
    """The addresses of all listening TCP sockets of the machine, by the sockets' inodes."""
    sockets = {}
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        with suppress(FileNotFoundError):  # no IPv6
            for line in table.read_text().splitlines()[1:]:
                _, local, _, state, *_, inode = line.split()[:10]
                if state == _LISTEN:
                    sockets[inode] = _address(local.partition(":")[0])
    return sockets


def _address(text: str) -> IPv4Address | IPv6Address:
    """Decodes 32-bit words in the byte order of the machine: 0100007F is 127.0.0.1."""
    words = [bytes.fromhex(text[start : start + 8]) for start in range(0, len(text), 8)]
    packed = b"".join(word[::-1] if sys.byteorder == "little" else word for word in words)
    address = ip_address(packed)
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def _sockets_of_this_process_tree() -> set[str]:
    """The inodes of the sockets of this process, and of all that it starts."""
    inodes = set()
    roots = [os.getpid(), *warm_python.running()]
    for pid in [*roots, *(process.pid for root in roots for process in descendants(root))]:
        with suppress(OSError):  # the process has ended
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):
                    inodes.add(str(descriptor.readlink()).removeprefix("socket:[").removesuffix("]"))
    return inodes
