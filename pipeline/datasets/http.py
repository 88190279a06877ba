"""One file from one address over HTTP: continued where it was cut, and never with a byte of another file."""

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

_CHUNK = 1 << 20
_BUSY = (429, 500, 502, 503, 504)
_REDIRECTS = 10
# A Last-Modified younger than this may not tell two versions apart (RFC 9110, 8.8.2.2).
_SETTLED = timedelta(seconds=60)
# What requests, urllib3 and http.client raise for answers and networks of every kind.
_NETWORK = (requests.RequestException, HTTPError, HTTPException, OSError, ValueError, OverflowError)
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How long to wait for a server, and how often to ask again."""

    connect: float = 10.0  # seconds to a connection
    read: float = 30.0  # seconds without a byte
    slowest: float = 100.0  # bytes a second, over `read` seconds; less is a stall
    retries: int = 4  # of a request that found no connection or a busy server
    resumes: int = 5  # in a row that bring a file no further
    backoff: float = 1.0  # seconds before the second repetition; doubled before each other
    longest: int = 120  # seconds between two requests, also where Retry-After asks for more

    def wait(self, failures: int) -> None:
        time.sleep(min(self.longest, self.backoff * 2 ** (failures - 1)) if failures else 0)


class SourceError(Exception):
    """An address that doesn't give the file; the message says why."""


class _Cut(Exception):
    """An answer that ended too early or didn't fit: asking again may help."""


class _Slow(_Cut):
    """An answer that drips: what it brings is no reason for hope."""


@dataclass(frozen=True)
class Origin:
    """Where a part came from, and what tells whether the server still has the same file."""

    url: str
    validator: str | None  # an If-Range value: a strong ETag, or a Last-Modified old enough to count
    total: int | None  # bytes of the whole file, as the server says


@dataclass(frozen=True)
class Part:
    """The beginning of a file, with its origin in a file beside it."""

    path: Path

    @property
    def note(self) -> Path:
        return self.path.with_name(f"{self.path.name}.json")

    def length(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    def origin(self) -> Origin | None:
        """None where there is no part, or none that tells where it is from."""
        if not self.path.is_file() or not self.note.is_file():
            return None
        try:
            return msgspec.json.decode(self.note.read_bytes(), type=Origin)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None

    def begin(self, origin: Origin) -> None:
        """Makes it an empty one of this origin: in an order in which bytes never meet another's note."""
        self.discard()
        write_json(self.note, asdict(origin))
        self.path.touch()

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


def session(retry_policy: RetryPolicy) -> requests.Session:
    """Asks again, later and later, where there is no connection or the server is busy; proxies from the environment."""
    retry = Retry(
        total=retry_policy.retries,
        status_forcelist=_BUSY,
        allowed_methods={"GET"},
        backoff_factor=retry_policy.backoff,
        backoff_max=retry_policy.longest,
        retry_after_max=retry_policy.longest,
        raise_on_status=False,
    )
    opened = requests.Session()
    opened.max_redirects = _REDIRECTS
    opened.hooks["response"].append(_led_elsewhere)
    for scheme in ("http://", "https://"):
        opened.mount(scheme, HTTPAdapter(max_retries=retry))
    return opened


@dataclass(frozen=True)
class Transfer:
    """A file's way from an address into a part."""

    session: requests.Session
    url: str
    part: Part
    size: int | None  # bytes, as published
    checked: bool  # whether a checksum will tell if the bytes are the right ones
    retry_policy: RetryPolicy

    def run(self) -> bool:
        """Asks until the part is as long as the file; what is there already is kept where it can be continued.

        Returns:
            Whether it is put together from several answers, so that wrong bytes may not be this server's fault.

        Raises:
            SourceError: the server doesn't have the file, the disk is too small, or repeated requests make no progress.
        """
        joined, longest, failures = self.part.length() > 0, self.part.length(), 0
        while not self._complete():
            try:
                return self._once()
            except _Cut as cut:
                length, joined = self.part.length(), True
                failures = 0 if length > longest and not isinstance(cut, _Slow) else failures + 1
                longest = max(longest, length)
                if failures > self.retry_policy.resumes:
                    raise SourceError(str(cut)) from None
                self.retry_policy.wait(failures)
        return joined

    def _complete(self) -> bool:
        """Whether it was received to its end, and then something came between."""
        origin = self._continuable()
        if origin is None:
            return False
        return self.part.length() == (origin.total if self.size is None else self.size)

    def _continuable(self) -> Origin | None:
        """The part's origin, if this address may continue it."""
        origin = self.part.origin()
        if origin is None or (self.size is not None and self.part.length() > self.size):
            return None
        return origin if self.checked or (origin.url == self.url and origin.validator) else None

    def _once(self) -> bool:
        """One request, and its answer to the end; whether it continued the part."""
        origin = self._continuable()
        start = self.part.length() if origin else 0
        with self._ask(origin, start) as answer:
            if origin and start and answer.status_code == HTTPStatus.PARTIAL_CONTENT:
                total: int | None = self._continued(answer, origin, start)
            else:
                start, total = 0, self._begun(answer, start)
            length = self._append(answer, start, total)
        if total is not None and length < total:
            raise _Cut(f"ended after {length:,} of {total:,} bytes")
        return start > 0

    def _ask(self, origin: Origin | None, start: int) -> requests.Response:
        headers = {"Accept-Encoding": "identity"}
        if origin and start:
            headers["Range"] = f"bytes={start}-"
            if origin.validator and origin.url == self.url:
                headers["If-Range"] = origin.validator
        timeout = (self.retry_policy.connect, self.retry_policy.read)
        try:
            return self.session.get(self.url, headers=headers, stream=True, timeout=timeout)
        except _NETWORK as error:
            raise SourceError(_cause(error)) from None

    def _begun(self, answer: requests.Response, start: int) -> int | None:
        """Empties the part for an answer that is the whole file; its length, where it is known."""
        if start and answer.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            self.part.discard()
            raise _Cut("refuses to continue the file")
        if answer.status_code != HTTPStatus.OK:
            raise SourceError(f"answers {answer.status_code} {answer.reason}")
        total = _length(answer)
        self._expect(total)
        if not self.checked:
            self._tellable(answer, total)
        if self.size is None and total is not None:
            self._room(total)
        self.part.begin(Origin(self.url, _validator(answer.headers), total))
        return total if self.size is None else self.size

    def _continued(self, answer: requests.Response, origin: Origin, start: int) -> int:
        """The length of the whole file, of which the answer is the rest."""
        found = _RANGE.fullmatch(answer.headers.get("Content-Range", "").strip())
        total = int(found[3]) if found else None
        same = origin.total in (None, total)
        if origin.url == self.url and origin.validator:
            same = same and _validator(answer.headers) in (None, origin.validator)
        if not found or total is None or int(found[1]) != start or not same:
            self.part.discard()
            raise _Cut("continues another file, or at another place")
        self._expect(total)
        return total

    def _expect(self, total: int | None) -> None:
        if total is not None and self.size is not None and total != self.size:
            raise SourceError(f"offers {total:,} bytes where {self.size:,} are published")

    def _tellable(self, answer: requests.Response, total: int | None) -> None:
        """Without a checksum, only a length or the end of chunks tells a whole file from a cut one."""
        if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise SourceError("sends it encoded, and without a checksum nobody can tell whether it is right")
        if total is None and self.size is None and not _chunked(answer):
            raise SourceError("doesn't say how long the file is; its entry needs a size or a checksum")

    def _room(self, total: int) -> None:
        """Where only the server tells the size."""
        free = shutil.disk_usage(self.part.path.parent).free + self.part.length()
        if total > free:
            raise SourceError(f"has {total:,} bytes, and {free:,} are free on the disk")

    def _append(self, answer: requests.Response, length: int, total: int | None) -> int:
        """Writes what comes behind the part's first `length` bytes; how long it is then."""
        throughput = _Throughput(self.retry_policy)
        with self.part.path.open("ab") as file, byte_bar(self.part.path.stem, total, done=length, delay=0) as shown:
            for chunk in _chunks(answer):
                length += len(chunk)
                if total is not None and length > total:
                    self.part.discard()
                    raise _Cut(f"sends more than {total:,} bytes")
                file.write(chunk)
                shown.update(len(chunk))
                throughput.hold(len(chunk))
        return length


class _Throughput:
    """Tells a connection that drips from one that runs."""

    def __init__(self, retry_policy: RetryPolicy) -> None:
        self.retry_policy = retry_policy
        self.since, self.received = time.monotonic(), 0

    def hold(self, received: int) -> None:
        self.received += received
        elapsed = time.monotonic() - self.since
        if elapsed <= self.retry_policy.read:
            return
        if self.received < self.retry_policy.slowest * elapsed:
            raise _Slow(f"sends less than {self.retry_policy.slowest:g} bytes a second")
        self.since, self.received = time.monotonic(), 0


def _chunks(answer: requests.Response) -> Iterator[bytes]:
    """A body as it comes, as it was sent: undone encodings would not be the file that Range counts in."""
    try:
        while chunk := answer.raw.read1(_CHUNK, decode_content=False):
            yield chunk
    except _NETWORK as error:
        raise _Cut(_cause(error)) from None


def _length(answer: requests.Response) -> int | None:
    told = answer.headers.get("Content-Length", "")
    return int(told) if told.isdecimal() and told.isascii() and not _chunked(answer) else None


def _chunked(answer: requests.Response) -> bool:
    return "chunked" in answer.headers.get("Transfer-Encoding", "").lower()


def _validator(headers: "CaseInsensitiveDict[str]") -> str | None:
    """What If-Range may carry: it asks for proof that not one byte is another (RFC 9110, 13.1.5)."""
    etag = headers.get("ETag", "").strip()
    if etag:
        return etag if etag.startswith('"') else None
    modified = headers.get("Last-Modified", "")
    try:
        settled = parsedate_to_datetime(headers.get("Date", "")) - parsedate_to_datetime(modified) >= _SETTLED
    except (ValueError, TypeError, OverflowError):
        return None
    return modified if settled else None


def _led_elsewhere(answer: requests.Response, *_: object, **__: object) -> None:
    """A redirect may not lead from https to http, and what comes with it is not wanted."""
    if not answer.is_redirect:
        return
    answer.close()  # requests would read it all and undo its encoding: it may be endless, or not what it says
    target = urlsplit(urljoin(answer.url, answer.headers["Location"]))
    if answer.url.startswith("https:") and target.scheme != "https":
        raise SourceError(
            f"leads from https to {target.scheme}://{target.hostname}, where anyone could change the file"
        )


def _cause(error: BaseException) -> str:
    """What lies under the layers of three libraries: the innermost that still speaks of networks."""
    prefix = "the proxy: " if isinstance(error, requests.exceptions.ProxyError) else ""
    told, inner = error, error.__cause__ or error.__context__
    while inner is not None:
        if isinstance(inner, (OSError, HTTPException)):
            told = inner
        inner = inner.__cause__ or inner.__context__
    words = told.strerror if isinstance(told, OSError) and told.strerror else str(told)
    return prefix + (words or type(told).__name__)
