"""Who may use a local server: requests as browsers, programs and attackers send them."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from pipeline.integrations.access import OwnerOnly

TOKEN = "secret-token"
COOKIE = f"fcos-token-5151={TOKEN}"
HOST = "127.0.0.1:5151"


@dataclass
class Response:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    text: str = ""


async def application(scope: Scope, _receive: Receive, send: Send) -> None:
    """Answers every request with its query."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
    else:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["query_string"]})


def ask(path: str, *headers: tuple[str, str], method: str = "GET", host: str | None = HOST) -> Response:
    """Sends a request with exactly these headers."""
    messages = send({"type": "http", "method": method}, path, *headers, host=host)
    start = messages[0]
    received = {name.decode(): value.decode() for name, value in start["headers"]}
    return Response(start["status"], received, messages[1]["body"].decode())


def send(scope: Scope, path: str, *headers: tuple[str, str], host: str | None = HOST) -> list[Any]:
    """The ASGI messages that answer a request."""
    path, _, query = path.partition("?")
    sent = [*([("host", host)] if host is not None else []), *headers]
    raw = [(name.lower().encode(), value.encode()) for name, value in sent]
    connection = {"path": path, "query_string": query.encode(), "headers": raw, "server": ("127.0.0.1", 5151)}
    messages: list[Any] = []

    async def receive() -> Any:
        raise AssertionError("the body was read")

    async def collect(message: Any) -> None:
        messages.append(message)

    asyncio.run(OwnerOnly(application, TOKEN)({"scheme": "http", **connection, **scope}, receive, collect))
    return messages


def test_the_printed_address_becomes_a_cookie_that_scripts_and_other_sites_dont_get() -> None:
    response = ask(f"/page?view=Missed+objects&token={TOKEN}")
    assert (response.status, response.headers["location"]) == (303, "http://127.0.0.1:5151/page?view=Missed+objects")
    assert response.headers["set-cookie"] == f"{COOKIE}; HttpOnly; Path=/; SameSite=strict"
    opened = ask("/page?view=Missed+objects", ("Cookie", f"other=1; {COOKIE}"))
    assert (opened.status, opened.text) == (200, "view=Missed+objects")


@pytest.mark.parametrize("path", [f"//attacker.example?token={TOKEN}", f"/@attacker.example/?token={TOKEN}"])
def test_the_redirect_stays_on_this_server(path: str) -> None:
    assert ask(path).headers["location"].startswith("http://127.0.0.1:5151/")


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("Cookie", "fcos-token-5151=secret-toke")],
        [("Cookie", "fcos-token-5151=")],
        [("Cookie", f"fcos-token-5000={TOKEN}")],  # of a server at another port
        [("Cookie", f"token={TOKEN}")],
        [("Authorization", "Bearer wrong")],
        [("Authorization", "Bearer ")],
        [("Authorization", f"Basic {TOKEN}")],
        [("Authorization", "Bearer \xff")],
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
def test_nobody_else_has_the_token(method: str, headers: list[tuple[str, str]]) -> None:
    for path in ("/page", "/page?token=wrong", "/page?token=", "/page?token=%ff", "/health"):
        response = ask(path, *headers, method=method)
        assert response.status == 403
        assert "set-cookie" not in response.headers
        assert (
            response.text == "403: paste the address that the command printed, with its token, into the address bar\n"
        )


@pytest.mark.parametrize("header", [("Cookie", COOKIE), ("Authorization", f"Bearer {TOKEN}")])
def test_a_cookie_and_a_bearer_token_pass(header: tuple[str, str]) -> None:
    for method in ("GET", "POST"):
        assert ask("/page", header, method=method).status == 200


@pytest.mark.parametrize(
    ("host", "port"),
    [
        ("127.0.0.1:5151", "5151"), ("127.0.0.1", ""), ("localhost:8080", "8080"), ("LOCALHOST:99999", "99999"),
        ("[::1]:5151", "5151"), ("[::1]", ""),
    ],
)  # fmt: skip
def test_loopback_hosts_pass(host: str, port: str) -> None:
    cookie = f"fcos-token-{port}={TOKEN}"
    response = ask(f"/page?token={TOKEN}", host=host)
    assert response.headers["set-cookie"] == f"{cookie}; HttpOnly; Path=/; SameSite=strict"
    assert response.headers["location"] == f"http://{host}/page"
    assert ask("/page", ("Cookie", cookie), host=host).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "attacker.example", "attacker.example:5151", "10.attacker.example", "192.168.attacker.example:5151",
        "127.0.0.1.attacker.example", "127.0.0.1.attacker.example:5151", "localhost.attacker.example",
        "localhost:5151.attacker.example", "attacker.example#127.0.0.1", "user@127.0.0.1:5151", "127.0.0.1:",
        "10.0.0.1:5151", "0.0.0.0:5151", "127.0.0.2:5151", "[::1].attacker.example", "[fd00::1]:5151", "::1",
        "127.0.0.1:5151 ", "127.0.0.1:5151\n", "localhost.:5151", "127.0.0.1:\N{FULLWIDTH DIGIT FIVE}", "", None,
    ],
)  # fmt: skip
def test_other_hosts_are_refused_even_with_the_token(host: str | None) -> None:
    for header in (("Cookie", COOKIE), ("Authorization", f"Bearer {TOKEN}")):
        response = ask(f"/page?token={TOKEN}", header, host=host)
        assert response.status == 403
        assert response.text == "403: the Host header doesn't name this machine's loopback interface\n"


def test_two_hosts_are_refused() -> None:
    assert ask("/page", ("Host", "attacker.example"), ("Cookie", COOKIE)).status == 403


@pytest.mark.parametrize(
    "origin", ["http://attacker.example", "http://127.0.0.1:9999", "https://127.0.0.1:5151", "null", ""]
)
def test_pages_of_other_origins_are_refused(origin: str) -> None:
    response = ask("/page", ("Cookie", COOKIE), ("Origin", origin), method="POST")
    assert (response.status, response.text) == (403, "403: a page of another origin sent the request\n")
    assert ask("/page", ("Cookie", COOKIE), ("Origin", "http://127.0.0.1:5151"), method="POST").status == 200


def test_web_sockets_are_guarded_too() -> None:
    scope, close = {"type": "websocket", "scheme": "ws"}, [{"type": "websocket.close", "code": 1008}]
    assert send(scope, "/socket", ("Cookie", COOKIE)) == [{"type": "websocket.accept"}]
    assert send(scope, "/socket") == close
    assert send(scope, f"/socket?token={TOKEN}") == close
    assert send(scope, "/socket", ("Cookie", COOKIE), host="attacker.example") == close
