"""Restricts a local server to the person who started it: an ASGI middleware.

Every user of a machine can connect to 127.0.0.1, and a web page can too, by DNS rebinding. Therefore a request needs

- a Host header that names the loopback interface, which a rebound name doesn't,
- the server's token, which only the printed address contains. The first request exchanges it for a cookie, so that it
  leaves the address bar. Programs send it as `Authorization: Bearer TOKEN`.
- no Origin header, or the server's own: a cookie's SameSite attribute doesn't distinguish the ports of a host.
"""

import os
import re
import secrets

from starlette.datastructures import URL
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

TOKEN_VARIABLE = "FCOS_SERVER_TOKEN"  # environment variable; other users can read a process's command line
PARAMETER = "token"  # of the printed address
_LOOPBACK_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)


def owner_only(app: ASGIApp) -> ASGIApp:
    """The application behind `OwnerOnly`, in a process that `servers.run_server` started."""
    return OwnerOnly(app, os.environ[TOKEN_VARIABLE])


class OwnerOnly:
    """Passes the requests of the server's owner to an application, and answers 403 to all others."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app = app
        self.token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        response = self._response(HTTPConnection(scope))
        if response is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await response(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})  # servers turn it into 403

    def _response(self, request: HTTPConnection) -> Response | None:
        """The response to a request that the application must not see; None if it may."""
        if reason := foreign(request):
            return _forbidden(reason)
        if self._is_token(request.query_params.get(PARAMETER, "")):
            return self._exchange(request)
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self._is_token(request.cookies.get(_cookie(request), "")) or self._is_token(bearer):
            return None
        # A link on another site doesn't do: the browser would leave out the cookie after the redirect.
        return _forbidden("paste the address that the command printed, with its token, into the address bar")

    def _is_token(self, value: str) -> bool:
        return secrets.compare_digest(value.encode(), self.token.encode())

    def _exchange(self, request: HTTPConnection) -> Response:
        """Sets the cookie, and redirects to the same address without the token."""
        page = URL(scope=request.scope).remove_query_params(PARAMETER)  # its host is the Host header, checked above
        response = RedirectResponse(page, status_code=303, headers={"Cache-Control": "no-store"})
        response.set_cookie(_cookie(request), self.token, httponly=True, samesite="strict")
        return response


def foreign(request: HTTPConnection) -> str | None:
    """Why a request doesn't come from this machine or from a page of the server itself; None if it does."""
    hosts = request.headers.getlist("host")
    if len(hosts) != 1 or not _LOOPBACK_HOST.fullmatch(hosts[0]):
        return "the Host header doesn't name this machine's loopback interface"
    if request.headers.get("origin", f"http://{hosts[0]}") != f"http://{hosts[0]}":
        return "a page of another origin sent the request"
    return None


def _cookie(request: HTTPConnection) -> str:
    """The cookie's name, with the port: browsers send a cookie to all ports of a host."""
    port = request.headers["host"].rpartition("]")[2].partition(":")[2]
    return f"fcos-token-{port}"


def _forbidden(reason: str) -> Response:
    return PlainTextResponse(f"403: {reason}\n", status_code=403, headers={"Cache-Control": "no-store"})
