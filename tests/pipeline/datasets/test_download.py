"""Downloads from misbehaving servers on the loopback, through a proxy and from mirrors, and files placed by hand."""

import errno
import io
import os
import re
import subprocess
import sys
import threading
import time
from hashlib import md5, sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.datasets.download import fetch
from pipeline.datasets.http import RetryPolicy
from pipeline.datasets.registry import DataFile
from pipeline.errors import PipelineError
from tests.support.http_servers import FAULTS, SILENT_FAULTS, Server, certificate, proxy

CONTENT = bytes(range(256)) * 40 + b"the end"
FAST_RETRIES = RetryPolicy(
    connect_timeout=2.0, read_timeout=0.2, min_throughput=1000.0, retries=2, resumes=2, backoff=0.001, max_wait=1
)


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def make_file(*urls: str, content: bytes = CONTENT, **other: Any) -> DataFile:
    fields = {"name": "a.bin", "size": len(content), "checksum": f"sha256:{sha256(content).hexdigest()}"}
    return DataFile(**(fields | {"urls": urls} | other))


def fetch_content(into: Path, file: DataFile, **options: Any) -> bytes:
    """Fetches a file and returns its content; the folder then holds no other files but the lock."""
    paths = fetch([file], into, retry_policy=FAST_RETRIES, **options)
    assert paths == [into / file.name]
    assert {path.name for path in into.iterdir()} == {file.name, ".lock"}
    return paths[0].read_bytes()


def fetch_error(into: Path, *files: DataFile, **options: Any) -> str:
    """Returns the one-line error of a download that fails and leaves none of the files."""
    with pytest.raises(PipelineError) as caught:
        fetch(files, into, retry_policy=FAST_RETRIES, **options)
    line = str(caught.value)
    assert line.isprintable()
    assert not any((into / file.name).exists() for file in files)
    return line


def test_several_files_in_order(tmp_path: Path) -> None:
    with Server(CONTENT) as server:
        files = [make_file(server.url(name), name=name) for name in ("b.zip", "a.zip")]
        assert fetch(files, tmp_path / "new" / "folder") == [tmp_path / "new" / "folder" / f.name for f in files]
        assert [path for path, _ in server.requests] == ["/b.zip", "/a.zip"]


def test_existing_files_are_not_fetched_again(tmp_path: Path) -> None:
    with Server(CONTENT) as server:
        for _ in range(2):
            assert fetch_content(tmp_path, make_file(server.url())) == CONTENT
        assert len(server.requests) == 1


def test_a_file_placed_by_hand_needs_no_network(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(CONTENT)
    (tmp_path / "a.bin.part").write_bytes(CONTENT[:9])  # left by an interrupted download
    assert fetch_content(tmp_path, make_file("http://127.0.0.1:9/a.bin")) == CONTENT
    assert fetch_content(tmp_path, make_file()) == CONTENT


@pytest.mark.parametrize(("content", "message"), [(b"short", "5 bytes where 10,247"), (CONTENT[::-1], "has sha256 ")])
def test_a_wrong_file_placed_by_hand_is_reported_and_kept(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.bin").write_bytes(content)
    with pytest.raises(PipelineError) as caught:
        fetch([make_file("http://127.0.0.1:9/a.bin")], tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/a.bin: ")
    assert message in str(caught.value)
    assert "delete it" in str(caught.value)
    assert (tmp_path / "a.bin").read_bytes() == content


@pytest.mark.parametrize("cut", ["cut", "reset", "stall", "too long"])
def test_an_interrupted_body_is_resumed(tmp_path: Path, cut: str) -> None:
    with Server(CONTENT, cut, "cut") as server:
        file = make_file(server.url(), size=None if cut != "too long" else len(CONTENT))
        if cut == "too long":  # differs from the published size before any byte is read
            assert "offers 10,257 bytes where 10,247 are published" in fetch_error(tmp_path, file)
            return
        assert fetch_content(tmp_path, file) == CONTENT
        assert server.ranges == [None, "bytes=5124-", "bytes=7686-"]
        assert server.requests[1][1]["If-Range"] == server.headers()["ETag"]


def test_the_next_run_resumes_even_from_another_address(tmp_path: Path) -> None:
    with Server(CONTENT, "cut", *["hang up"] * 3) as first, Server(CONTENT) as second:
        line = fetch_error(tmp_path, make_file(first.url()))
        assert "5.12kB of it are kept" in line
        assert (tmp_path / "a.bin.part").read_bytes() == CONTENT[:5124]
        second.validators = ()
        assert fetch_content(tmp_path, make_file(second.url())) == CONTENT
        assert second.ranges == ["bytes=5124-"]
        assert second.requests[0][1]["If-Range"] is None


def test_without_a_checksum_only_the_same_address_resumes(tmp_path: Path) -> None:
    with Server(CONTENT, "cut", *["hang up"] * 3) as first, Server(CONTENT) as second:
        fetch_error(tmp_path, make_file(first.url(), checksum=None))
        assert fetch_content(tmp_path, make_file(second.url(), checksum=None)) == CONTENT
        assert second.ranges == [None]


@pytest.mark.parametrize("validators", [(), ("Last-Modified",), ("ETag",)])
def test_without_a_checksum_resuming_needs_a_validator(tmp_path: Path, validators: tuple[str, ...]) -> None:
    with Server(CONTENT, "cut") as server:
        server.validators = validators
        assert fetch_content(tmp_path, make_file(server.url(), checksum=None, size=None)) == CONTENT
        assert server.ranges == [None, "bytes=5124-" if validators else None]


@pytest.mark.parametrize(
    "fault",
    ["416", "other offset", "another total", "several ranges", "no content range", "ignore range", "wrong", "changed"],
)
def test_bytes_of_another_file_are_never_used(tmp_path: Path, fault: str) -> None:
    with Server(CONTENT, "cut", fault) as server:
        expected = server.content if fault != "changed" else bytes(byte ^ 0x55 for byte in CONTENT)
        assert fetch_content(tmp_path, make_file(server.url(), content=expected)) == expected
        assert server.ranges[-1] is None or fault in ("ignore range", "changed")


def test_an_ignored_if_range_is_detected_by_the_etag(tmp_path: Path) -> None:
    with Server(CONTENT, "cut") as server:
        file = make_file(server.url(), checksum=None)
        server.script.extend(["hang up"] * 3)
        fetch_error(tmp_path, file)
        server.content = CONTENT[::-1]
        server.script.append("ignore if-range")
        assert fetch_content(tmp_path, file) == CONTENT[::-1]
        assert server.ranges[-2:] == ["bytes=5124-", None]


def test_a_server_that_makes_no_progress_is_given_up(tmp_path: Path) -> None:
    with Server(CONTENT, *["cut", *["no length cut"] * 20]) as server:
        assert "ended after 5,123 of 10,247 bytes" in fetch_error(tmp_path, make_file(server.url()))
        assert len(server.requests) == 1 + 1 + FAST_RETRIES.resumes
    with Server(CONTENT, *["drip"] * 20) as server:
        assert "sends less than 1000 bytes a second" in fetch_error(tmp_path / "slow", make_file(server.url()))


@pytest.mark.parametrize("busy", ["429", "503", "503 odd", "500", "hang up", "mute"])
def test_busy_servers_are_retried(tmp_path: Path, busy: str) -> None:
    with Server(CONTENT, busy) as server:
        if busy == "503 odd":
            assert "Retry-After" in fetch_error(tmp_path, make_file(server.url()))
        else:
            assert fetch_content(tmp_path, make_file(server.url())) == CONTENT


def test_retry_after_is_honored_and_capped(tmp_path: Path) -> None:
    with Server(CONTENT, "429 long") as server:  # Retry-After: one day
        started = time.monotonic()
        assert fetch_content(tmp_path, make_file(server.url())) == CONTENT
        assert 1 <= time.monotonic() - started < 5


@pytest.mark.parametrize("first", ["404", "wrong", "500", "portal", "odd length", "more"])
def test_addresses_are_tried_in_turn(tmp_path: Path, first: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Server(CONTENT, *[first] * 9) as bad, Server(CONTENT) as good:
        assert fetch_content(tmp_path, make_file(bad.url(), good.url())) == CONTENT
        assert f"download: {bad.url()}: " in capsys.readouterr().err


def test_a_wrong_checksum_names_file_address_and_both_checksums(tmp_path: Path) -> None:
    with Server(CONTENT[::-1]) as server:
        file = make_file(server.url(), checksum=f"md5:{md5(CONTENT).hexdigest()}")
        line = fetch_error(tmp_path, file)
        assert line.startswith(
            f"{tmp_path}/a.bin: not fetched: {server.url()}: has md5 {md5(CONTENT[::-1]).hexdigest()}"
        )
        assert f"where {md5(CONTENT).hexdigest()} is published" in line
        assert "by hand" in line
        assert len(server.requests) == 1
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_partial_file_with_wrong_bytes_is_fetched_again_from_the_next_server(tmp_path: Path) -> None:
    with Server(CONTENT[::-1], "cut", *["hang up"] * 3) as bad, Server(CONTENT) as good:
        assert fetch_content(tmp_path, make_file(bad.url(), good.url())) == CONTENT
        assert good.ranges == ["bytes=5124-", None]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("404", "answers 404 Not Found"),
        ("204", "answers 204 No Content"),
        ("206", "answers 206 Partial Content"),
        ("no length", "doesn't say how long the file is"),
        ("no length cut", "doesn't say how long the file is"),
        ("encoded", "encoded"),
        ("chunked cut", "IncompleteRead"),
        ("too long", "ended after|IncompleteRead|416|refuses"),
        ("nowhere", "a.bin: "),
        ("odd location", "a.bin: "),
        ("other scheme", "No connection adapters"),
        ("babble", "220 ready for you"),
        ("odd reason", r"answers 403 No \[31m"),
        ("endless head", "more than 100 headers"),
    ],
)
def test_every_failure_is_one_line(tmp_path: Path, fault: str, message: str) -> None:
    with Server(CONTENT, *[fault] * 30) as server:
        line = fetch_error(tmp_path, make_file(server.url(), size=None, checksum=None))
        assert re.search(message, line), line


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1:9/a", "Connection refused"),
        ("http://no-such-host.invalid/a", "no-such-host.invalid/a: "),
        ("https://127.0.0.1:PORT/a", "SSL"),
        ("http://user:secret@127.0.0.1:9/a", "http://127.0.0.1:9/a: Connection refused"),
    ],
)
def test_unreachable_servers_give_one_line(tmp_path: Path, url: str, message: str) -> None:
    with Server(CONTENT) as server:
        line = fetch_error(tmp_path, make_file(url.replace("PORT", str(server.port))))
        assert message in line
        assert "secret" not in line
        assert f"{tmp_path}/a.bin" in line


def test_the_body_of_a_redirect_is_not_read(tmp_path: Path) -> None:
    """The body may be endless, or not encoded as declared: requests would pass on the error of brotli unchanged."""
    odd = b"HTTP/1.1 301 Moved\r\nContent-Encoding: br\r\nLocation: /b\r\n\r\n" + CONTENT[5124:]
    with Server(CONTENT, odd, "redirect endless") as server:
        assert fetch_content(tmp_path, make_file(server.url())) == CONTENT


def test_redirects_are_followed_up_to_a_limit(tmp_path: Path) -> None:
    with Server(CONTENT, "redirect", "cut", "redirect") as server:
        assert fetch_content(tmp_path, make_file(server.url())) == CONTENT
        assert server.ranges[-2:] == ["bytes=5124-"] * 2  # the redirected request keeps the range
    with Server(CONTENT, *["redirect"] * 50) as server:
        assert "10 redirects" in fetch_error(tmp_path / "loop", make_file(server.url()))


def test_https_verifies_certificates_and_refuses_redirects_to_http(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem = certificate(tmp_path)
    with Server(CONTENT, certificate=pem) as server, Server(CONTENT) as plain:
        assert "certificate verify failed" in fetch_error(tmp_path / "no", make_file(server.url()))
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(pem))
        assert fetch_content(tmp_path / "yes", make_file(server.url())) == CONTENT
        server.script.append("redirect")
        server.target = plain.url()
        assert "redirects from https to http://127.0.0.1" in fetch_error(
            tmp_path / "redirected", make_file(server.url())
        )
        assert not plain.requests


def test_proxies_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pem = certificate(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(pem))
    with Server(CONTENT, "cut") as server, proxy(server.port) as (address, proxied):
        monkeypatch.setenv("http_proxy", address)
        assert fetch_content(tmp_path / "plain", make_file("http://files.example/a.bin")) == CONTENT
        assert proxied[0] == "http://files.example/a.bin"
    with Server(CONTENT, "cut", certificate=pem) as server, proxy(server.port) as (address, proxied):
        monkeypatch.setenv("https_proxy", address)
        assert fetch_content(tmp_path / "tls", make_file("https://files.example/a.bin")) == CONTENT
        assert proxied[0] == "files.example:443"
    with Server(CONTENT) as server:
        assert "the proxy: " in fetch_error(
            tmp_path / "gone", make_file("http://files.example/a.bin")
        )  # the proxy has stopped
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert fetch_content(tmp_path / "bypassed", make_file(server.url())) == CONTENT


def test_mirror_address(tmp_path: Path) -> None:
    with Server(CONTENT) as server:
        file = make_file("http://127.0.0.1:9/official.bin", name="a b.bin")
        assert fetch_content(tmp_path, file, mirror=server.url("base/")) == CONTENT
        assert server.requests[0][0] == "/base/a%20b.bin"


def test_mirror_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = make_file("http://127.0.0.1:9/a.bin")
    mirror = tmp_path / "mirror"
    assert f"{mirror}/a.bin: no such file in the mirror" in fetch_error(tmp_path / "1", file, mirror=str(mirror))
    mirror.mkdir()
    (mirror / "a.bin").write_bytes(CONTENT[::-1])
    assert f"{mirror}/a.bin: has sha256" in fetch_error(tmp_path / "2", file, mirror=str(mirror))
    (mirror / "a.bin").write_bytes(CONTENT)
    assert fetch_content(tmp_path / "3", file, mirror=str(mirror)) == CONTENT
    (tmp_path / "dvc.yaml").touch()  # a relative mirror is relative to the project
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    assert fetch_content(tmp_path / "4", file, mirror="mirror") == CONTENT
    assert "neither an address" in fetch_error(tmp_path / "5", file, mirror="ftp://example.org/a")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_with_rate_and_time_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Server(CONTENT[:25], "drip") as server:
        fetch([make_file(server.url(), content=CONTENT[:25])], tmp_path)
    shown = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert re.search(r"a\.bin: +\d+%\|.*/25\.0 \[\d+:\d+<\d+:\d+, +[\d.]+B/s\]", shown), shown


def test_too_little_disk_space_gives_all_sizes(tmp_path: Path) -> None:
    line = fetch_error(tmp_path, make_file("http://127.0.0.1:9/a.bin", size=10**15), unpacked=2 * 10**15)
    assert "1.00PB to fetch and 2.00PB to unpack need 3.00PB" in line
    assert "are free" in line


def test_disk_space_is_checked_with_the_size_that_the_server_sends(tmp_path: Path) -> None:
    with Server(CONTENT, b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000000\r\n\r\nabc") as server:
        assert "has 1,000,000,000,000,000 bytes, and " in fetch_error(tmp_path, make_file(server.url(), size=None))


def test_a_folder_that_cannot_be_created_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert os.strerror(errno.ENOTDIR) in fetch_error(tmp_path / "file" / "into", make_file())


SCRIPT = """
import sys
from pathlib import Path
from pipeline.datasets.download import fetch
from pipeline.datasets.registry import DataFile
fetch([DataFile(name="a.bin", urls=(sys.argv[2],), size=int(sys.argv[3]))], Path(sys.argv[1]))
"""


def test_a_waiting_process_resumes_the_download_of_a_killed_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Server(CONTENT, "stall") as server:
        command = [sys.executable, "-W", "error", "-c", SCRIPT, str(tmp_path), server.url(), str(len(CONTENT))]
        first = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        part = tmp_path / "a.bin.part"
        while first.poll() is None and not (part.is_file() and part.stat().st_size == 5124):
            time.sleep(0.01)
        threading.Timer(0.3, first.kill).start()
        assert fetch_content(tmp_path, make_file(server.url(), checksum=None)) == CONTENT
        assert first.communicate() == (None, "")  # no progress bar, since stderr is not a terminal
        assert "waiting for another process" in capsys.readouterr().err
        assert server.ranges == [None, "bytes=5124-"]


SLOW_FAULTS = ("stall", "mute", "drip", "429 long", "redirect endless")
QUICK_FAULTS = [name for name in FAULTS if name not in SLOW_FAULTS]
DETECTABLE_FAULTS = [name for name in QUICK_FAULTS if name not in SILENT_FAULTS]
SHARED_SETTINGS = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def content_or_none(into: Path, file: DataFile) -> bytes | None:
    """Returns the fetched content, or None if the download fails with one line and leaves no file."""
    try:
        return fetch_content(into, file)
    except PipelineError as error:
        line = str(error)
    assert line.isprintable()
    assert not (into / file.name).exists()
    return None


STATUSES = st.sampled_from([100, 103, 200, 200, 206, 206, 301, 304, 307, 308, 401, 407, 413, 416, 429, 503, 999])
LOCATIONS = [
    "/b",
    "",
    "?",
    "//",
    "http://127.0.0.1:9/",
    "http://[::1",
    "http://127.0.0.1:x/",
    "data:,x",
    "\xe9",
    "http://%zz/",
]
HEADER_VALUES = {
    "Content-Length": ["0", "10247", "5123", "-1", "x", "1, 2", "9" * 30, ""],
    "Content-Range": ["bytes 5124-10246/10247", "bytes 5124-5123/10247", "bytes 5124-10246/*", "bytes */10247", "x"],
    "Transfer-Encoding": ["chunked", "gzip, chunked", "identity", "x"],
    "Content-Encoding": ["gzip", "br", "identity", "x"],
    "Location": LOCATIONS,
    "Retry-After": ["0", "-1", "x", "Mon, 99 Foo 0000 99:99:99 GMT", "Mon, 01 Jan 0001 00:00:00 +9999", ""],
    "ETag": ['"a"', 'W/"a"', "a", '"', "\xff"],
    "Last-Modified": ["x", "", "Mon, 01 Jan 0001 00:00:00 GMT", "Mon, 01 Jan 2024 00:00:00 GMT"],
    "Date": ["x", "Mon, 01 Jan 2025 00:00:00 -0000"],
    "Set-Cookie": ["a=b; Expires=x", "\xe9"],
    "Connection": ["close", "x"],
}
HEADERS = st.sampled_from(sorted(HEADER_VALUES)).flatmap(
    lambda name: st.tuples(st.just(name), st.sampled_from(HEADER_VALUES[name]))
)
BODIES = st.one_of(
    st.binary(max_size=40), st.sampled_from([CONTENT, CONTENT[5124:], b"3\r\nabc\r\n0\r\n\r\n", b"-5\r\n"])
)


@st.composite
def responses(draw: st.DrawFn) -> bytes:
    """Raw HTTP responses with odd headers, some of them truncated."""
    lines = [
        f"HTTP/1.1 {draw(STATUSES)} So",
        *(f"{name}: {value}" for name, value in draw(st.lists(HEADERS, max_size=5))),
    ]
    text = "\r\n".join([*lines, "", ""]).encode("latin1") + draw(BODIES)
    return text[: draw(st.integers(0, len(text)))] if draw(st.integers(0, 4)) == 0 else text


@SHARED_SETTINGS
@given(
    script=st.lists(st.one_of(st.sampled_from([*QUICK_FAULTS, "cut", "cut", "good"]), responses()), max_size=8),
    sized=st.booleans(),
    runs=st.integers(1, 3),
)
def test_whatever_a_server_sends_the_file_is_correct_or_absent(
    tmp_path_factory: pytest.TempPathFactory, script: list[str | bytes], sized: bool, runs: int
) -> None:
    into = tmp_path_factory.mktemp("into")
    with Server(CONTENT, *script) as server:
        file = make_file(server.url(), size=len(CONTENT) if sized else None)
        assert {content_or_none(into, file) for _ in range(runs)} <= {CONTENT, None}
        server.content, server.script = CONTENT, type(server.script)()
        assert content_or_none(into, file) == CONTENT  # a server without faults completes the file


@SHARED_SETTINGS
@given(script=st.lists(st.sampled_from([*DETECTABLE_FAULTS, "cut", "changed"]), max_size=8), sized=st.booleans())
def test_without_a_checksum_versions_are_never_mixed(
    tmp_path_factory: pytest.TempPathFactory, script: list[str], sized: bool
) -> None:
    into = tmp_path_factory.mktemp("into")
    with Server(CONTENT, *script) as server:
        file = make_file(server.url(), checksum=None, size=len(CONTENT) if sized else None)
        versions = {CONTENT, bytes(byte ^ 0x55 for byte in CONTENT), None}
        assert content_or_none(into, file) in versions
