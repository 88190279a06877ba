"""HTTP servers on the loopback for tests: one with scripted faults, one that serves a folder, and a proxy."""

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
    """Serves `content` at every path, with a fault for each of the first requests.

    Each request takes the next item of `script`: the name of a fault, or the bytes of a raw response. When the script
    is used up, the server responds without faults. `validators` are the headers that identify a version of the
    content: "ETag", "Last-Modified".
    """

    def __init__(self, content: bytes, *script: str | bytes, certificate: Path | None = None) -> None:
        self.content = content
        self.script = deque(script)
        self.validators: tuple[str, ...] = ("ETag", "Last-Modified")
        self.requests: list[tuple[str, Message]] = []
        self.stopped = threading.Event()
        self.target = ""  # the address that redirects lead to; empty: another path of this server
        self._server = _quiet_server(_Handler)
        self._server.scripted_server = self  # type: ignore[attr-defined]
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
        """The Range header of each request."""
        return [headers["Range"] for _, headers in self.requests]

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


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """Prints no traceback when a client closes the connection, which the tests do on purpose."""


def _quiet_server(handler: Callable[..., BaseHTTPRequestHandler]) -> ThreadingHTTPServer:
    return _QuietServer(("127.0.0.1", 0), handler)


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serves the files of a folder without faults, and yields the address of the server."""
    server = _quiet_server(partial(_FileHandler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _FileHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    @property
    def scripted_server(self) -> Server:
        return self.server.scripted_server  # type: ignore[attr-defined,no-any-return]

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.scripted_server.requests.append((self.path, self.headers))
        fault = self.scripted_server.script.popleft() if self.scripted_server.script else "good"
        with suppress(OSError):
            (_raw_response(fault) if isinstance(fault, bytes) else FAULTS[fault])(self)
            self.wfile.flush()

    def start(self) -> int:
        """The first byte to send: that of the Range header, or 0 if there is none or If-Range does not match."""
        condition = self.headers["If-Range"]
        if condition and condition not in self.scripted_server.headers().values():
            return 0
        return _requested_start(self)

    def send_head(self, status: int, length: int | None, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (self.scripted_server.headers() | headers).items():
            self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def respond(self, **options: object) -> None:
        """Responds correctly, except for the given ones of announced, sent, place, total, body, start and headers."""
        start = int(options.get("start", self.start()))  # type: ignore[call-overload]
        total = len(self.scripted_server.content)
        body = options.get("body", self.scripted_server.content[start:])
        assert isinstance(body, bytes)
        headers = dict(options.get("headers", {}))  # type: ignore[call-overload]
        if start >= total > 0:
            self.send_head(416, 0, {"Content-Range": f"bytes */{total}"})
            return
        if start:
            offset, length = int(options.get("offset", start)), int(options.get("total", total))  # type: ignore[call-overload]
            headers.setdefault("Content-Range", f"bytes {offset}-{length - 1}/{length}")
        announced = options.get("announced", len(body))
        self.send_head(206 if start else 200, announced, headers)  # type: ignore[arg-type]
        sent = body[: int(options.get("sent", len(body)))]  # type: ignore[call-overload]
        self.wfile.write(sent)
        if announced is None or len(sent) != announced:
            self.close_connection = True

    def respond_without_content(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"sorry")

    def remaining_content(self) -> bytes:
        return self.scripted_server.content[self.start() :]


def _cut_off(handler: _Handler) -> None:
    handler.respond(sent=(len(handler.remaining_content()) + 1) // 2)


def _reset(handler: _Handler) -> None:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    _cut_off(handler)
    handler.wfile.flush()
    handler.connection.close()


def _stall(handler: _Handler) -> None:
    _cut_off(handler)
    handler.wfile.flush()
    handler.scripted_server.stopped.wait(2)


def _no_response(handler: _Handler) -> None:
    handler.close_connection = True
    handler.scripted_server.stopped.wait(2)


def _hang_up(handler: _Handler) -> None:
    handler.close_connection = True


def _drip(handler: _Handler) -> None:
    handler.send_head(200, len(handler.scripted_server.content), {})
    for offset in range(len(handler.scripted_server.content)):
        handler.wfile.write(handler.scripted_server.content[offset : offset + 1])
        handler.wfile.flush()
        if handler.scripted_server.stopped.wait(0.02):
            break
    handler.close_connection = True


def _chunked(handler: _Handler, whole: bool) -> None:
    body = handler.scripted_server.content
    sent = body if whole else body[: len(body) // 2]
    handler.send_head(200, None, {"Transfer-Encoding": "chunked"})
    handler.wfile.write(b"%x\r\n" % len(sent) + sent + b"\r\n" + b"0\r\n\r\n" * whole)
    handler.close_connection = not whole


def _changed_content(handler: _Handler) -> None:
    """Replaces the content with another of the same length, from this request on."""
    handler.scripted_server.content = bytes(byte ^ 0x55 for byte in handler.scripted_server.content)
    handler.respond()


def _wrong_bytes(handler: _Handler) -> None:
    handler.respond(body=bytes(byte ^ 0xFF for byte in handler.remaining_content()))


def _raw_response(text: bytes) -> Callable[[_Handler], None]:
    def send(handler: _Handler) -> None:
        handler.wfile.write(text)
        handler.close_connection = True

    return send


def _redirect(handler: _Handler) -> None:
    handler.respond_without_content(302, Location=handler.scripted_server.target or f"/elsewhere{handler.path}")


def _redirect_endless(handler: _Handler) -> None:
    """Redirects with a body that never ends."""
    handler.send_response(302)
    handler.send_header("Location", f"/elsewhere{handler.path}")
    handler.send_header("Content-Length", "99999999999")
    handler.end_headers()
    handler.wfile.write(b"sorry")
    handler.wfile.flush()
    handler.close_connection = True
    handler.scripted_server.stopped.wait(2)


def _encoded(handler: _Handler) -> None:
    handler.respond(start=0, body=gzip.compress(handler.scripted_server.content), headers={"Content-Encoding": "gzip"})


def _several_ranges(handler: _Handler) -> None:
    """Sends several ranges in one body, which the client did not request."""
    if not handler.start():
        return handler.respond()
    kind = {"Content-Type": "multipart/byteranges; boundary=x", "Content-Range": ""}
    return handler.respond(headers=kind, body=b"--x\r\nContent-Range: bytes 0-1/2\r\n\r\nab\r\n--x--")


FAULTS: dict[str, Callable[[_Handler], None]] = {
    "good": _Handler.respond,
    "cut": _cut_off,
    "reset": _reset,
    "stall": _stall,
    "mute": _no_response,
    "hang up": _hang_up,
    "drip": _drip,
    "chunked": lambda handler: _chunked(handler, True),
    "chunked cut": lambda handler: _chunked(handler, False),
    "no length": lambda handler: handler.respond(start=0, announced=None),
    "no length cut": lambda handler: handler.respond(
        start=0, announced=None, sent=len(handler.scripted_server.content) // 2
    ),
    "too long": lambda handler: handler.respond(announced=len(handler.remaining_content()) + 10),
    "too short": lambda handler: handler.respond(announced=len(handler.remaining_content()) // 2),
    "more": lambda handler: handler.respond(announced=None, body=handler.remaining_content() + b"more"),
    "ignore range": lambda handler: handler.respond(start=0),
    "ignore if-range": lambda handler: handler.respond(start=_requested_start(handler)),
    "other offset": lambda handler: handler.respond(offset=0),
    "another total": lambda handler: handler.respond(total=len(handler.scripted_server.content) + 7),
    "several ranges": _several_ranges,
    "no content range": lambda handler: handler.respond(headers={"Content-Range": ""}),
    "wrong": _wrong_bytes,
    "changed": _changed_content,
    "encoded": _encoded,
    "404": lambda handler: handler.respond_without_content(404),
    "416": lambda handler: handler.respond_without_content(416, Content_Range="bytes */3"),
    "429": lambda handler: handler.respond_without_content(429, Retry_After="0"),
    "429 long": lambda handler: handler.respond_without_content(429, Retry_After="86400"),
    "503": lambda handler: handler.respond_without_content(503, Retry_After=LONG_AGO),
    "503 odd": lambda handler: handler.respond_without_content(503, Retry_After="soon"),
    "500": lambda handler: handler.respond_without_content(500),
    "204": _raw_response(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "206": _raw_response(b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-2/3\r\nContent-Length: 3\r\n\r\nabc"),
    "redirect": _redirect,
    "redirect endless": _redirect_endless,
    "nowhere": lambda handler: handler.respond_without_content(302, Location="http://[nowhere/"),
    "odd location": _raw_response(
        "HTTP/1.1 302 Found\r\nLocation: http://caf\xe9.invalid:99999/\r\n\r\n".encode("latin1")
    ),
    "other scheme": lambda handler: handler.respond_without_content(302, Location="file:///etc/passwd"),
    "portal": lambda handler: handler.respond(start=0, body=b"<html>Please log in</html>"),
    "babble": _raw_response(b"220 ready for you\r\n\r\n"),
    "odd length": _raw_response(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nabc"),
    "two lengths": _raw_response(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"),
    "odd chunk": _raw_response(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n"),
    "odd reason": _raw_response(b"HTTP/1.1 403 No\x1b[31m\xff\r\nContent-Length: 0\r\n\r\n"),
    "endless head": _raw_response(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n"),
}
SILENT_FAULTS = ("wrong", "too short", "portal")  # only a published size or checksum reveals these


def _requested_start(handler: _Handler) -> int:
    return int((handler.headers["Range"] or "bytes=0-").removeprefix("bytes=").removesuffix("-"))


class _ProxyHandler(_Handler):
    """Forwards every request to the upstream port, whatever its host."""

    def do_GET(self) -> None:
        self.server.requests.append(self.path)  # type: ignore[attr-defined]
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.upstream, timeout=5)  # type: ignore[attr-defined]
        upstream.request("GET", "/" + self.path.split("/", 3)[3], headers=dict(self.headers))
        respond = upstream.getresponse()
        try:
            body = respond.read()
        except http.client.IncompleteRead as cut:
            body, self.close_connection = cut.partial, True
        self.send_response(respond.status)
        for name, value in respond.getheaders():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        upstream.close()

    def do_CONNECT(self) -> None:
        self.server.requests.append(self.path)  # type: ignore[attr-defined]
        with socket.create_connection(("127.0.0.1", self.server.upstream)) as upstream:  # type: ignore[attr-defined]
            self.send_response(200)
            self.end_headers()
            self.wfile.flush()
            response_copier = threading.Thread(target=_copy, args=(upstream, self.connection), daemon=True)
            response_copier.start()
            _copy(self.connection, upstream)
            response_copier.join(5)
        self.close_connection = True


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while content := source.recv(65536):
            target.sendall(content)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@contextmanager
def proxy(port: int) -> Iterator[tuple[str, list[str]]]:
    """Runs a proxy that forwards every host to a loopback port; yields its address and the list of its requests."""
    server = _quiet_server(_ProxyHandler)
    server.upstream, server.requests = port, []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", server.requests  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()


def certificate(folder: Path) -> Path:
    """Writes a PEM file with a key and a self-signed certificate for 127.0.0.1 and files.example."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "files.example")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("files.example"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    signed = (
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
    path.write_bytes(secret + signed.public_bytes(serialization.Encoding.PEM))
    return path
