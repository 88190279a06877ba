"""Fetching from real servers on the loopback that misbehave, a real proxy, folders and a person's hands."""

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
from tests.support.http_servers import FAULTS, LIES, Server, certificate, proxy

CONTENT = bytes(range(256)) * 40 + b"the end"
FAST_RETRIES = RetryPolicy(
    connect_timeout=2.0, read_timeout=0.2, min_throughput=1000.0, retries=2, resumes=2, backoff=0.001, max_wait=1
)


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def described(*urls: str, content: bytes = CONTENT, **other: Any) -> DataFile:
    fields = {"name": "a.bin", "size": len(content), "checksum": f"sha256:{sha256(content).hexdigest()}"}
    return DataFile(**(fields | {"urls": urls} | other))


def brought(into: Path, file: DataFile, **how: Any) -> bytes:
    """The content that was fetched; nothing else of it lies there."""
    paths = fetch([file], into, retry_policy=FAST_RETRIES, **how)
    assert paths == [into / file.name]
    assert {path.name for path in into.iterdir()} == {file.name, ".lock"}
    return paths[0].read_bytes()


def refused(into: Path, *files: DataFile, **how: Any) -> str:
    """The one line that it fails with; no file has its name."""
    with pytest.raises(PipelineError) as caught:
        fetch(files, into, retry_policy=FAST_RETRIES, **how)
    line = str(caught.value)
    assert line.isprintable()
    assert not any((into / file.name).exists() for file in files)
    return line


def test_several_files_in_order(tmp_path: Path) -> None:
    with Server(CONTENT) as server:
        files = [described(server.url(name), name=name) for name in ("b.zip", "a.zip")]
        assert fetch(files, tmp_path / "new" / "folder") == [tmp_path / "new" / "folder" / f.name for f in files]
        assert [path for path, _ in server.asked] == ["/b.zip", "/a.zip"]


def test_what_is_there_is_not_fetched_again(tmp_path: Path) -> None:
    with Server(CONTENT) as server:
        for _ in range(2):
            assert brought(tmp_path, described(server.url())) == CONTENT
        assert len(server.asked) == 1


def test_a_file_that_a_person_put_there_needs_no_network(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(CONTENT)
    (tmp_path / "a.bin.part").write_bytes(CONTENT[:9])  # what they didn't wait for
    assert brought(tmp_path, described("http://127.0.0.1:9/a.bin")) == CONTENT
    assert brought(tmp_path, described()) == CONTENT


@pytest.mark.parametrize(("content", "said"), [(b"short", "5 bytes where 10,247"), (CONTENT[::-1], "has sha256 ")])
def test_a_wrong_file_that_a_person_put_there_is_theirs_to_remove(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.bin").write_bytes(content)
    with pytest.raises(PipelineError) as caught:
        fetch([described("http://127.0.0.1:9/a.bin")], tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/a.bin: ")
    assert said in str(caught.value)
    assert "delete it" in str(caught.value)
    assert (tmp_path / "a.bin").read_bytes() == content


@pytest.mark.parametrize("cut", ["cut", "reset", "stall", "too long"])
def test_a_cut_body_is_continued_where_it_ended(tmp_path: Path, cut: str) -> None:
    with Server(CONTENT, cut, "cut") as server:
        file = described(server.url(), size=None if cut != "too long" else len(CONTENT))
        if cut == "too long":  # the published size shows the lie at once
            assert "offers 10,257 bytes where 10,247 are published" in refused(tmp_path, file)
            return
        assert brought(tmp_path, file) == CONTENT
        assert server.ranges == [None, "bytes=5124-", "bytes=7686-"]
        assert server.asked[1][1]["If-Range"] == server.headers()["ETag"]


def test_the_next_run_continues_and_even_at_another_address(tmp_path: Path) -> None:
    with Server(CONTENT, "cut", *["hang up"] * 3) as first, Server(CONTENT) as second:
        line = refused(tmp_path, described(first.url()))
        assert "5.12kB of it are kept" in line
        assert (tmp_path / "a.bin.part").read_bytes() == CONTENT[:5124]
        second.validators = ()
        assert brought(tmp_path, described(second.url())) == CONTENT
        assert second.ranges == ["bytes=5124-"]
        assert second.asked[0][1]["If-Range"] is None


def test_without_a_checksum_only_the_same_address_continues(tmp_path: Path) -> None:
    with Server(CONTENT, "cut", *["hang up"] * 3) as first, Server(CONTENT) as second:
        refused(tmp_path, described(first.url(), checksum=None))
        assert brought(tmp_path, described(second.url(), checksum=None)) == CONTENT
        assert second.ranges == [None]


@pytest.mark.parametrize("validators", [(), ("Last-Modified",), ("ETag",)])
def test_without_a_checksum_it_is_continued_only_where_the_server_can_tell(
    tmp_path: Path, validators: tuple[str, ...]
) -> None:
    with Server(CONTENT, "cut") as server:
        server.validators = validators
        assert brought(tmp_path, described(server.url(), checksum=None, size=None)) == CONTENT
        assert server.ranges == [None, "bytes=5124-" if validators else None]


@pytest.mark.parametrize(
    "fault",
    ["416", "another place", "another total", "several ranges", "no content range", "ignore range", "wrong", "changed"],
)
def test_never_a_byte_of_another_file(tmp_path: Path, fault: str) -> None:
    with Server(CONTENT, "cut", fault) as server:
        meant = server.content if fault != "changed" else bytes(byte ^ 0x55 for byte in CONTENT)
        assert brought(tmp_path, described(server.url(), content=meant)) == meant
        assert server.ranges[-1] is None or fault in ("ignore range", "changed")


def test_a_server_that_ignores_if_range_is_noticed_by_its_etag(tmp_path: Path) -> None:
    with Server(CONTENT, "cut") as server:
        file = described(server.url(), checksum=None)
        server.script.extend(["hang up"] * 3)
        refused(tmp_path, file)
        server.content = CONTENT[::-1]
        server.script.append("ignore if-range")
        assert brought(tmp_path, file) == CONTENT[::-1]
        assert server.ranges[-2:] == ["bytes=5124-", None]


def test_a_server_that_never_gets_further_is_given_up(tmp_path: Path) -> None:
    with Server(CONTENT, *["cut", *["no length cut"] * 20]) as server:
        assert "ended after 5,123 of 10,247 bytes" in refused(tmp_path, described(server.url()))
        assert len(server.asked) == 1 + 1 + FAST_RETRIES.resumes
    with Server(CONTENT, *["drip"] * 20) as server:
        assert "sends less than 1000 bytes a second" in refused(tmp_path / "slow", described(server.url()))


@pytest.mark.parametrize("busy", ["429", "503", "503 odd", "500", "hang up", "mute"])
def test_a_busy_server_is_asked_again(tmp_path: Path, busy: str) -> None:
    with Server(CONTENT, busy) as server:
        if busy == "503 odd":
            assert "Retry-After" in refused(tmp_path, described(server.url()))
        else:
            assert brought(tmp_path, described(server.url())) == CONTENT


def test_retry_after_is_honored_and_capped(tmp_path: Path) -> None:
    with Server(CONTENT, "429 long") as server:  # a day
        started = time.monotonic()
        assert brought(tmp_path, described(server.url())) == CONTENT
        assert 1 <= time.monotonic() - started < 5


@pytest.mark.parametrize("first", ["404", "wrong", "500", "portal", "odd length", "more"])
def test_addresses_are_tried_in_turn(tmp_path: Path, first: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Server(CONTENT, *[first] * 9) as bad, Server(CONTENT) as good:
        assert brought(tmp_path, described(bad.url(), good.url())) == CONTENT
        assert f"download: {bad.url()}: " in capsys.readouterr().err


def test_a_wrong_checksum_names_file_address_expected_and_found(tmp_path: Path) -> None:
    with Server(CONTENT[::-1]) as server:
        file = described(server.url(), checksum=f"md5:{md5(CONTENT).hexdigest()}")
        line = refused(tmp_path, file)
        assert line.startswith(
            f"{tmp_path}/a.bin: not fetched: {server.url()}: has md5 {md5(CONTENT[::-1]).hexdigest()}"
        )
        assert f"where {md5(CONTENT).hexdigest()} is published" in line
        assert "by hand" in line
        assert len(server.asked) == 1
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_wrong_bytes_in_a_part_of_another_server_are_not_the_fault_of_this_one(tmp_path: Path) -> None:
    with Server(CONTENT[::-1], "cut", *["hang up"] * 3) as bad, Server(CONTENT) as good:
        assert brought(tmp_path, described(bad.url(), good.url())) == CONTENT
        assert good.ranges == ["bytes=5124-", None]


@pytest.mark.parametrize(
    ("fault", "said"),
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
        ("odd place", "a.bin: "),
        ("other scheme", "No connection adapters"),
        ("babble", "220 ready for you"),
        ("odd reason", r"answers 403 No \[31m"),
        ("endless head", "more than 100 headers"),
    ],
)
def test_every_failure_is_one_line(tmp_path: Path, fault: str, said: str) -> None:
    with Server(CONTENT, *[fault] * 30) as server:
        line = refused(tmp_path, described(server.url(), size=None, checksum=None))
        assert re.search(said, line), line


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1:9/a", "Connection refused"),
        ("http://no-such-host.invalid/a", "no-such-host.invalid/a: "),
        ("https://127.0.0.1:PORT/a", "SSL"),
        ("http://user:secret@127.0.0.1:9/a", "http://127.0.0.1:9/a: Connection refused"),
    ],
)
def test_unreachable(tmp_path: Path, url: str, said: str) -> None:
    with Server(CONTENT) as server:
        line = refused(tmp_path, described(url.replace("PORT", str(server.port))))
        assert said in line
        assert "secret" not in line
        assert f"{tmp_path}/a.bin" in line


def test_what_comes_with_a_redirect_is_not_read(tmp_path: Path) -> None:
    """It may be endless, or not encoded as it says: brotli's error would come through requests as it is."""
    odd = b"HTTP/1.1 301 Moved\r\nContent-Encoding: br\r\nLocation: /b\r\n\r\n" + CONTENT[5124:]
    with Server(CONTENT, odd, "redirect endless") as server:
        assert brought(tmp_path, described(server.url())) == CONTENT


def test_redirects(tmp_path: Path) -> None:
    with Server(CONTENT, "redirect", "cut", "redirect") as server:
        assert brought(tmp_path, described(server.url())) == CONTENT
        assert server.ranges[-2:] == ["bytes=5124-"] * 2  # kept on the way
    with Server(CONTENT, *["redirect"] * 50) as server:
        assert "10 redirects" in refused(tmp_path / "loop", described(server.url()))


def test_encrypted_and_not_led_away_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pem = certificate(tmp_path)
    with Server(CONTENT, certificate=pem) as server, Server(CONTENT) as plain:
        assert "certificate verify failed" in refused(tmp_path / "no", described(server.url()))
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(pem))
        assert brought(tmp_path / "yes", described(server.url())) == CONTENT
        server.script.append("redirect")
        server.target = plain.url()
        assert "redirects from https to http://127.0.0.1" in refused(tmp_path / "led", described(server.url()))
        assert not plain.asked


def test_proxies_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pem = certificate(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(pem))
    with Server(CONTENT, "cut") as server, proxy(server.port) as (address, asked):
        monkeypatch.setenv("http_proxy", address)
        assert brought(tmp_path / "plain", described("http://files.example/a.bin")) == CONTENT
        assert asked[0] == "http://files.example/a.bin"
    with Server(CONTENT, "cut", certificate=pem) as server, proxy(server.port) as (address, asked):
        monkeypatch.setenv("https_proxy", address)
        assert brought(tmp_path / "tls", described("https://files.example/a.bin")) == CONTENT
        assert asked[0] == "files.example:443"
    with Server(CONTENT) as server:
        assert "the proxy: " in refused(tmp_path / "gone", described("http://files.example/a.bin"))  # it has stopped
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert brought(tmp_path / "past", described(server.url())) == CONTENT


def test_mirror_by_address(tmp_path: Path) -> None:
    with Server(CONTENT) as server:
        file = described("http://127.0.0.1:9/official.bin", name="a b.bin")
        assert brought(tmp_path, file, mirror=server.url("base/")) == CONTENT
        assert server.asked[0][0] == "/base/a%20b.bin"


def test_mirror_by_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = described("http://127.0.0.1:9/a.bin")
    mirror = tmp_path / "mirror"
    assert f"{mirror}/a.bin: no such file in the mirror" in refused(tmp_path / "1", file, mirror=str(mirror))
    mirror.mkdir()
    (mirror / "a.bin").write_bytes(CONTENT[::-1])
    assert f"{mirror}/a.bin: has sha256" in refused(tmp_path / "2", file, mirror=str(mirror))
    (mirror / "a.bin").write_bytes(CONTENT)
    assert brought(tmp_path / "3", file, mirror=str(mirror)) == CONTENT
    (tmp_path / "dvc.yaml").touch()  # a relative one is the project's
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    assert brought(tmp_path / "4", file, mirror="mirror") == CONTENT
    assert "neither an address" in refused(tmp_path / "5", file, mirror="ftp://example.org/a")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_with_rate_and_time_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Server(CONTENT[:25], "drip") as server:
        fetch([described(server.url(), content=CONTENT[:25])], tmp_path)
    shown = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert re.search(r"a\.bin: +\d+%\|.*/25\.0 \[\d+:\d+<\d+:\d+, +[\d.]+B/s\]", shown), shown


def test_disk_room_is_told_with_its_numbers(tmp_path: Path) -> None:
    line = refused(tmp_path, described("http://127.0.0.1:9/a.bin", size=10**15), unpacked=2 * 10**15)
    assert "1.00PB to fetch and 2.00PB to unpack need 3.00PB" in line
    assert "are free" in line


def test_disk_room_where_only_the_server_knows_the_size(tmp_path: Path) -> None:
    with Server(CONTENT, b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000000\r\n\r\nabc") as server:
        assert "has 1,000,000,000,000,000 bytes, and " in refused(tmp_path, described(server.url(), size=None))


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert os.strerror(errno.ENOTDIR) in refused(tmp_path / "file" / "into", described())


SCRIPT = """
import sys
from pathlib import Path
from pipeline.datasets.download import fetch
from pipeline.datasets.registry import DataFile
fetch([DataFile(name="a.bin", urls=(sys.argv[2],), size=int(sys.argv[3]))], Path(sys.argv[1]))
"""


def test_a_killed_process_is_continued_by_one_that_waited_for_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Server(CONTENT, "stall") as server:
        command = [sys.executable, "-W", "error", "-c", SCRIPT, str(tmp_path), server.url(), str(len(CONTENT))]
        first = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        part = tmp_path / "a.bin.part"
        while first.poll() is None and not (part.is_file() and part.stat().st_size == 5124):
            time.sleep(0.01)
        threading.Timer(0.3, first.kill).start()
        assert brought(tmp_path, described(server.url(), checksum=None)) == CONTENT
        assert first.communicate() == (None, "")  # no bar where stderr is no terminal
        assert "waiting for another process" in capsys.readouterr().err
        assert server.ranges == [None, "bytes=5124-"]


SLOW = ("stall", "mute", "drip", "429 long", "redirect endless")
QUICK = [name for name in FAULTS if name not in SLOW]
HONEST = [name for name in QUICK if name not in LIES]
ONE = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def outcome(into: Path, file: DataFile) -> bytes | None:
    """What was fetched; None where one line says why nothing was, and then nothing has the file's name."""
    try:
        return brought(into, file)
    except PipelineError as error:
        line = str(error)
    assert line.isprintable()
    assert not (into / file.name).exists()
    return None


STATUSES = st.sampled_from([100, 103, 200, 200, 206, 206, 301, 304, 307, 308, 401, 407, 413, 416, 429, 503, 999])
PLACES = [
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
VALUES = {
    "Content-Length": ["0", "10247", "5123", "-1", "x", "1, 2", "9" * 30, ""],
    "Content-Range": ["bytes 5124-10246/10247", "bytes 5124-5123/10247", "bytes 5124-10246/*", "bytes */10247", "x"],
    "Transfer-Encoding": ["chunked", "gzip, chunked", "identity", "x"],
    "Content-Encoding": ["gzip", "br", "identity", "x"],
    "Location": PLACES,
    "Retry-After": ["0", "-1", "x", "Mon, 99 Foo 0000 99:99:99 GMT", "Mon, 01 Jan 0001 00:00:00 +9999", ""],
    "ETag": ['"a"', 'W/"a"', "a", '"', "\xff"],
    "Last-Modified": ["x", "", "Mon, 01 Jan 0001 00:00:00 GMT", "Mon, 01 Jan 2024 00:00:00 GMT"],
    "Date": ["x", "Mon, 01 Jan 2025 00:00:00 -0000"],
    "Set-Cookie": ["a=b; Expires=x", "\xe9"],
    "Connection": ["close", "x"],
}
HEADERS = st.sampled_from(sorted(VALUES)).flatmap(lambda name: st.tuples(st.just(name), st.sampled_from(VALUES[name])))
BODIES = st.one_of(
    st.binary(max_size=40), st.sampled_from([CONTENT, CONTENT[5124:], b"3\r\nabc\r\n0\r\n\r\n", b"-5\r\n"])
)


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """What a server might say, headers and all; now and then it breaks off."""
    lines = [
        f"HTTP/1.1 {draw(STATUSES)} So",
        *(f"{name}: {value}" for name, value in draw(st.lists(HEADERS, max_size=5))),
    ]
    text = "\r\n".join([*lines, "", ""]).encode("latin1") + draw(BODIES)
    return text[: draw(st.integers(0, len(text)))] if draw(st.integers(0, 4)) == 0 else text


@ONE
@given(
    script=st.lists(st.one_of(st.sampled_from([*QUICK, "cut", "cut", "good"]), answers()), max_size=8),
    sized=st.booleans(),
    runs=st.integers(1, 3),
)
def test_whatever_a_server_plays_the_file_is_right_or_not_there(
    tmp_path_factory: pytest.TempPathFactory, script: list[str | bytes], sized: bool, runs: int
) -> None:
    into = tmp_path_factory.mktemp("into")
    with Server(CONTENT, *script) as server:
        file = described(server.url(), size=len(CONTENT) if sized else None)
        assert {outcome(into, file) for _ in range(runs)} <= {CONTENT, None}
        server.content, server.script = CONTENT, type(server.script)()
        assert outcome(into, file) == CONTENT  # and once it is well, so is the file


@ONE
@given(script=st.lists(st.sampled_from([*HONEST, "cut", "changed"]), max_size=8), sized=st.booleans())
def test_without_a_checksum_versions_are_never_mixed(
    tmp_path_factory: pytest.TempPathFactory, script: list[str], sized: bool
) -> None:
    into = tmp_path_factory.mktemp("into")
    with Server(CONTENT, *script) as server:
        file = described(server.url(), checksum=None, size=len(CONTENT) if sized else None)
        versions = {CONTENT, bytes(byte ^ 0x55 for byte in CONTENT), None}
        assert outcome(into, file) in versions
