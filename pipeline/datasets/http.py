"""Downloads one file from one URL over HTTP: resumes interrupted downloads, and never mixes two versions of a file."""

import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import msgspec
import requests
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from pipeline.datasets.progress import byte_bar
from pipeline.files import write_json

_CHUNK = 1 << 20  # bytes
_BUSY_STATUSES = (429, 500, 502, 503, 504)
_MAX_REDIRECTS = 10
# A younger Last-Modified may be the same for two versions of a file (RFC 9110, 8.8.2.2).
_MIN_AGE = timedelta(seconds=60)
# What requests, urllib3 and http.client raise for bad responses and networks.
_NETWORK_ERRORS = (requests.RequestException, HTTPError, HTTPException, OSError, ValueError, OverflowError)
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How long to wait for a server, and how often to repeat a request."""

    connect_timeout: float = 10.0  # seconds
    read_timeout: float = 30.0  # seconds without a byte
    min_throughput: float = 100.0  # bytes per second, averaged over read_timeout
    retries: int = 4  # of a request that gets no connection or a busy server
    resumes: int = 5  # consecutive ones without progress
    backoff: float = 1.0  # seconds before the second repetition; doubles with each one
    max_wait: int = 120  # seconds between two requests, even if Retry-After is longer

    def wait(self, failures: int) -> None:
        """Sleeps after a number of consecutive failures."""
        time.sleep(min(self.max_wait, self.backoff * 2 ** (failures - 1)) if failures else 0)


class SourceError(Exception):
    """A URL doesn't provide the file; the message says why."""


class _InterruptedError(Exception):
    """A response ended too early or doesn't fit the file; another request may succeed."""


class _TooSlowError(_InterruptedError):
    """A response is too slow; the bytes that it brought don't count as progress."""


@dataclass(frozen=True)
class Origin:
    """Where a partial file comes from, and what identifies its version."""

    url: str
    validator: str | None  # for If-Range: a strong ETag, or a Last-Modified that is old enough
    total: int | None  # bytes of the complete file, as the server states them


@dataclass(frozen=True)
class PartialFile:
    """The beginning of a file; its origin is stored in a second file beside it."""

    path: Path

    @property
    def origin_path(self) -> Path:
        return self.path.with_name(f"{self.path.name}.json")

    def length(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    def origin(self) -> Origin | None:
        """None if the file or a readable origin is missing."""
        if not self.path.is_file() or not self.origin_path.is_file():
            return None
        try:
            return msgspec.json.decode(self.origin_path.read_bytes(), type=Origin)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None

    def restart(self, origin: Origin) -> None:
        """Empties the file and sets its origin, in an order in which no bytes are ever beside another file's origin."""
        self.discard()
        write_json(self.origin_path, asdict(origin))
        self.path.touch()

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self.origin_path.unlink(missing_ok=True)


def make_session(policy: RetryPolicy) -> requests.Session:
    """A session that repeats requests without connection or with a busy server; proxies come from the environment."""
    retry = Retry(
        total=policy.retries,
        status_forcelist=_BUSY_STATUSES,
        allowed_methods={"GET"},
        backoff_factor=policy.backoff,
        backoff_max=policy.max_wait,
        retry_after_max=policy.max_wait,
        raise_on_status=False,
    )
    session = requests.Session()
    session.max_redirects = _MAX_REDIRECTS
    session.hooks["response"].append(_check_redirect)
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry))
    return session


@dataclass(frozen=True)
class Transfer:
    """The download of a URL into a partial file."""

    session: requests.Session
    url: str
    part: PartialFile
    size: int | None  # bytes, as published
    has_checksum: bool  # whether wrong bytes will be noticed afterwards
    policy: RetryPolicy

    def run(self) -> bool:
        """Repeats requests until the partial file is complete; resumes it where possible.

        Returns:
            Whether the file was joined from several responses, so that wrong bytes may come from an earlier one.

        Raises:
            SourceError: the server doesn't have the file, the disk is too small, or repeated requests make no progress.
        """
        joined, longest, failures = self.part.length() > 0, self.part.length(), 0
        while not self._is_complete():
            try:
                return self._request()
            except _InterruptedError as error:
                length, joined = self.part.length(), True
                failures = 0 if length > longest and not isinstance(error, _TooSlowError) else failures + 1
                longest = max(longest, length)
                if failures > self.policy.resumes:
                    raise SourceError(str(error)) from None
                self.policy.wait(failures)
        return joined

    def _is_complete(self) -> bool:
        """Whether an earlier run received the whole file and was interrupted before it was verified."""
        origin = self._resumable_origin()
        return origin is not None and self.part.length() == (origin.total if self.size is None else self.size)

    def _resumable_origin(self) -> Origin | None:
        """The partial file's origin, if this URL may resume it."""
        origin = self.part.origin()
        if origin is None or (self.size is not None and self.part.length() > self.size):
            return None
        return origin if self.has_checksum or (origin.url == self.url and origin.validator) else None

    def _request(self) -> bool:
        """Sends one request and stores its response; returns whether it resumed the partial file."""
        origin = self._resumable_origin()
        start = self.part.length() if origin else 0
        with self._get(origin, start) as response:
            if origin and start and response.status_code == HTTPStatus.PARTIAL_CONTENT:
                total: int | None = self._check_continuation(response, origin, start)
            else:
                total, start = self._restart(response, start), 0
            length = self._append(response, start, total)
        if total is not None and length < total:
            raise _InterruptedError(f"ended after {length:,} of {total:,} bytes")
        return start > 0

    def _get(self, origin: Origin | None, start: int) -> requests.Response:
        headers = {"Accept-Encoding": "identity"}
        if origin and start:
            headers["Range"] = f"bytes={start}-"
            if origin.validator and origin.url == self.url:
                headers["If-Range"] = origin.validator
        timeout = (self.policy.connect_timeout, self.policy.read_timeout)
        try:
            return self.session.get(self.url, headers=headers, stream=True, timeout=timeout)
        except _NETWORK_ERRORS as error:
            raise SourceError(_cause(error)) from None

    def _restart(self, response: requests.Response, start: int) -> int | None:
        """Empties the partial file for a response with the whole file; returns the file's length, if known."""
        if start and response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            self.part.discard()
            raise _InterruptedError("refuses to continue the file")
        if response.status_code != HTTPStatus.OK:
            raise SourceError(f"answers {response.status_code} {response.reason}")
        total = _content_length(response)
        self._check_total(total)
        if not self.has_checksum:
            self._check_end_is_detectable(response, total)
        free = shutil.disk_usage(self.part.path.parent).free + self.part.length()
        if self.size is None and total is not None and total > free:
            raise SourceError(f"has {total:,} bytes, and {free:,} are free on the disk")
        self.part.restart(Origin(self.url, _validator(response.headers), total))
        return total if self.size is None else self.size

    def _check_continuation(self, response: requests.Response, origin: Origin, start: int) -> int:
        """The length of the whole file, if the response is its rest from `start` on."""
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
        total = int(match[3]) if match else None
        same_file = origin.total in (None, total)
        if origin.url == self.url and origin.validator:
            same_file = same_file and _validator(response.headers) in (None, origin.validator)
        if not match or total is None or int(match[1]) != start or not same_file:
            self.part.discard()
            raise _InterruptedError("continues another file, or at another position")
        self._check_total(total)
        return total

    def _check_total(self, total: int | None) -> None:
        if total is not None and self.size is not None and total != self.size:
            raise SourceError(f"offers {total:,} bytes where {self.size:,} are published")

    def _check_end_is_detectable(self, response: requests.Response, total: int | None) -> None:
        """Without a checksum, only a length or the end of chunks tells a whole file from a truncated one."""
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise SourceError("sends it encoded, so it can't be verified without a checksum")
        if total is None and self.size is None and not _is_chunked(response):
            raise SourceError("doesn't say how long the file is; its entry needs a size or a checksum")

    def _append(self, response: requests.Response, length: int, total: int | None) -> int:
        """Appends the response's body to a partial file of `length` bytes; returns its new length."""
        throughput = Throughput(self.policy)
        with self.part.path.open("ab") as file, byte_bar(self.part.path.stem, total, done=length, delay=0) as bar:
            for chunk in _chunks(response):
                length += len(chunk)
                if total is not None and length > total:
                    self.part.discard()
                    raise _InterruptedError(f"sends more than {total:,} bytes")
                file.write(chunk)
                bar.update(len(chunk))
                throughput.add(len(chunk))
        return length


class Throughput:
    """Measures bytes per second and stops a connection that is too slow."""

    def __init__(self, policy: RetryPolicy) -> None:
        self.policy = policy
        self.start, self.received = time.monotonic(), 0

    def add(self, received: int) -> None:
        """Counts received bytes. Raises _TooSlowError if the last `read_timeout` seconds brought too few."""
        self.received += received
        elapsed = time.monotonic() - self.start
        if elapsed <= self.policy.read_timeout:
            return
        if self.received < self.policy.min_throughput * elapsed:
            raise _TooSlowError(f"sends less than {self.policy.min_throughput:g} bytes a second")
        self.start, self.received = time.monotonic(), 0


def _chunks(response: requests.Response) -> Iterator[bytes]:
    """The body as it arrives, not decoded: Range counts encoded bytes."""
    try:
        while chunk := response.raw.read1(_CHUNK, decode_content=False):
            yield chunk
    except _NETWORK_ERRORS as error:
        raise _InterruptedError(_cause(error)) from None


def _content_length(response: requests.Response) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isdecimal() and text.isascii() and not _is_chunked(response) else None


def _is_chunked(response: requests.Response) -> bool:
    return "chunked" in response.headers.get("Transfer-Encoding", "").lower()


def _validator(headers: "CaseInsensitiveDict[str]") -> str | None:
    """A value for If-Range, which must change with every byte of the file (RFC 9110, 13.1.5); None if there is none."""
    etag = headers.get("ETag", "").strip()
    if etag:
        return etag if etag.startswith('"') else None
    modified = headers.get("Last-Modified", "")
    try:
        age = parsedate_to_datetime(headers.get("Date", "")) - parsedate_to_datetime(modified)
    except (ValueError, TypeError, OverflowError):
        return None
    return modified if age >= _MIN_AGE else None


def _check_redirect(response: requests.Response, *_: object, **__: object) -> None:
    """Refuses a redirect from https to http, and discards every redirect's body."""
    if not response.is_redirect:
        return
    response.close()  # requests would read and decode the body, which may be endless or wrongly encoded
    target = urlsplit(urljoin(response.url, response.headers["Location"]))
    if response.url.startswith("https:") and target.scheme != "https":
        raise SourceError(f"redirects from https to {target.scheme}://{target.hostname}, which isn't secure")


def _cause(error: BaseException) -> str:
    """The message of the innermost network error, below the layers of requests, urllib3 and http.client."""
    prefix = "the proxy: " if isinstance(error, requests.exceptions.ProxyError) else ""
    innermost, inner = error, error.__cause__ or error.__context__
    while inner is not None:
        if isinstance(inner, (OSError, HTTPException)):
            innermost = inner
        inner = inner.__cause__ or inner.__context__
    message = innermost.strerror if isinstance(innermost, OSError) and innermost.strerror else str(innermost)
    return prefix + (message or type(innermost).__name__)
