"""The process of `fcos serve`: MLflow's scoring server, behind checks of who sends a request and what it contains."""

import asyncio
import html
import json
import logging
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fcos.drawing import class_color
from pipeline.errors import PipelineError
from pipeline.integrations import access, mlflow_model, mlflow_registry, mlflow_store
from pipeline.integrations.serving import Limits, Settings
from pipeline.integrations.serving_requests import (
    FAILED,
    RefusedRequestError,
    describe_mlflow_error,
    excess_of_bytes,
    to_payload,
)

# A detection uses all of the processor's cores or the GPU: two at a time would need more memory and take as long.
_DETECTIONS = 1
_BODIES = 8  # held in memory at a time; further requests wait, and their senders with them
_BODY_SECONDS = 30.0  # in which a client must send its body
_DRAINED = 8  # times the limit: what is read of a larger body, so that its sender reads the answer
_METHODS = {"/": "GET", "/health": "GET", "/ping": "GET", "/version": "GET", "/invocations": "POST"}
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "connect-src 'self'; img-src blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}
_logger = logging.getLogger(__name__)


def server_app() -> ASGIApp:
    """The application that uvicorn runs. An error that a person can fix ends the process with one line."""
    settings = Settings.from_environment()
    with _end_on_sigterm(), _exit_with_one_line(), TemporaryDirectory(prefix="fcos-") as folder:
        app, class_names = _scoring_server(settings, Path(folder))
    return ScoringApp(app, settings, class_names)


@contextmanager
def _end_on_sigterm() -> Iterator[None]:
    """Makes SIGTERM end the process while it loads, for which the handler of uvicorn would wait."""
    handler = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


@contextmanager
def _exit_with_one_line() -> Iterator[None]:
    try:
        yield
    except PipelineError as error:
        sys.stderr.write(f"fcos: {error}\n")
        sys.exit(1)


def _scoring_server(settings: Settings, folder: Path) -> tuple[ASGIApp, list[str]]:
    """MLflow's application for a detector, and the names of its classes, indexed by label.

    The files of a registered model are data: its code is not run.

    Args:
        folder: a temporary folder, which the application doesn't need.
    """
    mlflow_store.import_mlflow()
    from mlflow import pyfunc
    from mlflow.pyfunc import scoring_server

    if settings.model:
        files = mlflow_registry.download(settings.model, folder / "registered")
    else:
        files = folder / "files"
        files.mkdir()
        mlflow_model.files_of_weights(Path(settings.weights or "")).write(files)
    limit = settings.limits.megapixels
    mlflow_model.write(folder / "model", files, device=settings.device, max_megapixels=limit)
    try:
        model = pyfunc.load_model(str(folder / "model"))
    except PipelineError as error:
        for name in (mlflow_model.WEIGHTS, mlflow_model.ONNX):
            copy = str(folder / "model/artifacts" / name)
            error = PipelineError(str(error).replace(copy, settings.weights or settings.source))
        raise error from None
    app: ASGIApp = scoring_server.init(model)
    return app, model.unwrap_python_model().class_names


class ScoringApp:
    """Answers GET / with a page, and passes to MLflow's scoring server the requests that it can answer.

    Every other request gets a status of 400 or above and a JSON object of one line.
    """

    def __init__(self, app: ASGIApp, settings: Settings, class_names: Sequence[str]) -> None:
        self.app = app
        self.settings = settings
        self.page = _make_page(settings, class_names)
        self.bodies = asyncio.Semaphore(_BODIES)
        self.detections = asyncio.Semaphore(_DETECTIONS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            # MLflow gives up a request after a minute, but not its thread: the executor limits them.
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_DETECTIONS, "detection"))
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer(Request(scope, receive), send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _answer(self, request: Request, send: Send) -> None:
        try:
            self._check(request)
            if request.url.path == "/":
                response = Response(self.page, media_type="text/html", headers=_PAGE_HEADERS)
            elif request.method == "POST":
                response = Response(await self._score(request), media_type="application/json")
            else:
                await self.app(request.scope, request.receive, send)
                return
        except RefusedRequestError as refused:
            response = Response(refused.to_json(), refused.status, media_type="application/json")
        except ClientDisconnect:
            return
        except Exception:
            _logger.exception("a request failed")
            failed = RefusedRequestError(500, FAILED)
            response = Response(failed.to_json(), failed.status, media_type="application/json")
        await response(request.scope, request.receive, send)

    def _check(self, request: Request) -> None:
        if self.settings.loopback and (reason := access.foreign(request)):
            raise RefusedRequestError(403, reason)
        method = _METHODS.get(request.url.path)
        if method is None:
            raise RefusedRequestError(404, f"no such path; there are {', '.join(_METHODS)}")
        if request.method != method:
            raise RefusedRequestError(405, f"{request.url.path} has the method {method}")
        if method == "POST" and (unknown := [name for name in request.query_params if name != "score"]):
            raise RefusedRequestError(400, f"{unknown[0][:20]!r} is no parameter of {request.url.path}: there is score")

    async def _score(self, request: Request) -> bytes:
        """MLflow's answer to the images of a request."""
        limits = self.settings.limits
        headers, score = request.headers, request.query_params.get("score")
        async with self.bodies:
            body = await _read_body(request, limits)
            async with self.detections:
                kind = headers.get("content-type", "")
                payload = await asyncio.to_thread(to_payload, body, kind, score, limits)
                del body
                status, answer = await self._ask_mlflow(request, payload)
        if status == 200:
            return answer
        _logger.error("MLflow answered %s: %s", status, answer.decode(errors="replace"))
        raise describe_mlflow_error(status, answer)

    async def _ask_mlflow(self, request: Request, payload: bytes) -> tuple[int, bytes]:
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(payload))]
        requests = iter([{"type": "http.request", "body": payload}])
        status = 500
        parts: list[bytes] = []

        async def receive() -> Message:
            return next(requests, None) or await request.receive()

        async def send(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            parts.append(message.get("body", b""))

        scope: dict[str, Any] = {**request.scope, "headers": headers}
        await self.app(scope, receive, send)
        return status, b"".join(parts)


async def _read_body(request: Request, limits: Limits) -> bytes:
    """The body of a request.

    Raises:
        RefusedRequestError: it is longer than the limit, or takes too long.
    """
    limit, length = round(limits.megabytes * 1e6), 0
    parts: list[bytes] = []
    if "expect" in request.headers and int(request.headers.get("content-length", 0)) > limit:
        raise excess_of_bytes(limits)  # a client that waits for it before it sends the body
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for part in request.stream():
                length += len(part)
                if length > limit:
                    parts.clear()
                else:
                    parts.append(part)
                if length > _DRAINED * limit:
                    break
    except TimeoutError:
        raise RefusedRequestError(408, f"the body was not sent within {_BODY_SECONDS:.0f} s") from None
    if length > limit:
        raise excess_of_bytes(limits)
    return b"".join(parts)


def _make_page(settings: Settings, class_names: Sequence[str]) -> str:
    page = Path(__file__).with_name("serving_page.html").read_text(encoding="utf-8")
    limits = settings.limits
    values = {"SOURCE": settings.source, "LIMITS": f"{limits.megabytes:g} MB and {limits.megapixels:g} megapixels"}
    for name, value in values.items():
        page = page.replace(f"{{{name}}}", html.escape(value))
    colors = [(name, f"rgb{class_color(label)}") for label, name in enumerate(class_names)]
    return page.replace("{COLORS}", json.dumps(colors).replace("<", r"\u003c"))  # no </script> in the name of a class
