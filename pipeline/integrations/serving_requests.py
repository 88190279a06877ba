"""Requests to a served detector: what a body may be, and the payload that MLflow's scoring server gets of it."""

import base64
import binascii
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import msgspec

from pipeline.data.image_files import DECODING_ERRORS, PixelLimit, describe_decoding_error, open_image_file
from pipeline.errors import count_noun, escape_line_breaks
from pipeline.integrations.serving import Limits

_JSON_BODY = '{"dataframe_records": [{"image": "BASE64"}]}'
FAILED = "the detection failed; the server's log has the reason"
_ERROR_CODES = {
    400: "BAD_REQUEST",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    408: "REQUEST_TIMEOUT",
    413: "CONTENT_TOO_LARGE",
    415: "UNSUPPORTED_MEDIA_TYPE",
    500: "INTERNAL_ERROR",
    504: "DEADLINE_EXCEEDED",
}
_Score = Annotated[float, msgspec.Meta(ge=0, le=1)]


@dataclass
class RefusedRequestError(Exception):
    """A request that gets no detections; the message is for the client, and names nothing of the server."""

    status: int
    message: str

    def to_json(self) -> bytes:
        """One line, with the keys of MLflow's errors."""
        error = {"error_code": _ERROR_CODES[self.status], "message": escape_line_breaks(self.message)}
        return msgspec.json.encode(error) + b"\n"


class _Record(msgspec.Struct, forbid_unknown_fields=True):
    image: str


class _Split(msgspec.Struct, forbid_unknown_fields=True):
    data: list[list[str]]
    columns: list[str]
    index: msgspec.Raw = msgspec.Raw()


class _Params(msgspec.Struct, forbid_unknown_fields=True):
    score: _Score | None = None


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    """MLflow's request for a data frame: one of the two, and parameters."""

    dataframe_records: list[_Record] | None = None
    dataframe_split: _Split | None = None
    params: _Params | None = None


def to_payload(body: bytes, content_type: str, score: str | None, limits: Limits) -> bytes:
    """Checks a request, and returns the JSON that MLflow's scoring server gets of it.

    Args:
        body: JSON with images in base64, or one encoded image.
        content_type: the request's header.
        score: of the query; None to use the detector's score thresholds, or the JSON's.

    Raises:
        RefusedRequestError: the body is of another kind, or exceeds a limit; no pixel has been decoded.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/json":
        images, params = _parse_json(body)
    elif kind.startswith("image/") or kind == "application/octet-stream":
        images, params = [body], None
    else:
        raise RefusedRequestError(
            415, f"the Content-Type is {kind or 'missing'}, but must be application/json, or image/… for an image file"
        )
    if not images:
        raise RefusedRequestError(400, "the request contains no image")
    if len(images) > limits.images:
        problem = f"{count_noun(len(images), 'image')}, more than the limit of {limits.images}"
        raise RefusedRequestError(413, f"{problem}: send several requests, or start the server with --max-images")
    for number, image in enumerate(images, start=1):
        _check_image(image, f"image {number}", limits)
    params = _Params(_parse_score(score)) if score is not None else params
    data = [[base64.b64encode(image).decode()] for image in images]
    payload = {"dataframe_split": {"columns": ["image"], "data": data}}
    if params and params.score is not None:
        payload["params"] = {"score": params.score}
    return msgspec.json.encode(payload)


def _parse_json(body: bytes) -> tuple[list[bytes], _Params | None]:
    try:
        request = msgspec.json.decode(body, type=_Body)
    except msgspec.ValidationError as error:
        raise RefusedRequestError(400, f"{error}; a request is {_JSON_BODY}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RefusedRequestError(400, f"not JSON: {error}; a request is {_JSON_BODY}") from None
    if (request.dataframe_records is None) == (request.dataframe_split is None):
        problem = "neither" if request.dataframe_records is None else "both"
        raise RefusedRequestError(
            400, f"{problem} of dataframe_records and dataframe_split: give one; a request is {_JSON_BODY}"
        )
    texts = [record.image for record in request.dataframe_records or ()]
    if request.dataframe_split:
        texts = _texts_of_split(request.dataframe_split)
    return [_decode_base64(text, f"image {number}") for number, text in enumerate(texts, start=1)], request.params


def _texts_of_split(split: _Split) -> list[str]:
    if split.columns != ["image"]:
        raise RefusedRequestError(400, f"the columns are {split.columns}, but the only one must be image"[:200])
    if any(len(row) != 1 for row in split.data):
        raise RefusedRequestError(400, "a row of dataframe_split.data has other than one value")
    return [text for (text,) in split.data]


def _decode_base64(text: str, name: str) -> bytes:
    """Decodes base64 with line breaks, as MLflow's own clients write it."""
    try:
        return base64.b64decode("".join(text.split()) if "\n" in text else text, validate=True)
    except (binascii.Error, ValueError):
        hint = ": without `data:image/…;base64,`" if text.startswith("data:") else ""
        raise RefusedRequestError(400, f"{name}: not base64{hint}") from None


def _parse_score(text: str) -> float:
    try:
        score: float = msgspec.convert(text, _Score, strict=False)
    except msgspec.ValidationError:
        raise RefusedRequestError(400, f"score is {text[:20]!r}, but must be a number from 0 to 1") from None
    return score


def _check_image(content: bytes, name: str, limits: Limits) -> None:
    """Reads the header of an image."""
    limit = PixelLimit(limits.megapixels, "fcos serve --max-megapixels ")
    with TemporaryDirectory(prefix="fcos-") as folder:
        path = Path(folder, "image")
        path.write_bytes(content)
        try:
            with open_image_file(path) as image:
                excess = image.describe_excess(limit)
        except DECODING_ERRORS as error:
            reason = describe_decoding_error(error, path)
            raise RefusedRequestError(400, f"{name}: can't be decoded as an image: {reason}") from None
    if excess:
        raise RefusedRequestError(413, f"{name}: {excess}")


def excess_of_bytes(limits: Limits) -> RefusedRequestError:
    return RefusedRequestError(
        413, f"the request has more than the limit of {limits.megabytes:g} MB; fcos serve --max-megabytes raises it"
    )


def describe_mlflow_error(status: int, body: bytes) -> RefusedRequestError:
    """The error of MLflow's scoring server without its traceback, its data and its paths."""
    if status == 504:
        return RefusedRequestError(504, "the detection took too long: send fewer images, or smaller ones")
    try:
        message = str(msgspec.json.decode(body)["message"])
    except (msgspec.DecodeError, KeyError, TypeError):
        message = ""
    # What the detector says of an image follows the data; a traceback says that the error is the server's.
    _, separator, reason = message.rpartition("\nError: ")
    if status == 400 and separator and b'"stack_trace"' not in body:
        return RefusedRequestError(400, reason)
    return RefusedRequestError(500, FAILED)
