"""`fcos serve`: a real server on the shared project's detector, as programs, browsers and attackers use it."""

import asyncio
import base64
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import PIL.Image
import pytest
import requests
from click.testing import CliRunner

import fcos
from pipeline.cli import main
from pipeline.errors import PipelineError
from pipeline.integrations import mlflow_model, servers, serving, serving_app
from pipeline.integrations.serving import Limits, Settings
from tests.support.listening import loopback_only
from tests.support.noise import noise
from tests.support.onnx_detector import save_onnx_detector
from tests.support.paths import PROJECT
from tests.support.process_trees import assert_gone, descendants
from tests.support.projects import copy, environment, run
from tests.support.tiny_detector import save_tiny_detector

IMAGE = "data/raw/digits/images/val/000001.jpg"
LIMITS = ["--max-megabytes", "0.5", "--max-megapixels", "0.5", "--max-images", "3"]


@dataclass(frozen=True)
class Running:
    """The server, and what it was started with."""

    process: "subprocess.Popen[str]"
    address: str
    project: Path
    temporary: Path  # TMPDIR of all its processes

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def post(self, content: bytes, kind: str = "application/json", query: str = "", **headers: str) -> Any:
        return requests.post(
            f"{self.address}/invocations{query}", content, headers={"Content-Type": kind, **headers}, timeout=60
        )


@pytest.fixture(scope="module")
def served(reproduced: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """`fcos serve` on the champion of a project whose folder models/ is gone."""
    project, temporary = copy(reproduced, tmp_path_factory.mktemp("served") / "project"), tmp_path_factory.mktemp("tmp")
    with loopback_only() as addresses:
        run(project, "fcos", "register")
        (project / "models").rename(project / "trained")
        port = servers.find_free_port()
        command = f"from pipeline.cli import main; main({['serve', '--port', str(port), *LIMITS]!r})"
        with subprocess.Popen(
            [sys.executable, "-c", command],
            cwd=project,
            env={**environment(warm=False), "PYTHONPATH": str(PROJECT), "TMPDIR": str(temporary)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            printed = process.stdout.readline()
            assert printed == f"Detector: http://127.0.0.1:{port}/  (Ctrl-C stops it)\n", process.communicate()
            yield Running(process, f"http://127.0.0.1:{port}", project, temporary)
            process.kill()
    assert addresses == {"127.0.0.1"}


def records(*images: bytes, **more: Any) -> bytes:
    rows = [{"image": base64.b64encode(image).decode()} for image in images]
    return json.dumps({"dataframe_records": rows, **more}).encode()


def predicted(served: Running, *options: str) -> list[dict[str, Any]]:
    weights = ["--weights", str(served.project / "trained/detector.safetensors")]
    output = run(served.project, "fcos", "predict", IMAGE, *weights, "--json", *options)
    detections: list[dict[str, Any]] = json.loads(output)["detections"]
    return detections


def test_the_boxes_are_those_of_fcos_predict(served: Running) -> None:
    image = (served.project / IMAGE).read_bytes()
    everything = predicted(served, "--score", "0.05")
    assert len(everything) > 10
    answer = served.post(records(image, params={"score": 0.05}))
    assert (answer.status_code, answer.json()) == (200, {"predictions": [{"detections": everything}]})
    assert served.post(image, "image/jpeg", "?score=0.05").json() == answer.json()
    # The operating point is the registered one.
    chosen = served.post(records(image, image)).json()["predictions"]
    assert chosen == [{"detections": predicted(served)}] * 2
    # As MLflow's own clients write a data frame: base64 with line breaks.
    lines = base64.encodebytes(image).decode()
    split = {"dataframe_split": {"columns": ["image"], "index": [7], "data": [[lines]]}}
    assert (
        served.post(json.dumps(split).encode(), "application/json; charset=utf-8").json()["predictions"] == chosen[:1]
    )
    assert requests.get(f"{served.address}/health", timeout=30).status_code == 200


def jpeg(width: int = 60, height: int = 40) -> bytes:
    content = BytesIO()
    PIL.Image.fromarray(noise(width, height)).save(content, "JPEG")
    return content.getvalue()


FORM = '; a request is {"dataframe_records": [{"image": "BASE64"}]}'


@pytest.mark.parametrize(
    ("content", "kind", "status", "message"),
    [
        (b"", "application/json", 400, f"not JSON: Input data was truncated{FORM}"),
        (b"\xff\xfe", "application/json", 400, f"not JSON: JSON is malformed: invalid character (byte 0){FORM}"),
        (b"[" * 100_000, "application/json", 400, f"Expected `object`, got `array`{FORM}"),
        (b"{}", "application/json", 400, f"neither of dataframe_records and dataframe_split: give one{FORM}"),
        (
            b'{"dataframe_records": [{"image": "aGk="}], "dataframe_split": {"columns": ["image"], "data": []}}',
            "application/json", 400, f"both of dataframe_records and dataframe_split: give one{FORM}",
        ),
        (b'{"inputs": []}', "application/json", 400, f"Object contains unknown field `inputs`{FORM}"),
        (
            b'{"dataframe_records": [{"path": "/etc/passwd"}]}', "application/json", 400,
            f"Object contains unknown field `path` - at `$.dataframe_records[0]`{FORM}",
        ),
        (
            b'{"dataframe_split": {"columns": ["picture"], "data": [["aGk="]]}}', "application/json", 400,
            "the columns are ['picture'], but the only one must be image",
        ),
        (b'{"dataframe_records": []}', "application/json", 400, "the request contains no image"),
        (
            b'{"dataframe_records": [{"image": "data:image/png;base64,aGk="}]}', "application/json", 400,
            "image 1: not base64: without `data:image/…;base64,`",
        ),
        (b'{"dataframe_records": [{"image": "\xc3\xa9"}]}', "application/json", 400, "image 1: not base64"),
        (records(jpeg(), b"hello"), "application/json", 400,
         "image 2: can't be decoded as an image: unknown image format"),
        (records(b""), "application/json", 400, "image 1: can't be decoded as an image: the file is empty"),
        (b"/etc/passwd", "image/png", 400, "image 1: can't be decoded as an image: unknown image format"),
        (
            records(jpeg(), params={"score": 1.5}), "application/json", 400,
            f"Expected `float` <= 1.0 - at `$.params.score`{FORM}",
        ),
        (records(*[jpeg()] * 4), "application/json", 413,
         "4 images, more than the limit of 3: send several requests, or start the server with --max-images"),
        (jpeg(1000, 501), "image/jpeg", 413,
         "image 1: 1,000×501 is 0.5 megapixels, more than the limit of 0.5: cut the image into tiles, or raise the "
         "limit: fcos serve --max-megapixels 1"),
        (b" " * 500_001, "application/json", 413,
         "the request has more than the limit of 0.5 MB; fcos serve --max-megabytes raises it"),
        (b"image\n/etc/passwd", "text/csv", 415,
         "the Content-Type is text/csv, but must be application/json, or image/… for an image file"),
    ],
)  # fmt: skip
def test_a_bad_request_gets_one_line(served: Running, content: bytes, kind: str, status: int, message: str) -> None:
    assert_refused(served.post(content, kind), status, message)


def assert_refused(answer: requests.Response, status: int, message: str) -> None:
    assert answer.headers["content-type"] == "application/json"
    assert answer.text.endswith("}\n")
    assert answer.text.count("\n") == 1
    assert set(answer.json()) == {"error_code", "message"}
    assert (answer.status_code, answer.json()["message"]) == (status, message)


def test_a_damaged_image_gets_the_detectors_reason(served: Running) -> None:
    """Its header is valid: the detector notices, inside MLflow's server."""
    answer = served.post(records(jpeg(), jpeg(300, 200)[:-9000]))
    assert answer.json()["message"].startswith("image 2: can't be decoded as an image: image file is truncated (")
    assert_refused(answer, 400, answer.json()["message"])
    assert served.post(jpeg(), "image/jpeg", "?score=high").json()["message"] == (
        "score is 'high', but must be a number from 0 to 1"
    )


def test_a_body_of_unknown_length_is_limited_too(served: Running) -> None:
    parts = (b" " * 50_000 for _ in range(12))
    answer = requests.post(f"{served.address}/invocations", parts, headers={"Content-Type": "image/png"}, timeout=60)
    assert_refused(answer, 413, "the request has more than the limit of 0.5 MB; fcos serve --max-megabytes raises it")
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        # curl waits for the answer before it sends as much.
        head = "POST /invocations HTTP/1.1\r\nHost: localhost\r\nContent-Length: 600000\r\nExpect: 100-continue\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_other_paths_methods_and_origins(served: Running) -> None:
    for path in ("/docs", "/openapi.json", "/invocations/", "/../etc/passwd"):
        answer = requests.get(f"{served.address}{path}", timeout=30)
        assert_refused(answer, 404, "no such path; there are /, /health, /ping, /version, /invocations")
    answer = requests.get(f"{served.address}/invocations", timeout=30)
    assert_refused(answer, 405, "/invocations has the method POST")
    host = "the Host header doesn't name this machine's loopback interface"
    assert_refused(served.post(jpeg(), "image/jpeg", Host="attacker.example"), 403, host)
    origin = "a page of another origin sent the request"
    assert_refused(served.post(jpeg(), "image/jpeg", Origin="http://attacker.example"), 403, origin)


@pytest.mark.parametrize("query", ["?scor=0.5", "?score=0.5&tiles=1"])
def test_unknown_parameters_are_refused(served: Running, query: str) -> None:
    name = "scor" if "scor=" in query else "tiles"
    answer = served.post(jpeg(), "image/jpeg", query)
    assert_refused(answer, 400, f"{name!r} is no parameter of /invocations: there is score")


def test_the_page_draws_the_boxes(served: Running) -> None:
    """Chromium drops an image whose EXIF orientation is not that of its pixels, and lowers the score."""
    from playwright.sync_api import sync_playwright

    picture = served.temporary / "turned.jpg"
    with PIL.Image.open(served.project / IMAGE) as image:
        exif = image.getexif()
        exif[274] = 6
        image.crop((0, 0, image.width, image.height // 2)).save(picture, exif=exif, quality=95)
        size = (image.width, image.height // 2)
    expected = served.post(picture.read_bytes(), "image/jpeg", "?score=0.05").json()["predictions"][0]["detections"]
    with sync_playwright() as driver:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = driver.chromium.launch(executable_path="/usr/bin/chromium", args=arguments)
        page = browser.new_page(viewport={"width": 900, "height": 900})
        page.goto(served.address)
        assert page.inner_text("h1") == "models:/fcos-digits@champion"
        page.fill("#score", "0.05")
        page.set_input_files("#file", picture)
        page.wait_for_selector("rect", state="attached")
        boxes = page.eval_on_selector_all(
            "rect", "all => all.map(r => ['x', 'y', 'width', 'height'].map(name => +r.getAttribute(name)))"
        )
        shown, view = page.locator("#image").bounding_box(), page.get_attribute("#boxes", "viewBox")
        status = page.inner_text("#status")
        page.set_input_files("#file", PROJECT / "README.md")
        page.wait_for_selector(".error")
        error = page.inner_text("#status")
        left = page.locator("rect").count()
        browser.close()
    picture.unlink()
    assert boxes == [item["bbox"] for item in reversed(expected)]  # the highest score on top
    assert status == f"{len(expected)} objects"
    assert view == f"0 0 {size[0]} {size[1]}"  # the stored pixels, not the rotated ones
    assert shown is not None
    assert shown["width"] / shown["height"] == pytest.approx(size[0] / size[1], rel=0.02)
    assert (error, left) == ("image 1: can't be decoded as an image: unknown image format", 0)


def test_the_commands_of_docs(served: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The requests are sent to the server as printed, except for the port."""
    monkeypatch.chdir(served.project)
    (served.project / "photo.jpg").write_bytes((served.project / IMAGE).read_bytes())
    text = (PROJECT / "docs/serving.md").read_text()
    commands = re.findall("(?m)^    (.*)$", re.sub(r"(?ms)^```.*?^```", "", text))
    starts = [shlex.split(command, comments=True) for command in commands if command.startswith("fcos serve")]
    sent = [command for command in commands if not command.startswith("fcos ")]
    assert (len(starts), len(sent)) == (6, 5)
    for _, name, *arguments in starts:
        main.commands[name].make_context(name, arguments)  # type: ignore[attr-defined]
    program = re.search("(?ms)^```python\n(.*?)^```", text)
    assert program is not None
    address = "http://127.0.0.1:5001"
    answers = [
        subprocess.check_output(["bash", "-c", command.replace(address, served.address)], stderr=subprocess.DEVNULL)
        for command in sent
    ]
    own, some, nothing, the_same, health = answers
    assert (nothing, health, the_same) == (b"", b"\n", some)
    values: dict[str, Any] = {}
    exec(program[1].replace(address, served.address), values)
    assert json.loads(own) == {"predictions": [{"detections": values["detections"]}]}
    assert values["detections"] == predicted(served)
    assert json.loads(some)["predictions"] == [{"detections": predicted(served, "--score", "0.25")}]


def test_a_port_in_use(served: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(served.project)
    port = str(served.port)
    result = CliRunner().invoke(main, ["serve", "--port", port])
    assert result.exit_code == 1
    assert (
        result.output
        == f"fcos: 127.0.0.1:{port}: address already in use; stop that program, or choose another --port\n"
    )


def test_waiting_requests_are_not_read(served: Running) -> None:
    """Eight clients that never finish their body: the server's memory holds theirs, and other clients wait."""
    with ExitStack() as stack:
        for _ in range(8):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", served.port)))
            connection.sendall(b"POST /invocations HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000\r\n\r\nx")
        with pytest.raises(requests.ReadTimeout):
            requests.post(f"{served.address}/invocations", jpeg(), headers={"Content-Type": "image/jpeg"}, timeout=0.5)
        assert requests.get(f"{served.address}/health", timeout=30).status_code == 200
    assert served.post(jpeg(), "image/jpeg").status_code == 200


def test_nothing_is_left_of_a_killed_server(served: Running) -> None:
    """The last test with the server. It has removed the folder of its model before it listened."""
    assert list(served.temporary.iterdir()) == []
    processes = descendants(served.process.pid)
    assert len(processes) == 3  # the supervisor, its guard, the server
    served.process.send_signal(signal.SIGKILL)
    assert_gone(processes)
    assert served.process.communicate() == ("", "")
    servers.require_free_port(served.port)


def asked(app: Any, body: bytes) -> tuple[int, Any]:
    """The answer of an application in this process to an image."""
    messages: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        messages.append(message)

    headers = [(b"host", b"127.0.0.1:80"), (b"content-type", b"image/jpeg")]
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/invocations",
        "query_string": b"score=0.05",
        "headers": headers,
    }
    asyncio.run(app(scope | {"scheme": "http", "server": ("127.0.0.1", 80)}, receive, send))
    return messages[0]["status"], json.loads(messages[1]["body"])


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Path]:
    """Sets what the server's process is told; returns its folder for temporary files."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def tell(*, weights: Path | None = None, model: str | None = None) -> Path:
        told = Settings(str(weights) if weights else None, model, "cpu", Limits(), True)
        monkeypatch.setenv(serving.SETTINGS_VARIABLE, told.to_json())
        return tmp_path

    return tell


def test_a_file_of_weights_outside_a_project(
    served: Running, settings: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    weights = served.project / "trained/detector.safetensors"
    folder = settings(weights=weights)
    monkeypatch.chdir(tmp_path)
    app = serving_app.server_app()
    assert list(folder.iterdir()) == []
    status, answer = asked(app, (served.project / IMAGE).read_bytes())
    assert (status, answer["predictions"]) == (200, [{"detections": predicted(served, "--score", "0.05")}])
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    failed = {"error_code": "INTERNAL_ERROR", "message": "the detection failed; the server's log has the reason"}
    assert asked(app, jpeg()) == (500, failed)


def test_an_onnx_file_is_served(
    settings: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    weights = save_onnx_detector(tmp_path_factory.mktemp("exported") / "cats & dogs.onnx")
    settings(weights=weights)
    monkeypatch.chdir(tmp_path)
    app = serving_app.server_app()
    noise = BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(noise, "PNG")
    status, answer = asked(app, noise.getvalue())
    expected = fcos.load(weights).predict(pixels, score=0.05)
    (found,) = answer["predictions"]
    assert (status, len(found["detections"])) == (200, len(expected))
    assert [item["category"] for item in found["detections"]] == expected.names
    assert {"cat", "dog"} == {*expected.names}
    assert app.page.count('new Map([["cat", "rgb(230, 25, 75)"], ["dog", "rgb(60, 180, 75)"]])') == 1
    assert "<h1>cats &amp; dogs.onnx</h1>" in app.page


def test_what_ends_the_server_before_it_listens(
    served: Running,
    settings: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(served.project)
    broken = served.project / "broken.safetensors"
    broken.write_bytes(b"no weights")
    broken.with_suffix(".json").write_bytes((served.project / "trained/detector.json").read_bytes())
    folder = settings(weights=broken)
    assert ended(capsys).startswith(f"fcos: {broken}: ")
    foreign = save_onnx_detector(tmp_path / "foreign.onnx")
    foreign.write_bytes(foreign.read_bytes().replace(b"fcos_version", b"some_version"))
    settings(weights=foreign)
    assert ended(capsys) == f"fcos: {foreign}: no exported detector: it lacks the metadata of one\n"
    foreign.unlink()
    settings(weights=tmp_path / "missing.onnx")
    assert ended(capsys) == f"fcos: {tmp_path}/missing.onnx: no such file\n"
    settings(model="models:/fcos-digits@nobody")
    remedy = "`fcos register` registers the evaluated detector"
    assert ended(capsys) == f"fcos: models:/fcos-digits@nobody: Registered model alias nobody not found; {remedy}\n"
    # Ctrl-C, while it loads.
    monkeypatch.setattr(mlflow_model, "write", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
    settings(weights=served.project / "trained/detector.safetensors")
    assert ended(capsys, status=128 + signal.SIGTERM) == ""
    assert list(folder.iterdir()) == []


def ended(capsys: pytest.CaptureFixture[str], status: int = 1) -> str:
    with pytest.raises(SystemExit) as exited:
        serving_app.server_app()
    assert exited.value.code == status
    return capsys.readouterr().err


def test_the_reason_of_a_server_that_does_not_start(home: Path, tmp_path: Path) -> None:
    """An application that ends the process says why; without such a line, the log is named, if there is one."""
    port = servers.find_free_port()
    for in_project, code, message in (
        (True, "raise SystemExit(1)", f"Detector: no response at 127.0.0.1:{port}; see {home}/.fcos/detector.log"),
        (False, "import sys; sys.stderr.write('Note\\nfcos: no such model\\n'); sys.exit(1)", "no such model"),
    ):
        if not in_project:
            (home / "dvc.yaml").unlink()
        (tmp_path / "ending.py").write_text(code)
        with (
            pytest.raises(PipelineError, match=f"^{re.escape(message)}$"),
            servers.run_application(
                "Detector", "ending:app", "127.0.0.1", port, environment={"PYTHONPATH": str(tmp_path)}
            ),
        ):
            pass


def test_the_detector_has_the_servers_limit_of_pixels(
    settings: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "weights").mkdir()
    weights = save_tiny_detector(tmp_path / "weights/detector.safetensors")
    written: list[Any] = []

    def write(*_: Path, **config: Any) -> None:
        written.append(config)
        raise PipelineError("stop")

    monkeypatch.setattr(mlflow_model, "write", write)
    monkeypatch.chdir(tmp_path)
    settings(weights=weights)
    assert ended(capsys) == "fcos: stop\n"
    assert written == [{"device": "cpu", "max_megapixels": 50}]
    from mlflow.exceptions import MlflowException

    from pipeline.integrations.served_detector import ServedDetector

    (tmp_path / "postprocess.json").write_text("{}")
    artifacts = {"weights": str(weights), "postprocess": str(tmp_path / "postprocess.json")}
    detector, images = ServedDetector(), {"image": [jpeg()]}
    detector.load_context(mock.Mock(artifacts=artifacts, model_config={"device": "cpu", "max_megapixels": 0.0024}))
    assert len(detector.predict(None, images)) == 1
    detector.load_context(mock.Mock(artifacts=artifacts, model_config={"device": "cpu", "max_megapixels": 0.0023}))
    with pytest.raises(MlflowException, match=r"image 1: 60×40 is 0\.0 megapixels, more than the limit of 0\.0023: "):
        detector.predict(None, images)


def test_other_hosts_get_a_warning(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []

    def serve(**options: Any) -> Any:
        started.append(options)
        raise PipelineError("stop")

    monkeypatch.setattr(serving, "serve", serve)
    warning = "fcos: warning: everyone who reaches 0.0.0.0 can use the detector: it has no password and no encryption\n"
    weights = str(home / "a.safetensors")
    for host, expected in (("0.0.0.0", warning), ("localhost", ""), ("::1", "")):
        result = CliRunner().invoke(main, ["serve", "--weights", weights, "--host", host])
        assert result.output == f"{expected}fcos: stop\n"
    assert [options["host"] for options in started] == ["0.0.0.0", "127.0.0.1", "::1"]
    assert "'example.org' is not an IP address" in CliRunner().invoke(main, ["serve", "--host", "example.org"]).output
    both = CliRunner().invoke(main, ["serve", "--weights", weights, "--alias", "champion"])
    assert (both.exit_code, "exclude each other" in both.output) == (2, True)


@pytest.mark.usefixtures("home")
def test_a_missing_file_and_the_champion_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("alone.safetensors").touch()
    Path("detector.pt2").touch()
    together = "no such file; the weights and their .json file must be in the same folder"
    for weights, problem in (
        ("none.safetensors", f"none.safetensors: {together}"),
        ("alone.safetensors", f"alone.json: {together}"),
        ("none.onnx", "none.onnx: no such file"),
        (
            "detector.pt2",
            "detector.pt2: neither a .safetensors file nor an ONNX file of `fcos export`; give one",
        ),
    ):
        result = CliRunner().invoke(main, ["serve", "--weights", weights])
        assert (result.exit_code, result.output) == (1, f"fcos: {problem}\n")
    asked_for: list[str] = []
    monkeypatch.setattr(
        serving, "serve", lambda *, model, **_: asked_for.append(model) or nullcontext(mock.MagicMock())
    )
    for arguments in ([], ["--alias", "candidate"], ["--model", "models:/other/3"]):
        CliRunner().invoke(main, ["serve", *arguments], catch_exceptions=False)
    assert asked_for == ["models:/fcos-digits@champion", "models:/fcos-digits@candidate", "models:/other/3"]
