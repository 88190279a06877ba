"""FiftyOne's App as a web application, for the user who started it. It serves no file but images of datasets."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from pipeline.integrations import access, mongo

_IN_DVC_CACHE = re.compile(r"/files/md5/[0-9a-f]{2}/[0-9a-f]{30}$")


def server_app() -> ASGIApp:
    """FiftyOne's web application; its route `/media` serves images of this project's datasets, not any file.

    FiftyOne's own server process adds nothing that is needed here.
    """
    mongo.shorten_fiftyone_import()
    from fiftyone.server.app import app
    from starlette.routing import Route

    (media,) = (route for route in app.routes if isinstance(route, Route) and route.path == "/media")
    media.app = _DatasetImages(media.app)
    return access.owner_only(app)


class _DatasetImages:
    """Passes requests for images of this project's datasets to FiftyOne's route `/media`, and answers 403 to others."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = Request(scope).query_params.get("filepath")
        allowed = path is None or await run_in_threadpool(lambda: is_dataset_image(path, _image_folders()))
        app = self.app if allowed else PlainTextResponse("403: not an image of a dataset\n", status_code=403)
        await app(scope, receive, send)


def _image_folders() -> list[Path]:
    """The folders of the datasets that `refresh` has built."""
    from fiftyone.core.odm import get_db_conn

    return [Path(folder) for folder in get_db_conn()["datasets"].distinct("info.images")]


def is_dataset_image(path: str, folders: Iterable[Path]) -> bool:
    """Whether the path is in one of the folders, and doesn't lead out of it through `..` or symbolic links.

    A link into DVC's cache is accepted: `cache.type symlink` makes all files of an output such links.
    """
    if "\0" in path:
        return False
    file, real = Path(os.path.normpath(path)), os.path.realpath(path)
    cached = _IN_DVC_CACHE.search(real) is not None
    return any(
        file.is_relative_to(folder) and (cached or Path(real).is_relative_to(folder.resolve())) for folder in folders
    )
