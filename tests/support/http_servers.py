"""Servers on the loopback that misbehave as real ones do: cut, stall, lie, redirect, send other bytes; and a proxy."""

import datetime
import gzip
import http.client
import ipaddress
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email.message import Message
from functools import partial
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

LONG_AGO = "Mon, 01 Jan 2024 00:00:00 GMT"


class Server:
    """Serves `content` at every path. Each request plays the next fault of `script`, or gets its bytes as they
    stand there; after the last it is a good server.

    `validators` are the headers that tell its content from another: "ETag", "Last-Modified".
    """

    def __init__(self, content: bytes, *script: str | bytes, certificate: Path | None = None) -> None:
        self.content = content
        self.script = deque(script)
        self.validators: tuple[str, ...] = ("ETag", "Last-Modified")
        self.asked: list[tuple[str, Message]] = []
        self.stopped = threading.Event()
        self.target = ""  # where redirects lead
        self._server = _quiet_server(_Handler)
        self._server.play = self  # type: ignore[attr-defined]
        self.scheme = "https" if certificate else "http"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def ranges(self) -> list[str | None]:
        """What each request asked for."""
        return [headers["Range"] for _, headers in self.asked]

    def url(self, name: str = "a.bin") -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/{name}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self._server.shutdown()
        self._server.server_close()

    def headers(self) -> dict[str, str]:
        known = {"ETag": f'"{sha256(self.content).hexdigest()[:8]}"', "Last-Modified": LONG_AGO}
        return {name: known[name] for name in self.validators}


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are what these tests are about."""


def _quiet_server(handler: Callable[..., BaseHTTPRequestHandler]) -> ThreadingHTTPServer:
    return _Quiet(("127.0.0.1", 0), handler)


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address of a server that gives out a folder's files, and behaves."""
    server = _quiet_server(partial(_Files, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Files(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    @property
    def play(self) -> Server:
        return self.server.play  # type: ignore[attr-defined,no-any-return]

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.play.asked.append((self.path, self.headers))
        fault = self.play.script.popleft() if self.play.script else "good"
        with suppress(OSError):
            (_raw(fault) if isinstance(fault, bytes) else FAULTS[fault])(self)
            self.wfile.flush()

    def start(self) -> int:
        """Where the asked range begins, if it may be given."""
        asked, given = self.headers["Range"], self.headers["If-Range"]
        if not asked or (given and given not in self.play.headers().values()):
            return 0
        return int(asked.removeprefix("bytes=").removesuffix("-"))

    def head(self, status: int, length: int | None, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (self.play.headers() | headers).items():
            self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def answer(self, **how: object) -> None:
        """As a good server does, but for what is given: announced, sent, place, total, body, start, headers."""
        start = int(how.get("start", self.start()))  # type: ignore[call-overload]
        total = len(self.play.content)
        body = how.get("body", self.play.content[start:])
        assert isinstance(body, bytes)
        headers = dict(how.get("headers", {}))  # type: ignore[call-overload]
        if start >= total > 0:
            self.head(416, 0, {"Content-Range": f"bytes */{total}"})
            return
        if start:
            place, length = int(how.get("place", start)), int(how.get("total", total))  # type: ignore[call-overload]
            headers.setdefault("Content-Range", f"bytes {place}-{length - 1}/{length}")
        announced = how.get("announced", len(body))
        self.head(206 if start else 200, announced, headers)  # type: ignore[arg-type]
        sent = body[: int(how.get("sent", len(body)))]  # type: ignore[call-overload]
        self.wfile.write(sent)
        if announced is None or len(sent) != announced:
            self.close_connection = True

    def refuse(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"sorry")

    def rest(self) -> bytes:
        return self.play.content[self.start() :]


def _cut(handler: _Handler) -> None:
    handler.answer(sent=(len(handler.rest()) + 1) // 2)


def _reset(handler: _Handler) -> None:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    _cut(handler)
    handler.wfile.flush()
    handler.connection.close()


def _stall(handler: _Handler) -> None:
    _cut(handler)
    handler.wfile.flush()
    handler.play.stopped.wait(2)


def _mute(handler: _Handler) -> None:
    handler.close_connection = True
    handler.play.stopped.wait(2)


def _hang_up(handler: _Handler) -> None:
    handler.close_connection = True


def _drip(handler: _Handler) -> None:
    handler.head(200, len(handler.play.content), {})
    for place in range(len(handler.play.content)):
        handler.wfile.write(handler.play.content[place : place + 1])
        handler.wfile.flush()
        if handler.play.stopped.wait(0.02):
            break
    handler.close_connection = True


def _chunked(handler: _Handler, whole: bool) -> None:
    body = handler.play.content
    sent = body if whole else body[: len(body) // 2]
    handler.head(200, None, {"Transfer-Encoding": "chunked"})
    handler.wfile.write(b"%x\r\n" % len(sent) + sent + b"\r\n" + b"0\r\n\r\n" * whole)
    handler.close_connection = not whole


def _changed(handler: _Handler) -> None:
    """From now on another file of the same length."""
    handler.play.content = bytes(byte ^ 0x55 for byte in handler.play.content)
    handler.answer()


def _wrong(handler: _Handler) -> None:
    handler.answer(body=bytes(byte ^ 0xFF for byte in handler.rest()))


def _raw(text: bytes) -> Callable[[_Handler], None]:
    def play(handler: _Handler) -> None:
        handler.wfile.write(text)
        handler.close_connection = True

    return play


def _redirect(handler: _Handler) -> None:
    handler.refuse(302, Location=handler.play.target or f"/elsewhere{handler.path}")


def _redirect_endless(handler: _Handler) -> None:
    """What comes with it never ends."""
    handler.send_response(302)
    handler.send_header("Location", f"/elsewhere{handler.path}")
    handler.send_header("Content-Length", "99999999999")
    handler.end_headers()
    handler.wfile.write(b"sorry")
    handler.wfile.flush()
    handler.close_connection = True
    handler.play.stopped.wait(2)


def _encoded(handler: _Handler) -> None:
    handler.answer(start=0, body=gzip.compress(handler.play.content), headers={"Content-Encoding": "gzip"})


def _ranges(handler: _Handler) -> None:
    """Several ranges in one body, as nobody asked for."""
    if not handler.start():
        return handler.answer()
    kind = {"Content-Type": "multipart/byteranges; boundary=x", "Content-Range": ""}
    return handler.answer(headers=kind, body=b"--x\r\nContent-Range: bytes 0-1/2\r\n\r\nab\r\n--x--")


FAULTS: dict[str, Callable[[_Handler], None]] = {
    "good": _Handler.answer,
    "cut": _cut,
    "reset": _reset,
    "stall": _stall,
    "mute": _mute,
    "hang up": _hang_up,
    "drip": _drip,
    "chunked": lambda handler: _chunked(handler, True),
    "chunked cut": lambda handler: _chunked(handler, False),
    "no length": lambda handler: handler.answer(start=0, announced=None),
    "no length cut": lambda handler: handler.answer(start=0, announced=None, sent=len(handler.play.content) // 2),
    "too long": lambda handler: handler.answer(announced=len(handler.rest()) + 10),
    "too short": lambda handler: handler.answer(announced=len(handler.rest()) // 2),
    "more": lambda handler: handler.answer(announced=None, body=handler.rest() + b"more"),
    "ignore range": lambda handler: handler.answer(start=0),
    "ignore if-range": lambda handler: handler.answer(start=_asked(handler)),
    "another place": lambda handler: handler.answer(place=0),
    "another total": lambda handler: handler.answer(total=len(handler.play.content) + 7),
    "several ranges": _ranges,
    "no content range": lambda handler: handler.answer(headers={"Content-Range": ""}),
    "wrong": _wrong,
    "changed": _changed,
    "encoded": _encoded,
    "404": lambda handler: handler.refuse(404),
    "416": lambda handler: handler.refuse(416, Content_Range="bytes */3"),
    "429": lambda handler: handler.refuse(429, Retry_After="0"),
    "429 long": lambda handler: handler.refuse(429, Retry_After="86400"),
    "503": lambda handler: handler.refuse(503, Retry_After=LONG_AGO),
    "503 odd": lambda handler: handler.refuse(503, Retry_After="soon"),
    "500": lambda handler: handler.refuse(500),
    "204": _raw(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "206": _raw(b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-2/3\r\nContent-Length: 3\r\n\r\nabc"),
    "redirect": _redirect,
    "redirect endless": _redirect_endless,
    "nowhere": lambda handler: handler.refuse(302, Location="http://[nowhere/"),
    "odd place": _raw("HTTP/1.1 302 Found\r\nLocation: http://caf\xe9.invalid:99999/\r\n\r\n".encode("latin1")),
    "other scheme": lambda handler: handler.refuse(302, Location="file:///etc/passwd"),
    "portal": lambda handler: handler.answer(start=0, body=b"<html>Please log in</html>"),
    "babble": _raw(b"220 ready for you\r\n\r\n"),
    "odd length": _raw(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nabc"),
    "two lengths": _raw(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"),
    "odd chunk": _raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n"),
    "odd reason": _raw(b"HTTP/1.1 403 No\x1b[31m\xff\r\nContent-Length: 0\r\n\r\n"),
    "endless head": _raw(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n"),
}
LIES = ("wrong", "too short", "portal")  # nothing but a size or a checksum tells


def _asked(handler: _Handler) -> int:
    return int((handler.headers["Range"] or "bytes=0-").removeprefix("bytes=").removesuffix("-"))


class _ProxyHandler(_Handler):
    """Whatever host is asked for, it asks the server at the port it was made for."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.upstream, timeout=5)  # type: ignore[attr-defined]
        upstream.request("GET", "/" + self.path.split("/", 3)[3], headers=dict(self.headers))
        answer = upstream.getresponse()
        try:
            body = answer.read()
        except http.client.IncompleteRead as cut:
            body, self.close_connection = cut.partial, True
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        upstream.close()

    def do_CONNECT(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        with socket.create_connection(("127.0.0.1", self.server.upstream)) as upstream:  # type: ignore[attr-defined]
            self.send_response(200)
            self.end_headers()
            self.wfile.flush()
            back = threading.Thread(target=_pump, args=(upstream, self.connection), daemon=True)
            back.start()
            _pump(self.connection, upstream)
            back.join(5)
        self.close_connection = True


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while content := source.recv(65536):
            sink.sendall(content)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


@contextmanager
def proxy(port: int) -> Iterator[tuple[str, list[str]]]:
    """A proxy that finds every host at this port of the loopback: its address, and what it is asked for."""
    server = _quiet_server(_ProxyHandler)
    server.upstream, server.asked = port, []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", server.asked  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()


def certificate(folder: Path) -> Path:
    """A key and a certificate of its own for 127.0.0.1 and files.example, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "files.example")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("files.example"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / "certificate.pem"
    path.write_bytes(secret + made.public_bytes(serialization.Encoding.PEM))
    return path
