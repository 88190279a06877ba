"""Where the processes that a test starts listen for connections."""

import os
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from tests.support import warm_python
from tests.support.process_trees import descendants

_SECONDS = 0.02  # between two looks
# Of linux/netlink.h, linux/sock_diag.h and net/tcp_states.h.
_SOCK_DIAG, _BY_FAMILY, _DUMP, _DONE, _LISTEN = 4, 20, 0x301, 3, 10


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
    """The addresses of all listening TCP sockets of the machine, by the sockets' inodes; see man 7 sock_diag.

    A look at /proc/net/tcp, which has the other sockets too, takes 70 times as long: a third of a core for each test.
    """
    sockets: dict[str, IPv4Address | IPv6Address] = {}
    for family, length in ((socket.AF_INET, 4), (socket.AF_INET6, 16)):
        with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _SOCK_DIAG) as netlink:
            request = struct.pack("=4BI48x", family, socket.IPPROTO_TCP, 0, 0, 1 << _LISTEN)
            netlink.send(struct.pack("=IHHII", 16 + len(request), _BY_FAMILY, _DUMP, 0, 0) + request)
            kind = _BY_FAMILY
            while kind == _BY_FAMILY:
                messages = netlink.recv(1 << 16)
                while messages and kind == _BY_FAMILY:
                    size, kind = struct.unpack_from("=IH", messages)
                    message, messages = messages[16:size], messages[size + -size % 4 :]
                    if kind == _BY_FAMILY:
                        address = ip_address(message[8 : 8 + length])
                        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
                        sockets[str(int.from_bytes(message[68:72], sys.byteorder))] = mapped or address
            assert kind == _DONE, f"the kernel answers with message {kind}"
    return sockets


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
