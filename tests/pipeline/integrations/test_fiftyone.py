"""The FiftyOne dataset in a real database, and the FiftyOne App in a real browser."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import requests
from click.testing import CliRunner
from PIL import Image as Pillow

from pipeline import params
from pipeline.cli import main
from pipeline.errors import PipelineError
from pipeline.integrations import fiftyone, mongo, servers
from tests.support.listening import loopback_only
from tests.support.paths import PROJECT
from tests.support.process_trees import assert_gone, command_words, descendants

CHROMIUM = Path("/usr/bin/chromium")
SIZES = {
    "false_positives": 1, "missed_objects": 2, "wrong_class": 1, "poor_boxes": 1, "duplicates": 1, "most_errors": 3,
}  # fmt: skip

# Prints what FiftyOne stores about each dataset: the images and labels of every saved view, in order.
DESCRIBE_DATASETS = """
import json, sys, fiftyone as fo
datasets = {}
for name in fo.list_datasets():
    dataset = fo.load_dataset(name)
    views = {}
    for view in dataset.list_saved_views():
        views[view] = [
            [s.filepath, s.errors,
             [[d.label, d.error, d.eval] for d in s.ground_truth.detections],
             [[d.label, d.error, d.eval, round(d.confidence, 3)] for d in s.predictions.detections]]
            for s in dataset.load_saved_view(view)]
    sample = dataset.first()
    datasets[name] = {"views": views, "box": sample.ground_truth.detections[0].bounding_box, "persistent":
        dataset.persistent, "created": str(dataset.created_at), "size": len(dataset), "evaluations":
        dataset.list_evaluations(), "iou": dataset.get_evaluation_info("eval").config.iou}
print(json.dumps(datasets))
"""


def describe_datasets(uri: str) -> Any:
    environment = {**mongo.fiftyone_environment(uri), "PYTHONPATH": ""}
    result = subprocess.run(
        [sys.executable, "-c", DESCRIBE_DATASETS], env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(result.stdout.splitlines()[-1])


def test_views_match_their_names_and_the_dataset_is_created_once(inspected: Any) -> None:
    spec = fiftyone.dataset_spec(params.load())
    with mongo.server() as uri:
        assert fiftyone.refresh(spec) == SIZES
        created = datetime.now(UTC).replace(tzinfo=None)
        assert fiftyone.refresh(spec) == SIZES
        (name, first), *others = describe_datasets(uri).items()
        inspected.write(())
        assert fiftyone.refresh(spec) == dict.fromkeys(SIZES, 0) | {"missed_objects": 3, "most_errors": 3}
    assert (name, others) == ("fcos-digits", [])
    assert datetime.fromisoformat(first["created"]).replace(tzinfo=None) < created  # the second call created no dataset
    assert (first["persistent"], first["size"], first["evaluations"], first["iou"]) == (True, 5, ["eval"], 0.5)
    assert first["box"] == [0.05, 0.1, 0.2, 0.4]
    folder = inspected.root / "data/raw/digits/pictures"
    images = {view: [(Path(path), errors) for path, errors, *_ in rows] for view, rows in first["views"].items()}
    assert images == {
        "False positives": [(folder / "12.png", 2)],
        "Missed objects": [(folder / "13.png", 4), (folder / "12.png", 2)],
        "Wrong class": [(folder / "13.png", 4)],
        "Poor boxes": [(folder / "13.png", 4)],
        "Duplicates": [(folder / "11.png", 1)],
        "Most errors": [(folder / "13.png", 4), (folder / "12.png", 2), (folder / "11.png", 1)],
    }
    views = first["views"]
    assert views["False positives"][0][3] == [["dog", "background", "fp", 0.7]]
    assert views["Wrong class"][0][3] == [["cat", "wrong_class", "fp", 0.6]]
    assert views["Poor boxes"][0][3] == [["cat", "poor_box", "fp", 0.5]]
    assert views["Duplicates"][0][3] == [["cat", "duplicate", "fp", 0.8]]
    assert views["Duplicates"][0][2] == [["cat", "found", "tp"]]
    assert views["Missed objects"][0][2] == [["dog", "missed", "fn"], ["cat", "missed", "fn"]]


def test_an_experiment_has_its_own_dataset_with_images_of_the_main_repository(
    inspected: Any, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone = tmp_path_factory.mktemp("clone")
    files = ("dvc.yaml", "params.yaml", "data/unified/val.json", "predictions/val.json")
    for name in (*files, "predictions/operating_point.json"):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / name).write_text((inspected.root / name).read_text())
    shutil.copytree(inspected.root / "data/raw", clone / "data/raw")
    monkeypatch.setenv("DVC_ROOT", str(inspected.root))
    monkeypatch.setenv("DVC_EXP_NAME", "giou-1")
    monkeypatch.chdir(clone)
    spec = fiftyone.dataset_spec(params.load())
    assert spec.name == "fcos-digits-giou-1"
    assert spec.predictions == str(clone / "predictions/val.json")
    assert spec.images == str(inspected.root / "data/raw/digits")
    # An experiment with other images under the same names gets its own copies.
    image = next(file for file in sorted((clone / "data/raw/digits").rglob("*")) if file.is_file())
    image.write_bytes(image.read_bytes() + b"other")
    copies = Path(fiftyone.dataset_spec(params.load()).images)
    assert copies == inspected.root / ".fcos/images/fcos-digits-giou-1"
    name = image.relative_to(clone / "data/raw/digits")
    shutil.rmtree(clone / "data/raw")
    assert (copies / name).read_bytes().endswith(b"other")


@pytest.mark.usefixtures("inspected")
def test_each_experiment_has_a_dataset_name_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """FiftyOne's own rule would give the first three one name, and the last two none."""
    names = []
    for experiment in ("o'brien", "obrien", "O'Brien", "日本", "日本語", "x" * 200):
        monkeypatch.setenv("DVC_EXP_NAME", experiment)
        names.append(fiftyone.dataset_spec(params.load()).name)
    assert names[:2] == ["fcos-digits-o-brien-c9cecb0d", "fcos-digits-obrien"]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch("[a-z0-9]+(-[a-z0-9]+)*", name) and len(name) < 100 for name in names)


def test_missing_predictions_give_one_line(inspected: Any) -> None:
    (inspected.root / "predictions/val.json").unlink()
    result = CliRunner().invoke(main, ["app", "--port", str(servers.find_free_port())])
    assert result.exit_code == 1
    assert result.stderr == f"fcos: {inspected.root}/predictions/val.json: not there yet; run `dvc repro`\n"


def test_a_broken_input_gives_one_line(inspected: Any) -> None:
    (inspected.root / "data/unified/val.json").write_text("{")
    with pytest.raises(PipelineError, match=r"val\.json: not JSON") as caught:
        fiftyone.refresh(fiftyone.dataset_spec(params.load()))
    assert "\n" not in str(caught.value)


@contextmanager
def run_app(folder: Path, port: int) -> Iterator["subprocess.Popen[str]"]:
    code = f"from pipeline.cli import main; main(['app', '--port', '{port}'])"
    with (
        loopback_only(),
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()


def test_the_app_shows_boxes_in_a_browser_and_stops_on_ctrl_c(inspected: Any) -> None:
    if not CHROMIUM.is_file():
        pytest.skip("chromium is not installed at /usr/bin/chromium")
    port = servers.find_free_port()
    with run_app(inspected.root, port) as process:
        assert process.stdout is not None
        printed = process.stdout.readline()
        page = f"http://127.0.0.1:{port}/datasets/fcos-digits"
        assert re.fullmatch(rf"FiftyOne: {page}\?token=[\w-]{{43}}  \(Ctrl-C stops it\)\n", printed)
        address = printed.split()[1]
        owner = assert_only_the_owner_gets_in(address)
        assert_only_images_of_the_dataset_are_served(owner, f"http://127.0.0.1:{port}/media", inspected.root)
        children = descendants(process.pid)
        listening = {c.laddr for child in children for c in child.net_connections() if c.status == "LISTEN"}
        assert listening == {("127.0.0.1", port)}
        second = CliRunner().invoke(main, ["app", "--port", str(port)])
        assert second.exit_code == 1
        assert second.stderr.startswith(f"fcos: 127.0.0.1:{port}: address already in use")
        pixels = grid_pixels(address)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert "Traceback" not in (process.stderr.read() if process.stderr else "")
    assert mongo.running_uri(inspected.root / ".fcos/mongo") is None
    assert_gone(children, seconds=0)
    for color in ((60, 180, 75), (245, 130, 48)):  # ground_truth and predictions, as the dataset colors them
        assert (np.abs(pixels.astype(int) - color).max(axis=-1) < 30).sum() > 50, color


def test_server_and_database_end_when_fcos_app_is_killed(inspected: Any) -> None:
    with run_app(inspected.root, servers.find_free_port()) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("FiftyOne: http://127.0.0.1:")
        processes = descendants(process.pid)
        assert {"--dbpath", "uvicorn"} < command_words(processes)
        process.kill()
        assert_gone(processes)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL])
def test_all_processes_end_with_the_stage_that_fills_the_dataset(inspected: Any, number: signal.Signals) -> None:
    """While it waits for the process that imports FiftyOne."""
    with subprocess.Popen(
        [sys.executable, "-m", "pipeline.stages.inspect"],
        cwd=inspected.root,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stderr=subprocess.PIPE,
    ) as stage:
        while "pipeline.integrations.fiftyone" not in command_words(descendants(stage.pid)):
            assert stage.poll() is None
            time.sleep(0.05)
        processes = descendants(stage.pid)
        assert "--dbpath" in command_words(processes)
        stage.send_signal(number)
        assert_gone(processes)


def assert_only_the_owner_gets_in(address: str) -> requests.Session:
    """Returns a session with the cookie."""
    page, _, token = address.partition("?token=")
    server = page.removesuffix("/datasets/fcos-digits")
    assert all(token not in argument for process in psutil.process_iter() for argument in arguments(process))
    for path in ("/", "/fiftyone", "/events", "/media?filepath=/etc/hostname", "/datasets/fcos-digits", "/plugins/"):
        assert requests.get(server + path, timeout=10).status_code == 403
    for path, body in (("/graphql", {"query": "{ uid }"}), ("/operators", {}), ("/operators/execute", {})):
        assert requests.post(server + path, json=body, timeout=10).status_code == 403
    owner = requests.Session()
    opened = owner.get(address, timeout=10)
    assert (opened.status_code, opened.url, [item.status_code for item in opened.history]) == (200, page, [303])
    assert owner.get(f"{server}/fiftyone", timeout=10).json()["version"]
    answer = owner.post(f"{server}/graphql", json={"query": "{ doNotTrack }"}, timeout=10)
    assert answer.json()["data"] == {"doNotTrack": True}
    for host in ("attacker.example", "10.attacker.example", "127.0.0.1.attacker.example"):
        assert owner.get(f"{server}/fiftyone", headers={"Host": host}, timeout=10).status_code == 403
    return owner


def arguments(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def assert_only_images_of_the_dataset_are_served(owner: requests.Session, media: str, root: Path) -> None:
    folder = root / "data/raw/digits/pictures"
    picture = folder / "11.png"
    answer = owner.get(media, params={"filepath": str(picture)}, timeout=10)
    assert (answer.status_code, answer.content) == (200, picture.read_bytes())
    assert owner.get(media, timeout=10).status_code == 400
    (folder / "link.png").symlink_to("/etc/hostname")
    for path in (
        "/etc/hostname",
        folder / "link.png",
        f"{folder}/../../../../params.yaml",
        root / "data/unified/val.json",
    ):
        answer = owner.get(media, params={"filepath": str(path)}, timeout=10)
        assert (answer.status_code, answer.text) == (403, "403: not an image of a dataset\n")


def test_which_paths_are_images_of_a_dataset(tmp_path: Path) -> None:
    folder, other = tmp_path / "data/raw/digits", tmp_path / "data/raw/other"
    cache = tmp_path / "cache/files/md5/ab" / ("0" * 30)  # as DVC names it, also outside of the project
    for file in (folder / "a/1.png", other / "2.png", cache):
        file.parent.mkdir(parents=True)
        file.write_bytes(b"image")
    for name, target in {"in": "a/1.png", "cached": cache, "out": other / "2.png", "up": ".."}.items():
        (folder / name).symlink_to(target)
    (tmp_path / "digits").symlink_to(folder)
    served = {"a/1.png", "a/../a/1.png", "in", "cached", "missing.png"}
    refused = {"../other/2.png", "out", "up/other/2.png", "up/../../../etc/passwd", "a/1.png\0", "../digits2/1.png"}
    names = {name for name in served | refused if fiftyone.is_dataset_image(f"{folder}/{name}", [folder])}
    assert names == served
    # The folder itself may be a link; DVC's cache is reached through a data set alone.
    assert fiftyone.is_dataset_image(f"{tmp_path}/digits/a/1.png", [tmp_path / "digits"])
    for path in (str(cache), "a/1.png", "", str(tmp_path)):
        assert not fiftyone.is_dataset_image(path, [folder])
    assert not fiftyone.is_dataset_image(f"{folder}/a/1.png", [])


def grid_pixels(address: str) -> np.ndarray:
    """Opens the App and returns the pixels of its grid once the images are drawn."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        page = browser.new_page(viewport={"width": 1200, "height": 800})
        page.goto(address)
        page.wait_for_selector('[data-cy="looker"] canvas', timeout=60_000)
        page.wait_for_timeout(3000)  # boxes are drawn after their image
        grid = page.locator('[data-cy="looker"]')
        assert grid.count() == 5
        screenshots = [Pillow.open(BytesIO(grid.nth(number).screenshot())).convert("RGB") for number in range(5)]
        browser.close()
    return np.concatenate([np.asarray(screenshot).reshape(-1, 3) for screenshot in screenshots])
